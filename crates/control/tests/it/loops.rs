//! Loops: what time does to tasks and nodes, without anybody asking.

use std::time::Duration;

use hostler_model::{
    TaskId,
    node::Freshness,
    task::{Task, TaskState},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::World;

/// Runs the loops until a task's end.
async fn run_until_end(world: &World, task: TaskId) -> Option<Task> {
    let shutdown = CancellationToken::new();
    let end = async {
        let ended = world.server.app().ended(task, Duration::from_secs(20)).await.unwrap();
        shutdown.cancel();
        ended
    };
    tokio::join!(world.server.run_loops(shutdown.clone()), end).1
}

#[tokio::test]
async fn a_task_that_nobody_takes_in_time_fails() {
    let (world, _agent) = World::ready().await;
    let task = world.echo("x").await;
    world.pass(Duration::from_secs(16 * 60));
    let ended = run_until_end(&world, task.id).await.unwrap();
    assert_eq!(ended.state, TaskState::Failed);
    assert_eq!(ended.error.unwrap().code.as_str(), "DEADLINE_EXCEEDED");
    assert!(world.get("/metrics").send().await.text().contains("hostler_loop_changes_total{name=\"expire_queued\"} 1"));
}

#[tokio::test]
async fn a_silent_node_gets_nothing_new() {
    let (world, agent) = World::ready().await;
    world.pass(Duration::from_secs(90));
    let shutdown = CancellationToken::new();
    let stale = async {
        while world.store.node(agent.identity.node).await.unwrap().unwrap().freshness == Freshness::Fresh {}
        shutdown.cancel();
    };
    tokio::time::timeout(Duration::from_secs(20), async {
        tokio::join!(world.server.run_loops(shutdown.clone()), stale)
    })
    .await
    .expect("the node is judged");
    let answer = world.post("/api/v1/vms", json!({})).send().await;
    assert_eq!(answer.code(), "NO_CAPACITY");
    assert!(answer.text().contains("stale"), "{}", answer.text());
}

#[tokio::test]
async fn what_ended_long_ago_is_removed_and_whoever_asks_for_it_is_told() {
    let (world, agent) = World::ready().await;
    let tasks = [world.echo("one").await, world.echo("two").await];
    while world.store.task(tasks[1].id).await.unwrap().unwrap().state != TaskState::Succeeded {
        for one in agent.poll(&world, "wait_ms=5000").await {
            agent.finish(&world, &one, json!({"message": "x"})).await;
        }
    }
    let page = world.get("/api/v1/tasks?limit=1").send().await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    world.pass(Duration::from_secs(31 * 24 * 60 * 60));
    let shutdown = CancellationToken::new();
    let gone = async {
        while world.store.task(tasks[1].id).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
    };
    tokio::time::timeout(Duration::from_secs(20), async {
        tokio::join!(world.server.run_loops(shutdown.clone()), gone)
    })
    .await
    .expect("what ended is removed");
    let answer = world.get(&format!("/api/v1/tasks/{}", tasks[0].id)).send().await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "TASK_NOT_FOUND"));
    assert!(answer.text().contains("ended longer ago than 30 days"), "{}", answer.text());
    let next = world.get(&format!("/api/v1/tasks?limit=1&cursor={cursor}")).send().await;
    assert_eq!((next.status.as_u16(), next.json()["items"].as_array().unwrap().len()), (200, 0));
    assert!(world.get("/metrics").send().await.text().contains("hostler_history_removed_total{noun=\"tasks\"} 2"));
}
