//! Dead letters and batches over the API.

use hostler_model::task::Task;
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Agent, World};

/// An echo whose only attempt failed, though another might have helped.
async fn given_up(world: &World, agent: &Agent, message: &str) -> String {
    let body = json!({"kind": "echo", "params": {"message": message}, "retry": {"attempts": 1}});
    let made = world.post("/api/v1/tasks", body).send().await.json();
    let one = agent.poll(world, "wait_ms=5000").await.remove(0);
    let end =
        json!({"result": "failed", "code": "HANDLER_FAILED", "detail": "no", "retryable": true, "effects": "undone"});
    assert_eq!(agent.report(world, &one, end).await.status, StatusCode::OK);
    made["task"]["id"].as_str().unwrap().to_owned()
}

async fn dead(world: &World, query: &str) -> Vec<String> {
    let page = world.get(&format!("/api/v1/tasks/dead{query}")).send().await.json();
    page["items"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_done_again_and_let_be() {
    let (world, agent) = World::ready().await;
    let one = given_up(&world, &agent, "one").await;
    let two = given_up(&world, &agent, "two").await;
    let three = given_up(&world, &agent, "three").await;
    assert_eq!(dead(&world, "").await, [three.clone(), two.clone(), one.clone()]);
    assert_eq!(dead(&world, "?limit=1&kind=echo&code=HANDLER_FAILED").await, std::slice::from_ref(&three));
    assert!(dead(&world, "?code=DEADLINE_EXCEEDED").await.is_empty());
    let retried = world.post("/api/v1/tasks/dead/retry", json!({"tasks": [one, one]})).send().await.json();
    let answers = retried["answers"].as_array().unwrap();
    assert_eq!((&answers[0]["status"], &answers[0]["task"]["retry_of"]), (&json!(202), &json!(one)));
    assert_eq!(answers[0]["task"]["max_attempts"], 1, "what was asked for the first time is asked for again");
    assert_eq!(answers[1]["problem"]["code"], "TASK_STATE_CONFLICT");
    assert_eq!(answers[1]["problem"]["retry"], answers[0]["task"]["id"], "whoever comes second is told who did it");
    let purged = world.post("/api/v1/tasks/dead/purge", json!({"kind": "echo"})).send().await.json();
    assert_eq!(purged["answers"].as_array().unwrap().len(), 2);
    assert!(dead(&world, "").await.is_empty());
    let kept: Task = world.get(&format!("/api/v1/tasks/{two}")).send().await.of();
    assert_eq!(serde_json::to_value(kept.dead_letter).unwrap(), "purged");
    let audit = world.get("/api/v1/audit?limit=500").send().await.text();
    assert_eq!(audit.matches("task.purge").count(), 2);
}

#[tokio::test]
async fn nobody_decides_about_all_letters_by_saying_nothing_or_about_another_tenants() {
    let (world, agent) = World::ready().await;
    let one = given_up(&world, &agent, "one").await;
    let all = json!({"all": true, "kind": "echo"});
    for body in [json!({}), json!({"all": false}), all, json!({"tasks": [one], "kind": "echo"}), json!({"any": 1})] {
        let answer = world.post("/api/v1/tasks/dead/purge", body.clone()).send().await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "VALIDATION_ERROR"), "{body}");
    }
    let foreign = world.get("/api/v1/tasks/dead").bearer(&world.foreign).send().await.json();
    assert_eq!(foreign["items"], json!([]));
    assert_eq!(dead(&world, "").await, [one]);
}

#[tokio::test]
async fn a_batch_is_answered_in_its_order_and_one_refusal_spoils_nothing() {
    let (world, _agent) = World::ready().await;
    let batch = json!({"tasks": [
        {"kind": "echo", "params": {"message": "one"}, "priority": 7},
        {"kind": "explode"},
        {"kind": "echo", "params": {"mesage": "typo"}},
        {"kind": "vm.delete", "target": {"vm": "no-such"}},
        {"kind": "echo", "params": {"message": "two"}, "delay_seconds": 60},
        {"kind": "vm.create", "params": {"name": "web"}},
        {"kind": "vm.create", "params": {"name": "web"}},
    ]});
    let send = async |body: &Value| {
        world.post("/api/v1/tasks/batch", body.clone()).header("idempotency-key", "k1").send().await
    };
    let answer = send(&batch).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let first = answer.json();
    let statuses: Vec<u64> =
        first["answers"].as_array().unwrap().iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [202, 400, 400, 404, 202, 202, 409]);
    assert_eq!(first["answers"][0]["task"]["priority"], 7);
    assert_eq!(first["answers"][4]["task"]["waiting_for"], "time");
    assert_eq!(first["answers"][5]["vm"]["name"], "web");
    assert_eq!(first["answers"][1]["problem"]["code"], "UNKNOWN_ACTION");
    let again = send(&batch).await.json();
    for n in [0, 4, 5] {
        assert_eq!(again["answers"][n]["task"]["id"], first["answers"][n]["task"]["id"]);
    }
    let other = send(&json!({"tasks": [{"kind": "echo"}]})).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (422, "IDEMPOTENCY_MISMATCH"));
}

#[tokio::test]
async fn a_batch_of_none_or_too_many_is_refused_and_a_thousand_are_taken() {
    let (world, _agent) = World::ready().await;
    let many = |n: usize| json!({"tasks": vec![json!({"kind": "echo"}); n]});
    for body in [many(0), many(1001), json!({}), json!({"tasks": {}}), json!({"tasks": [], "x": 1})] {
        let answer = world.post("/api/v1/tasks/batch", body).send().await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "VALIDATION_ERROR"));
    }
    let answer = world.post("/api/v1/tasks/batch", many(1000)).send().await.json();
    let answers = answer["answers"].as_array().unwrap();
    assert_eq!(answers.iter().filter(|answer| answer["status"] == 202).count(), 1000);
    let dry = world.post("/api/v1/tasks/batch?dry_run=true", many(2)).send().await.json();
    assert_eq!(dry["answers"][1]["status"], 200);
}
