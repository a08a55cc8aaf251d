//! Events over SSE: in order, without a gap, from where one left off.

use std::time::Duration;

use axum::response::Response;
use futures_util::StreamExt;
use hostler_model::role::Role;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::harness::{World, later};

/// Reads events until there are `n` of them.
async fn read(response: Response, n: usize) -> Vec<(i64, String, Value)> {
    assert_eq!(response.status(), StatusCode::OK);
    let mut pieces = response.into_body().into_data_stream();
    let mut text = String::new();
    loop {
        let events: Vec<_> = text.split("\n\n").filter(|block| block.contains("data:")).map(event).collect();
        if events.len() >= n && text.ends_with("\n\n") {
            return events;
        }
        let piece = pieces.next().await.expect("the stream ended").unwrap();
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
}

fn event(block: &str) -> (i64, String, Value) {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    (field("id:").parse().unwrap(), field("event:"), serde_json::from_str(&field("data:")).unwrap())
}

#[tokio::test]
async fn a_follower_sees_what_happens_after_it_came() {
    let (world, _agent) = World::ready().await;
    let response = world.get("/api/v1/events").stream().await;
    let task = world.echo("x").await;
    let events = read(response, 1).await;
    assert_eq!((events[0].1.as_str(), &events[0].2["subject"]), ("task.queued", &json!(task.id)));
}

#[tokio::test]
async fn a_follower_that_comes_back_misses_nothing_and_gets_nothing_twice() {
    let (world, _agent) = World::ready().await;
    for n in 0..20 {
        world.echo(&n.to_string()).await;
    }
    let all = read(world.get("/api/v1/events?after=0").stream().await, 20).await;
    let half = all[all.len() / 2].0;
    world.echo("later").await;
    let last = half.to_string();
    let rest = read(
        world.get("/api/v1/events?after=0").header("last-event-id", &last).stream().await,
        all.len() - all.len() / 2,
    )
    .await;
    let numbers: Vec<i64> = rest.iter().map(|event| event.0).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(numbers[0] > half);
    let expected: Vec<i64> = all.iter().map(|event| event.0).filter(|seq| *seq > half).collect();
    assert_eq!(numbers[..expected.len()], expected);
}

#[tokio::test]
async fn a_follower_may_ask_for_one_thing_only() {
    let (world, _agent) = World::ready().await;
    world.echo("one").await;
    let two = world.echo("two").await;
    let events = read(world.get(&format!("/api/v1/events?after=0&subject={}", two.id)).stream().await, 1).await;
    assert!(events.iter().all(|event| event.2["subject"] == json!(two.id)));
}

#[tokio::test]
async fn another_tenant_sees_none_of_it_and_the_stream_ends_with_the_server() {
    let (world, _agent) = World::ready().await;
    // Its own making, it sees.
    let head = world.store.log_head().await.unwrap();
    let response = world.get(&format!("/api/v1/events?after={head}")).bearer(&world.foreign).stream().await;
    world.echo("x").await;
    world.server.close();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(!String::from_utf8_lossy(&body).contains("data:"));
}

/// A token of an operator's that is good for a minute: itself, and its id.
async fn minute(world: &World) -> (String, String) {
    let body = json!({"label": "a minute", "expires_in_seconds": 60});
    let made = world.post("/api/v1/tokens", body).bearer(world.token(Role::Operator)).send().await.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made["token"]), text(&made["about"]["id"]))
}

/// Everything that is still to come, which must end soon.
async fn rest(stream: Response) -> String {
    let body = tokio::time::timeout(Duration::from_secs(20), stream.into_body().collect()).await;
    String::from_utf8(body.expect("the stream goes on").unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_stream_ends_with_the_credential_by_which_it_was_begun() {
    let (world, _agent) = World::ready().await;
    let task = world.echo("x").await;
    for path in ["/api/v1/events".to_owned(), format!("/api/v1/tasks/{}/log", task.id)] {
        let follow =
            async |token: &str| world.get(&path).bearer(token).header("accept", "text/event-stream").stream().await;
        // Revoked on this server: at once, and long before it would be looked up again.
        let (token, id) = minute(&world).await;
        let stream = follow(&token).await;
        let begun = std::time::Instant::now();
        let by_us = world.call(Method::DELETE, &format!("/api/v1/tokens/{id}")).send();
        tokio::join!(rest(stream), by_us);
        // Revoked by another server, of which this one hears.
        let (token, id) = minute(&world).await;
        let stream = follow(&token).await;
        let actor = hostler_model::event::Actor::system();
        world.store.revoke_token(id.parse().unwrap(), hostler_store::Revoke::One, actor).await.unwrap().unwrap();
        rest(stream).await;
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        // Its time is up, which nobody says.
        let (token, _) = minute(&world).await;
        let stream = follow(&token).await;
        world.pass(Duration::from_secs(60));
        let (_, ()) = tokio::join!(rest(stream), later(Duration::from_secs(5)));
        assert_eq!(follow(&token).await.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn the_audit_says_who_did_what_page_by_page() {
    let (world, _agent) = World::ready().await;
    for _ in 0..3 {
        world.echo("x").await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/api/v1/audit?limit=2{cursor}")).send().await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|entry| entry["seq"].as_i64().unwrap()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(seen.len() >= 3 && seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
}

#[tokio::test]
async fn a_stream_says_where_it_starts_so_that_one_broken_before_its_first_event_has_no_gap() {
    let (world, _agent) = World::ready().await;
    let broken = world.get("/api/v1/events").stream().await;
    let starts = broken.headers()["x-hostler-seq"].to_str().unwrap().to_owned();
    drop(broken);
    let task = world.echo("in the gap").await;
    let events = read(world.get("/api/v1/events").header("last-event-id", &starts).stream().await, 1).await;
    assert_eq!(events[0].2["subject"], json!(task.id));
}
