//! Snapshots: taken, listed, restored and deleted through the routes of people, with an agent driven by hand.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, World, stranger};

/// A running machine named `web`; its id.
pub async fn running(world: &World, agent: &Agent) -> String {
    let made = world.post("/api/v1/vms", json!({"name": "web"})).send().await;
    let charge = json!({"vcpus": 1, "memory_mib": 128, "disk_gib": 1, "vms": 1});
    let one = agent.poll(world, "wait_ms=5000").await.remove(0);
    agent.finish(world, &one, json!({"charge": charge, "boot_ms": 5.0, "acceleration": "simulated"})).await;
    made.json()["vm"]["id"].as_str().unwrap().to_owned()
}

async fn take(world: &World, body: Value) -> Answer {
    world.post("/api/v1/vms/web/snapshots", body).send().await
}

/// A snapshot named `one` with memory, that is ready; its id.
pub async fn ready(world: &World, agent: &Agent) -> String {
    let taken = take(world, json!({"name": "one", "memory": true})).await;
    assert_eq!(taken.status, StatusCode::ACCEPTED, "{}", taken.text());
    let one = agent.poll(world, "wait_ms=5000").await.remove(0);
    agent.finish(world, &one, json!({"disk_bytes": 1000, "memory_bytes": 2000, "paused_ms": 1.5})).await;
    taken.json()["snapshot"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_is_taken_shown_listed_restored_and_deleted() {
    let (world, agent) = World::ready().await;
    let vm = running(&world, &agent).await;
    let taken = take(&world, json!({"name": "one", "memory": true})).await;
    let body = taken.json();
    assert_eq!(taken.header("location"), format!("/api/v1/tasks/{}", body["task"]["id"].as_str().unwrap()));
    assert_eq!((&body["snapshot"]["state"], &body["snapshot"]["vm"]), (&json!("creating"), &json!(vm)));
    let id = body["snapshot"]["id"].as_str().unwrap();
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    assert_eq!(one.params, json!({"name": "one", "memory": true, "snapshot": id}));
    agent.finish(&world, &one, json!({"disk_bytes": 1000, "memory_bytes": 2000, "paused_ms": 1.5})).await;

    let shown = world.get(&format!("/api/v1/snapshots/{id}")).send().await.json();
    assert_eq!((&shown["state"], &shown["name"], &shown["memory"]), (&json!("ready"), &json!("one"), &json!(true)));
    assert_eq!(shown["written"], json!({"disk_bytes": 1000, "memory_bytes": 2000}));
    for path in ["/api/v1/snapshots", "/api/v1/vms/web/snapshots", "/api/v1/snapshots?state=ready&limit=1"] {
        assert_eq!(world.get(path).send().await.json()["items"], json!([shown]), "{path}");
    }
    assert_eq!(world.get("/api/v1/snapshots?state=error").send().await.json()["items"], json!([]));
    let quota = world.get("/api/v1/quota").send().await.json();
    assert_eq!(quota["book"]["used"]["disk_gib"], 2);

    // By its name, by its id.
    for snapshot in ["one", id] {
        let restore = world.post("/api/v1/vms/web/restore", json!({"snapshot": snapshot})).send().await;
        assert_eq!(restore.status, StatusCode::ACCEPTED, "{}", restore.text());
        let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
        assert_eq!(one.params, json!({"snapshot": id}));
        agent.finish(&world, &one, json!({"memory": true, "down_ms": 5.0, "clock_set": true})).await;
    }
    let deletion = world.call(Method::DELETE, &format!("/api/v1/snapshots/{id}")).send().await;
    assert_eq!(deletion.status, StatusCode::ACCEPTED, "{}", deletion.text());
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    assert_eq!((one.params.clone(), one.target.vm.unwrap().to_string()), (json!({"snapshot": id}), vm));
    agent.finish(&world, &one, json!({"existed": true, "layer_kept": false})).await;
    assert_eq!(world.get(&format!("/api/v1/snapshots/{id}")).send().await.json()["state"], "deleted");
    let again = world.call(Method::DELETE, &format!("/api/v1/snapshots/{id}")).send().await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (404, "SNAPSHOT_NOT_FOUND"));
    let quota = world.get("/api/v1/quota").send().await.json();
    assert_eq!(quota["book"]["used"]["disk_gib"], 1);
    let doctor = world.get("/api/v1/doctor").send().await.json();
    assert!(doctor["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true), "{doctor}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    let id = ready(&world, &agent).await;
    let before = world.marks().await;
    let (snapshots, restore, tasks) = ("/api/v1/vms/web/snapshots", "/api/v1/vms/web/restore", "/api/v1/tasks");
    let target = json!({"vm": "web"});
    let cases = [
        (snapshots, json!({"name": "one"}), 409, "NAME_TAKEN", "one"),
        (snapshots, json!({"name": "../x"}), 400, "VALIDATION_ERROR", "name"),
        (snapshots, json!({"memory": "yes"}), 400, "VALIDATION_ERROR", "memory"),
        (snapshots, json!({"mem": true}), 400, "VALIDATION_ERROR", "mem"),
        (snapshots, json!({"snapshot": id}), 400, "VALIDATION_ERROR", "snapshot"),
        (snapshots, json!([]), 400, "VALIDATION_ERROR", ""),
        ("/api/v1/vms/no-such/snapshots", json!({}), 404, "VM_NOT_FOUND", "no-such"),
        (restore, json!({}), 400, "VALIDATION_ERROR", "snapshot"),
        (restore, json!({"snapshot": ""}), 400, "VALIDATION_ERROR", "snapshot"),
        (restore, json!({"snapshot": 5}), 400, "VALIDATION_ERROR", "snapshot"),
        (restore, json!({"snapshot": "two"}), 404, "SNAPSHOT_NOT_FOUND", "two"),
        (restore, json!({"snapshot": "../two"}), 404, "SNAPSHOT_NOT_FOUND", "../two"),
        (
            tasks,
            json!({"kind": "snapshot.delete", "params": {"snapshot": "one"}}),
            400,
            "VALIDATION_ERROR",
            "target.vm",
        ),
        (tasks, json!({"kind": "snapshot.delete", "target": target}), 400, "VALIDATION_ERROR", "snapshot"),
        (
            tasks,
            json!({"kind": "vm.restore", "target": target, "params": {"snapshot": "x"}}),
            404,
            "SNAPSHOT_NOT_FOUND",
            "x",
        ),
    ];
    for (path, body, status, code, word) in cases {
        let answer = world.post(path, body.clone()).send().await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{body} {}", answer.text());
        assert!(answer.text().contains(word), "{body} {}", answer.text());
    }
    for path in ["/api/v1/snapshots/one", "/api/v1/snapshots/01900000-0000-7000-8000-000000000042"] {
        assert_eq!(world.get(path).send().await.code(), "SNAPSHOT_NOT_FOUND", "{path}");
        assert_eq!(world.call(Method::DELETE, path).send().await.code(), "SNAPSHOT_NOT_FOUND", "{path}");
    }
    for path in ["/api/v1/snapshots?state=lost", "/api/v1/snapshots?vm=web", "/api/v1/snapshots?limit=0"] {
        assert_eq!(world.get(path).send().await.code(), "VALIDATION_ERROR", "{path}");
    }
    let dry = world.post(&format!("{snapshots}?dry_run=true"), json!({"name": "two"})).send().await;
    assert_eq!((dry.status, &dry.json()["snapshot"]["name"]), (StatusCode::OK, &json!("two")));
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn a_stranger_sees_none_of_them() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    let id = ready(&world, &agent).await;
    let path = format!("/api/v1/snapshots/{id}");
    assert_ne!(stranger(), hostler_model::TenantId::DEFAULT);
    assert_eq!(world.get(&path).bearer(&world.foreign).send().await.code(), "SNAPSHOT_NOT_FOUND");
    assert_eq!(world.call(Method::DELETE, &path).bearer(&world.foreign).send().await.code(), "SNAPSHOT_NOT_FOUND");
    let listed = world.get("/api/v1/snapshots").bearer(&world.foreign).send().await.json();
    assert_eq!(listed["items"], json!([]));
}

#[tokio::test]
async fn a_retry_makes_another_one_of_the_same_name() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    let taken = take(&world, json!({"name": "one"})).await.json();
    let task = taken["task"]["id"].as_str().unwrap();
    world.post(&format!("/api/v1/tasks/{task}/cancel"), json!({})).send().await;
    let again = world.post(&format!("/api/v1/tasks/{task}/retry"), json!({})).send().await;
    assert_eq!(again.status, StatusCode::ACCEPTED, "{}", again.text());
    let again = again.json();
    assert_eq!(again["snapshot"]["name"], "one");
    assert_ne!(again["snapshot"]["id"], taken["snapshot"]["id"]);
}
