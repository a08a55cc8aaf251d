//! Editing a machine through the API: merge patches, tags, protection, the end of its time.

use std::time::Duration;

use hostler_model::{
    kind::Role,
    vm::{Vm, VmState},
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Agent, Answer, World};

const WEB: &str = "/api/v1/vms/web";

/// A running machine named `web`.
async fn running(world: &World, agent: &Agent) -> Vm {
    let answer = world.post("/api/v1/vms", json!({"name": "web"})).send().await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    let create = agent.poll(world, "wait_ms=5000").await.remove(0);
    let charge = json!({"vcpus": 1, "memory_mib": 128, "disk_gib": 1, "vms": 1});
    let made = json!({"charge": charge, "boot_ms": 1.0, "acceleration": "simulated"});
    assert_eq!(agent.finish(world, &create, made).await.status, StatusCode::OK);
    world.get(WEB).send().await.of()
}

async fn patch(world: &World, body: Value) -> Answer {
    world.call(Method::PATCH, WEB).json(&body).send().await
}

#[tokio::test]
async fn a_merge_patch_changes_what_it_names() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    let answer = patch(&world, json!({"labels": {"tier": "web", "app": "shop"}, "protected": true})).await;
    assert_eq!((answer.status, answer.header("etag")), (StatusCode::OK, "\"2\""), "{}", answer.text());
    let merge = world.call(Method::PATCH, WEB).body("application/merge-patch+json", r#"{"labels": {"app": null}}"#);
    let vm: Vm = merge.send().await.of();
    assert_eq!((json!(vm.spec.labels), vm.protected, vm.generation), (json!({"tier": "web"}), true, 3));
    assert_eq!(world.get(WEB).send().await.header("etag"), "\"3\"");
    let events = world.kinds_of_events(vm.id.0).await;
    assert_eq!(events.iter().filter(|kind| *kind == "vm.edited").count(), 2, "{events:?}");
}

#[tokio::test]
async fn who_did_not_see_the_last_change_is_refused() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    let tagged = |tag: &'static str| {
        world.call(Method::PATCH, WEB).json(&json!({"labels": {tag.trim_matches('"'): "x"}})).header("if-match", tag)
    };
    assert_eq!(tagged("\"1\"").send().await.status, StatusCode::OK);
    let refused = tagged("\"1\"").send().await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (412, "PRECONDITION_FAILED"));
    assert_eq!(refused.json()["generation"], 2);
    assert_eq!(tagged("\"unknown\"").send().await.status.as_u16(), 412);
    assert_eq!(tagged("2").send().await.code(), "VALIDATION_ERROR");
    assert_eq!(tagged("*").send().await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_patch_that_makes_no_sense_changes_nothing() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    let before = world.marks().await;
    for body in [
        json!({"vpus": 2}),
        json!({"name": "other"}),
        json!({"state": "stopped"}),
        json!({"protected": "yes"}),
        json!({"labels": ["a"]}),
        json!({"labels": {"": "a"}}),
        json!({"labels": {"a": "x".repeat(256)}}),
        json!({"ttl_seconds": 0}),
        json!({"ttl_seconds": -1}),
        json!({"ttl_seconds": 60, "expires_at": "2100-01-01T00:00:00Z"}),
        json!({"expires_at": "2001-01-01T00:00:00Z"}),
        json!({"expires_at": "tomorrow"}),
        json!([]),
    ] {
        let answer = patch(&world, body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "VALIDATION_ERROR"), "{body}");
    }
    let viewer = world.call(Method::PATCH, WEB).bearer(world.token(Role::Viewer)).json(&json!({})).send().await;
    assert_eq!(viewer.status, StatusCode::FORBIDDEN);
    let stranger = world.call(Method::PATCH, WEB).bearer(&world.foreign).json(&json!({"protected": true})).send().await;
    assert_eq!((stranger.status.as_u16(), stranger.code().as_str()), (404, "VM_NOT_FOUND"));
    let dry = world.call(Method::PATCH, &format!("{WEB}?dry_run=true")).json(&json!({"protected": true})).send().await;
    assert!(dry.of::<Vm>().protected);
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn a_protected_machine_stays_until_that_is_lifted() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    patch(&world, json!({"protected": true})).await.of::<Vm>();
    for refused in [
        world.call(Method::DELETE, WEB).send().await,
        world.call(Method::DELETE, &format!("{WEB}?dry_run=true")).send().await,
        world.post("/api/v1/tasks", json!({"kind": "vm.delete", "target": {"vm": "web"}})).send().await,
    ] {
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "VM_PROTECTED"));
        assert!(refused.text().contains("--unprotect"), "{}", refused.text());
    }
    patch(&world, json!({"protected": null})).await.of::<Vm>();
    assert_eq!(world.call(Method::DELETE, WEB).send().await.status, StatusCode::ACCEPTED);
    let late = patch(&world, json!({"protected": true})).await;
    assert_eq!((late.status.as_u16(), late.code().as_str()), (409, "VM_STATE_CONFLICT"));
}

#[tokio::test]
async fn a_machine_whose_time_is_over_is_deleted() {
    let (world, agent) = World::ready().await;
    let body = json!({"name": "web", "ttl_seconds": 3600, "protected": true});
    let made = world.post("/api/v1/vms?dry_run=true", body).send().await.json();
    assert_eq!(made["vm"]["expires_at"], json!(world.clock.now().plus(Duration::from_secs(3600))));
    assert_eq!(made["vm"]["protected"], true);
    let vm = running(&world, &agent).await;
    patch(&world, json!({"ttl_seconds": 60})).await.of::<Vm>();
    world.pass(Duration::from_secs(61));
    // The loop files it.
    let shutdown = CancellationToken::new();
    let poll = async {
        let mut assigned = agent.poll(&world, "wait_ms=20000").await;
        shutdown.cancel();
        assigned.remove(0)
    };
    let ((), delete) = tokio::join!(world.server.run_loops(shutdown.clone()), poll);
    assert_eq!((delete.kind.as_str(), delete.target.vm), ("vm.delete", Some(vm.id)));
    agent.finish(&world, &delete, json!({"existed": true})).await;
    let gone: Vm = world.get(&format!("/api/v1/vms/{}", vm.id)).send().await.of();
    assert_eq!(gone.state, VmState::Deleted);
    assert!(world.kinds_of_events(vm.id.0).await.contains(&"vm.expired".to_owned()));
}
