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
