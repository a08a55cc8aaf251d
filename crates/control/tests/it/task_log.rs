//! The logs of tasks over the API.

use std::time::Duration;

use hostler_model::{Timestamp, task_log::TaskLog};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Agent, World};

async fn say(world: &World, agent: &Agent, one: &hostler_model::internal::Assignment, text: &str, n: i64) {
    let at = Timestamp::from_micros(world.clock.now().as_micros() + n);
    let progress = json!({"fence": one.fence, "started_at": world.clock.now(), "progress": {"phase": "work"},
        "log": [{"at": at, "text": text}]});
    let path = format!("tasks/{}/progress", one.sub);
    let answer = agent.call(world, Method::POST, &path).json(&progress).send().await;
    assert!(answer.status.is_success(), "{}", answer.text());
}

fn texts(log: &TaskLog) -> Vec<&str> {
    log.lines.iter().map(|line| line.text.as_str()).collect()
}

#[tokio::test]
async fn a_log_is_read_in_pieces_until_its_task_has_ended() {
    let (world, agent) = World::ready().await;
    let task = world.echo("x").await;
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let path = format!("/api/v1/tasks/{}/log", task.id);
    let log: TaskLog = world.get(&path).send().await.of();
    assert_eq!((log.lines.len(), log.next, log.ended), (0, 0, false));
    say(&world, &agent, &one, "first", 1).await;
    say(&world, &agent, &one, "second", 2).await;
    let log: TaskLog = world.get(&format!("{path}?limit=2")).send().await.of();
    assert_eq!((texts(&log), log.next, log.ended), (vec!["attempt 1 of 3", "first"], 2, false));
    agent.finish(&world, &one, json!({"message": "x"})).await;
    let log: TaskLog = world.get(&format!("{path}?after=2")).send().await.of();
    assert_eq!((texts(&log), log.next, log.ended), (vec!["second"], 3, true));
    let log: TaskLog = world.get(&format!("{path}?after=3&wait=60")).send().await.of();
    assert_eq!((texts(&log), log.next, log.ended), (vec![], 3, true));
}

#[tokio::test]
async fn who_waits_gets_a_line_as_soon_as_it_is_there_and_the_end_too() {
    let (world, agent) = World::ready().await;
    let task = world.echo("x").await;
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let path = format!("/api/v1/tasks/{}/log?wait=60", task.id);
    let begun = std::time::Instant::now();
    let (log, ()) = tokio::join!(world.get(&path).send(), async {
        tokio::task::yield_now().await;
        say(&world, &agent, &one, "now", 1).await;
    });
    assert_eq!(texts(&log.of::<TaskLog>()), ["attempt 1 of 3", "now"]);
    let path = format!("{path}&after=2");
    let (log, _) = tokio::join!(world.get(&path).send(), async {
        tokio::task::yield_now().await;
        agent.finish(&world, &one, json!({"message": "x"})).await
    });
    assert!(log.of::<TaskLog>().ended);
    assert!(begun.elapsed() < Duration::from_secs(50), "nobody waits for the time to be up");
}

#[tokio::test]
async fn a_question_that_makes_no_sense_and_a_task_of_another_are_refused() {
    let (world, _agent) = World::ready().await;
    let task = world.echo("x").await;
    let path = format!("/api/v1/tasks/{}/log", task.id);
    for query in ["after=-1", "after=x", "limit=0", "limit=1001", "wait=61", "wait=-1", "follow=true"] {
        let answer = world.get(&format!("{path}?{query}")).send().await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "VALIDATION_ERROR"), "{query}");
    }
    let foreign = world.get(&path).bearer(&world.foreign).send().await;
    assert_eq!((foreign.status.as_u16(), foreign.code().as_str()), (404, "TASK_NOT_FOUND"));
    let answer: Value = world.get("/api/v1/tasks/nothing/log").send().await.json();
    assert_eq!(answer["code"], "TASK_NOT_FOUND");
}

/// The events of a stream up to its end: name, id, data.
async fn streamed(response: axum::response::Response) -> Vec<(String, String, Value)> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let field = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    let events = text.split("\n\n").filter(|event| event.contains("data:"));
    events
        .map(|event| (field(event, "event"), field(event, "id"), serde_json::from_str(&field(event, "data")).unwrap()))
        .collect()
}

#[tokio::test]
async fn a_log_is_followed_as_a_stream_that_goes_on_where_it_broke_and_ends_with_the_task() {
    let (world, agent) = World::ready().await;
    let task = world.echo("x").await;
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let path = format!("/api/v1/tasks/{}/log", task.id);
    let stream = || world.get(&path).header("accept", "application/json;q=0.1, text/event-stream");
    say(&world, &agent, &one, "first", 1).await;
    let response = stream().stream().await;
    let (events, ()) = tokio::join!(streamed(response), async {
        say(&world, &agent, &one, "second", 2).await;
        agent.finish(&world, &one, json!({"message": "x"})).await;
    });
    let told: Vec<(&str, &str)> = events.iter().map(|(name, id, _)| (name.as_str(), id.as_str())).collect();
    assert_eq!(told, [("line", "1"), ("line", "2"), ("line", "3"), ("end", "")]);
    assert_eq!((&events[2].2["text"], &events[3].2), (&json!("second"), &json!({"state": "succeeded"})));
    let rest = streamed(stream().header("last-event-id", "2").stream().await).await;
    assert_eq!(rest.iter().map(|event| event.1.as_str()).collect::<Vec<_>>(), ["3", ""]);
    for (query, id) in [("?limit=5", "0"), ("?wait=5", "0"), ("?after=-1", ""), ("", "-3"), ("", "x")] {
        let call = world.get(&format!("{path}{query}")).header("accept", "text/event-stream");
        let answer = if id.is_empty() { call } else { call.header("last-event-id", id) }.send().await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "VALIDATION_ERROR"), "{query} {id}");
    }
    let foreign = stream().bearer(&world.foreign).send().await;
    assert_eq!(foreign.code(), "TASK_NOT_FOUND");
}
