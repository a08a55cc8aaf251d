//! Polls: woken by what is submitted, told again what they never saw.

use std::time::Duration;

use futures_util::FutureExt;
use hostler_model::kind::KindName;
use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Agent, World};

#[tokio::test]
async fn a_waiting_poll_is_woken_by_a_submission() {
    let (world, agent) = World::ready().await;
    let poll = agent.poll(&world, "wait_ms=30000");
    let submit = async {
        // The poll is under way before there is anything to fetch.
        tokio::task::yield_now().await;
        world.echo("x").await
    };
    let (assigned, task) = tokio::join!(poll, submit);
    assert_eq!(assigned[0].sub, task.id);
}

#[tokio::test]
async fn a_poll_gets_no_more_than_it_asked_for() {
    let (world, agent) = World::ready().await;
    for n in 0..5 {
        world.echo(&n.to_string()).await;
    }
    assert_eq!(agent.poll(&world, "max=3&wait_ms=5000").await.len(), 3);
    assert_eq!(agent.poll(&world, "max=3&wait_ms=5000").await.len(), 2);
    assert_eq!(agent.poll(&world, "max=3&wait_ms=0").await, []);
}

#[tokio::test]
async fn what_a_poll_that_broke_off_was_given_is_given_again_under_the_same_fence() {
    let (world, agent) = World::ready().await;
    let path = "tasks/wait?wait_ms=30000&max=4";
    // Begun and dropped: the caller is gone, its poll is not.
    assert!(agent.call(&world, Method::GET, path).send().now_or_never().is_none());
    let task = world.echo("x").await;
    let (lost, found) = tokio::join!(agent.poll(&world, "max=4&wait_ms=100"), async {});
    let () = found;
    let again = agent.poll(&world, "max=4&wait_ms=5000&resync=true").await;
    let (one, held) = (&again[0], format!("{}:{}", task.id, again[0].fence));
    assert_eq!((one.sub, one.fence.attempt, again.len()), (task.id, 1, 1));
    assert!(lost.is_empty() || lost[0].fence == one.fence);
    assert_eq!(agent.poll(&world, &format!("max=4&wait_ms=0&resync=true&held={held}")).await, []);
}

#[tokio::test]
async fn a_poll_ends_when_its_time_is_up() {
    let (world, agent) = World::ready().await;
    let began = std::time::Instant::now();
    assert_eq!(agent.poll(&world, "wait_ms=50").await, []);
    assert!(began.elapsed() >= Duration::from_millis(50) && began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn one_poll_brings_tasks_of_every_class_that_has_free_slots() {
    let (world, agent) = World::ready().await;
    let echo = world.echo("x").await;
    let created = world.post("/api/v1/vms", json!({"name": "web", "image": "tiny"})).send().await;
    assert_eq!(created.status, StatusCode::ACCEPTED, "{}", created.text());
    let kinds =
        |tasks: Vec<hostler_model::internal::Assignment>| tasks.iter().map(|task| task.kind).collect::<Vec<_>>();
    assert_eq!(kinds(agent.poll(&world, "boot=0&disk=2&quick=0&guest=4&wait_ms=0").await), []);
    let both = agent.poll(&world, "boot=4&disk=2&quick=4&guest=4&wait_ms=0").await;
    assert_eq!(both[0].sub, echo.id);
    assert_eq!(kinds(both), [KindName::Echo, KindName::VmCreate]);
}

#[tokio::test]
async fn a_poll_that_is_ended_is_answered_at_once_and_only_by_its_own_enrolment() {
    let (world, former) = World::ready().await;
    let agent = Agent::join(&world, "node-1").await;
    let other = Agent::join(&world, "node-2").await;
    let poll = async {
        let began = std::time::Instant::now();
        assert_eq!(agent.poll(&world, "wait_ms=30000").await, []);
        began.elapsed()
    };
    let end = |who: &Agent| who.call(&world, Method::DELETE, "tasks/wait").send();
    let mut poll = std::pin::pin!(poll);
    assert!(poll.as_mut().now_or_never().is_none());
    for who in [&former, &other] {
        assert_eq!(end(who).await.status, StatusCode::NO_CONTENT);
    }
    assert!(poll.as_mut().now_or_never().is_none());
    let (ended, waited) = tokio::join!(end(&agent), poll);
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    // What is queued meanwhile is for the next one.
    let task = world.echo("x").await;
    assert_eq!(agent.poll(&world, "wait_ms=5000").await[0].sub, task.id);
}

#[tokio::test]
async fn a_waiting_poll_finds_what_nobody_was_woken_for() {
    let (world, agent) = World::ready().await;
    let later = json!({"kind": "echo", "params": {"message": "x"}, "delay_seconds": 60});
    let answer = world.post("/api/v1/tasks", later).send().await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    let pass = async {
        tokio::task::yield_now().await;
        world.pass(Duration::from_secs(61));
    };
    let (assigned, ()) = tokio::join!(agent.poll(&world, "wait_ms=30000"), pass);
    assert_eq!(json!(assigned[0].sub), answer.json()["task"]["id"]);
}
