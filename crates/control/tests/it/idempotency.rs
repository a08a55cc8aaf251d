//! Repeats, dry runs, and waiting for the end.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::World;

#[tokio::test]
async fn a_repeat_under_a_key_gets_the_first_answer() {
    let (world, agent) = World::ready().await;
    let body = json!({"name": "web"});
    let send = |body| world.post("/api/v1/vms", body).header("idempotency-key", "k-1").send();
    let first = send(body.clone()).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (StatusCode::ACCEPTED, ""));
    let before = world.marks().await;
    agent.poll(&world, "wait_ms=5000").await;
    let again = send(body).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (StatusCode::ACCEPTED, "true"));
    assert_eq!(again.bytes, first.bytes);
    assert_eq!(again.header("location"), first.header("location"));
    let other = send(json!({"name": "other"})).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (422, "IDEMPOTENCY_MISMATCH"));
    let after = world.marks().await;
    assert_eq!((after.0, after.1), (before.0, before.1));
}

#[tokio::test]
async fn a_deletion_is_repeated_after_the_machine_is_gone() {
    let (world, agent) = World::ready().await;
    world.post("/api/v1/vms", json!({"name": "web"})).send().await;
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let charge = json!({"vcpus": 1, "memory_mib": 128, "disk_gib": 1, "vms": 1});
    agent.finish(&world, &one, json!({"charge": charge, "boot_ms": 5.0, "acceleration": "simulated"})).await;
    let delete =
        |key: &'static str| world.call(Method::DELETE, "/api/v1/vms/web").header("idempotency-key", key).send();
    let first = delete("k-1").await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    agent.finish(&world, &one, json!({"existed": true})).await;
    let again = delete("k-1").await;
    assert_eq!((again.text(), again.header("idempotency-replayed")), (first.text(), "true"));
    assert_eq!(delete("k-2").await.code(), "VM_NOT_FOUND");
}

#[tokio::test]
async fn a_dry_run_answers_the_same_and_writes_nothing() {
    let (world, _agent) = World::ready().await;
    let before = world.marks().await;
    let answer = world.post("/api/v1/vms?dry_run=true", json!({"name": "web"})).send().await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["vm"]["name"], "web");
    assert_eq!(world.marks().await, before);
    assert_eq!(world.get("/api/v1/vms/web").send().await.code(), "VM_NOT_FOUND");
}

#[tokio::test]
async fn whoever_waits_gets_the_end() {
    let (world, agent) = World::ready().await;
    let submit = world.post("/api/v1/tasks", json!({"kind": "echo", "params": {"message": "hi"}}));
    let work = async {
        let one = agent.poll(&world, "wait_ms=20000").await.remove(0);
        agent.finish(&world, &one, json!({"message": "hi"})).await
    };
    let began = std::time::Instant::now();
    let (answer, _) = tokio::join!(submit.header("prefer", "wait=20").send(), work);
    assert_eq!((answer.status, answer.header("preference-applied")), (StatusCode::OK, "wait=20"));
    assert_eq!(answer.json()["task"]["state"], "succeeded");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn whoever_waited_in_vain_gets_the_task_as_it_was_accepted() {
    let (world, _agent) = World::ready().await;
    let submit = world.post("/api/v1/tasks", json!({"kind": "echo"})).header("prefer", "wait=0");
    let answer = submit.send().await;
    assert_eq!((answer.status, answer.header("preference-applied")), (StatusCode::ACCEPTED, "wait=0"));
}

#[tokio::test]
async fn a_server_that_goes_away_answers_who_waits() {
    let (world, agent) = World::ready().await;
    let submit = world.post("/api/v1/tasks", json!({"kind": "diag.health_probe"})).header("prefer", "wait=60").send();
    let other = crate::harness::Agent::join(&world, "idle").await;
    let close = async {
        while agent.poll(&world, "wait_ms=1000").await.is_empty() && other.poll(&world, "wait_ms=1000").await.is_empty()
        {
        }
        world.server.close();
    };
    let (answer, ()) = tokio::join!(submit, close);
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(agent.poll(&world, "wait_ms=60000").await, []);
    assert_eq!(world.get("/readyz").send().await.code(), "UNAVAILABLE");
}
