//! The power of machines over the routes of people, with an agent driven by hand.

use std::time::Duration;

use hostler_model::{kind::KindName, role::Role, vm::Vm};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Agent, World};

const CHARGE: &str = r#"{"vcpus": 1, "memory_mib": 128, "disk_gib": 1, "vms": 1}"#;

async fn running(world: &World, agent: &Agent, body: Value) -> Vm {
    let made = world.post("/api/v1/vms", body).send().await;
    assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.text());
    let one = agent.poll(world, "wait_ms=5000").await.remove(0);
    let charge: Value = serde_json::from_str(CHARGE).unwrap();
    agent.finish(world, &one, json!({"charge": charge, "boot_ms": 5.0, "acceleration": "simulated"})).await;
    serde_json::from_value(made.json()["vm"].clone()).unwrap()
}

async fn vm(world: &World, name: &str) -> Vm {
    world.get(&format!("/api/v1/vms/{name}")).send().await.of()
}

#[tokio::test]
async fn each_verb_is_a_task_of_its_kind_with_its_parameters_filled_in() {
    let (world, agent) = World::ready().await;
    running(&world, &agent, json!({"name": "web"})).await;
    for (verb, body, kind, params, output, state) in [
        ("pause", json!({}), KindName::VmPause, json!({}), json!({"already": false}), "paused"),
        ("resume", json!({}), KindName::VmResume, json!({}), json!({"already": false, "ready": true}), "running"),
        (
            "reboot",
            json!({"hard": true}),
            KindName::VmReboot,
            json!({"hard": true, "timeout_seconds": 60}),
            json!({"how": "hard", "boot_ms": 1.0}),
            "running",
        ),
        ("stop", json!({}), KindName::VmStop, json!({"timeout_seconds": 60}), json!({"how": "graceful"}), "stopped"),
        (
            "start",
            json!({"ready_timeout_seconds": 9}),
            KindName::VmStart,
            json!({"ready_timeout_seconds": 9}),
            json!({"how": "started", "boot_ms": 1.0}),
            "running",
        ),
    ] {
        let asked = world.post(&format!("/api/v1/vms/web/{verb}"), body).send().await;
        assert_eq!(asked.status, StatusCode::ACCEPTED, "{verb}: {}", asked.text());
        assert!(asked.header("location").starts_with("/api/v1/tasks/"));
        let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
        assert_eq!((one.kind, &one.params), (kind, &params));
        agent.finish(&world, &one, output).await;
        assert_eq!(vm(&world, "web").await.state.as_str(), state);
    }
    let quota = world.get("/api/v1/quota").send().await.json();
    assert_eq!(quota["book"]["used"]["vms"], 1);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_a_reason() {
    let (world, agent) = World::ready().await;
    running(&world, &agent, json!({"name": "web"})).await;
    for (path, body, status, code) in [
        ("web/stop", json!({"timeout_seconds": 3601}), 400, "VALIDATION_ERROR"),
        ("web/stop", json!({"timeout": 1}), 400, "VALIDATION_ERROR"),
        ("web/stop", json!({"timeout_seconds": -1}), 400, "VALIDATION_ERROR"),
        ("web/reboot", json!({"timeout_seconds": 0}), 400, "VALIDATION_ERROR"),
        ("web/reboot", json!({"hard": "yes"}), 400, "VALIDATION_ERROR"),
        ("web/start", json!({"ready_timeout_seconds": 0}), 400, "VALIDATION_ERROR"),
        ("web/pause", json!({"hard": true}), 400, "VALIDATION_ERROR"),
        ("web/resume", json!([]), 400, "VALIDATION_ERROR"),
        ("nobody/start", json!({}), 404, "VM_NOT_FOUND"),
    ] {
        let answer = world.post(&format!("/api/v1/vms/{path}"), body.clone()).send().await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{path} {body}: {}",
            answer.text()
        );
    }
    for body in [json!({"restart": "sometimes"}), json!({"autostart": "yes"})] {
        let answer = world.post("/api/v1/vms", body).send().await;
        assert_eq!(answer.code(), "VALIDATION_ERROR", "{}", answer.text());
    }
    // Nothing of it came to the node.
    world.post("/api/v1/vms/web/pause", json!({})).send().await;
    let one = agent.poll(&world, "wait_ms=5000").await;
    assert_eq!(one.iter().map(|task| task.kind).collect::<Vec<_>>(), [KindName::VmPause]);
    agent.finish(&world, &one[0], json!({"already": false})).await;
    let refused = world.post("/api/v1/vms/web/exec", json!({"argv": ["true"]})).send().await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::CONFLICT, "VM_STATE_CONFLICT"));
    assert!(refused.text().contains("the VM is paused"), "{}", refused.text());
    // Another tenant's machine is none.
    let answer = world.post("/api/v1/vms/web/stop", json!({})).bearer(world.token(Role::Viewer)).send().await;
    assert_eq!(answer.code(), "FORBIDDEN");
}

#[tokio::test]
async fn a_dry_run_and_a_repeat_under_a_key_switch_nothing_twice() {
    let (world, agent) = World::ready().await;
    running(&world, &agent, json!({"name": "web"})).await;
    let dry = world.post("/api/v1/vms/web/pause?dry_run=true", json!({})).send().await;
    assert_eq!((dry.status, &dry.json()["task"]["kind"]), (StatusCode::OK, &json!("vm.pause")));
    let pause = async || world.post("/api/v1/vms/web/pause", json!({})).header("idempotency-key", "once").send().await;
    let (first, second) = (pause().await, pause().await);
    assert_eq!(first.json()["task"]["id"], second.json()["task"]["id"]);
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!(agent.poll(&world, "wait_ms=5000").await.len(), 1);
}

#[tokio::test]
async fn a_machine_that_crashed_is_started_by_the_servers_own_loop() {
    let (world, agent) = World::ready().await;
    let made = running(&world, &agent, json!({"name": "web", "restart": "on_failure", "autostart": true})).await;
    assert_eq!((made.spec.restart.as_str(), made.spec.autostart), ("on_failure", true));
    let seen =
        json!({"vm": made.id, "epoch": 1, "state": "error", "ready": false, "reason": "crashed", "detail": "signal 9"});
    let beat = json!({"facts": Agent::facts(), "leases": [], "inventory": {"full": true, "vms": [seen]}});
    for _ in 0..2 {
        let answer = agent.call(&world, Method::POST, "heartbeat").json(&beat).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    let crashed = vm(&world, "web").await;
    assert_eq!((crashed.state.as_str(), crashed.restart_at.is_some()), ("error", true));
    world.pass(Duration::from_secs(1));
    let shutdown = CancellationToken::new();
    let poll = async {
        let mut assigned = agent.poll(&world, "wait_ms=20000").await;
        shutdown.cancel();
        assigned.remove(0)
    };
    let ((), one) = tokio::join!(world.server.run_loops(shutdown.clone()), poll);
    assert_eq!((one.kind, one.target.vm), (KindName::VmStart, Some(made.id)));
    agent.finish(&world, &one, json!({"how": "started", "boot_ms": 1.0})).await;
    assert_eq!(vm(&world, "web").await.state.as_str(), "running");
    let told = world.kinds_of_events(made.id.0).await;
    assert_eq!(told[told.len() - 2..], ["vm.restarting", "vm.running"], "{told:?}");
    let doctor = world.get("/api/v1/doctor").send().await.json();
    assert!(doctor["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true), "{doctor}");
}
