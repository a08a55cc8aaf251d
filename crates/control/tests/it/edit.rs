//! Editing a machine through the API: merge patches, tags, protection, the end of its time.

use std::time::Duration;

use hostler_model::{
    role::Role,
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
    assert_eq!(tagged("W/\"2\"").send().await.status.as_u16(), 412, "a weak tag never matches");
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
        json!({"vcpus": null}),
        json!({"vcpus": 0}),
        json!({"vcpus": "2"}),
        json!({"memory_mib": 63}),
        json!({"disk_gib": 65_537}),
        json!({"port_forwards": [{"host_port": 80}]}),
        json!({"port_forwards": [{"guest_port": 0}]}),
        json!({"port_forwards": [{"guest_port": 70_000}]}),
        json!({"port_forwards": [{"guest_port": 80, "host_address": "localhost"}]}),
        json!({"port_forwards": [{"guest_port": 80, "port": 1}]}),
        json!({"port_forwards": [{"host_port": 1, "guest_port": 80}, {"host_port": 1, "guest_port": 81}]}),
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
async fn an_edit_of_the_record_is_done_once_under_a_key() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    let keyed = |body: Value| {
        let call = world.call(Method::PATCH, WEB).json(&body);
        call.header("if-match", "\"1\"").header("idempotency-key", "once")
    };
    let first = keyed(json!({"ttl_seconds": 60})).send().await;
    assert_eq!((first.status, first.header("etag")), (StatusCode::OK, "\"2\""), "{}", first.text());
    world.pass(Duration::from_secs(5));
    let again = keyed(json!({"ttl_seconds": 60})).send().await;
    assert_eq!((again.status, again.text()), (StatusCode::OK, first.text()));
    assert_eq!((again.header("etag"), again.header("idempotency-replayed")), ("\"2\"", "true"));
    let other = keyed(json!({"ttl_seconds": 90})).send().await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (422, "IDEMPOTENCY_MISMATCH"));
}

#[tokio::test]
async fn who_did_not_see_the_last_change_does_not_delete() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    patch(&world, json!({"labels": {"a": "b"}})).await.of::<Vm>();
    let tagged = |tag: &'static str| world.call(Method::DELETE, WEB).header("if-match", tag);
    for stale in ["\"1\"", "W/\"2\""] {
        let refused = tagged(stale).send().await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (412, "PRECONDITION_FAILED"), "{stale}");
    }
    assert_eq!(tagged("\"2\"").send().await.status, StatusCode::ACCEPTED);
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
    // Shorter than a node may be silent: nothing is filed for one that is not heard.
    patch(&world, json!({"ttl_seconds": 30})).await.of::<Vm>();
    world.pass(Duration::from_secs(31));
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

#[tokio::test]
async fn what_concerns_the_host_becomes_a_task() {
    let (world, agent) = World::ready().await;
    let vm = running(&world, &agent).await;
    let dry = world.call(Method::PATCH, &format!("{WEB}?dry_run=true")).json(&json!({"vcpus": 2})).send().await;
    assert_eq!((dry.status, &dry.json()["vm"]["spec"]["vcpus"]), (StatusCode::OK, &json!(2)), "{}", dry.text());
    let forwards = json!([{"guest_port": 80}, {"protocol": "udp", "host_port": 5353, "guest_port": 53}]);
    let answer = patch(&world, json!({"vcpus": 2, "port_forwards": forwards, "labels": {"a": "b"}})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    assert!(answer.header("location").starts_with("/api/v1/tasks/"));
    let said = answer.json();
    assert_eq!((&said["vm"]["generation"], &said["vm"]["observed_generation"]), (&json!(2), &json!(1)));
    assert_eq!(said["vm"]["spec"]["labels"], json!({"a": "b"}));
    let edit = agent.poll(&world, "wait_ms=5000").await.remove(0);
    assert_eq!((edit.kind.as_str(), edit.target.vm), ("vm.edit", Some(vm.id)));
    let after = &edit.params["filed"]["after"];
    assert_eq!((&after["vcpus"], &after["memory_mib"]), (&json!(2), &json!(128)));
    assert_eq!(after["port_forwards"][0]["host_address"], "127.0.0.1");
    let chosen =
        json!([{"host_port": 40123, "guest_port": 80}, {"protocol": "udp", "host_port": 5353, "guest_port": 53}]);
    let charge = json!({"vcpus": 2, "memory_mib": 128, "disk_gib": 1, "vms": 1});
    let output = json!({"vcpus": "next_start", "port_forwards": "live", "forwards": chosen, "restart_pending": true, "charge": charge});
    agent.finish(&world, &edit, output).await;
    let vm: Vm = world.get(WEB).send().await.of();
    assert_eq!((vm.spec.port_forwards[0].host_port, vm.generation, vm.observed_generation), (40123, 2, 1));
    assert_eq!(world.get("/api/v1/quota").send().await.json()["book"]["used"]["vcpus"], 2);
}

#[tokio::test]
async fn an_edit_is_also_a_task_like_any_other() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    let task = json!({"kind": "vm.edit", "target": {"vm": "web"}, "params": {"memory_mib": 256, "protected": true}});
    let answer = world.post("/api/v1/tasks", task).send().await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    assert_eq!(answer.json()["vm"]["protected"], true);
    let busy = patch(&world, json!({"vcpus": 2})).await;
    assert_eq!((busy.status.as_u16(), busy.code().as_str()), (409, "VM_STATE_CONFLICT"));
    for (params, status, code) in
        [(json!({"disk_gib": 0}), 400, "VALIDATION_ERROR"), (json!({"disks": 1}), 400, "VALIDATION_ERROR")]
    {
        let body = json!({"kind": "vm.edit", "target": {"vm": "web"}, "params": params});
        let answer = world.post("/api/v1/tasks", body).send().await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code));
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_before_anything() {
    let (world, agent) = World::ready().await;
    running(&world, &agent).await;
    patch(&world, json!({"disk_gib": 2})).await;
    let edit = agent.poll(&world, "wait_ms=5000").await.remove(0);
    agent
        .finish(
            &world,
            &edit,
            json!({"disk_gib": "live", "charge": {"vcpus": 1, "memory_mib": 128, "disk_gib": 2, "vms": 1}}),
        )
        .await;
    let before = world.marks().await;
    for (body, code) in [(json!({"disk_gib": 1}), "DISK_SHRINK"), (json!({"memory_mib": 9000}), "NO_CAPACITY")] {
        let refused = patch(&world, body).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, code), "{}", refused.text());
    }
    assert_eq!(world.marks().await, before);
    let port = json!([{"host_port": 8080, "guest_port": 80}]);
    assert_eq!(patch(&world, json!({"port_forwards": port})).await.status, StatusCode::ACCEPTED);
    let other = world.post("/api/v1/vms", json!({"name": "other", "port_forwards": port})).send().await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (409, "PORT_TAKEN"));
    assert!(other.text().contains("the VM web"), "{}", other.text());
}

#[tokio::test]
async fn a_machine_is_renamed() {
    let (world, agent) = World::ready().await;
    let vm = running(&world, &agent).await;
    let rename = |body: Value| world.post("/api/v1/vms/web/rename", body);
    for body in [json!({}), json!({"name": "-x"}), json!({"name": "ok", "force": true})] {
        assert_eq!(rename(body).send().await.code(), "VALIDATION_ERROR");
    }
    let answer = rename(json!({"name": "shop"})).send().await;
    assert_eq!(
        (answer.status, &answer.json()["vm"]["name"]),
        (StatusCode::ACCEPTED, &json!("shop")),
        "{}",
        answer.text()
    );
    assert_eq!(world.get(WEB).send().await.code(), "VM_NOT_FOUND");
    let told = agent.poll(&world, "wait_ms=5000").await.remove(0);
    assert_eq!((told.kind.as_str(), &told.params), ("vm.rename", &json!({"name": "shop"})));
    agent.finish(&world, &told, json!({"told": true})).await;
    let shop: Vm = world.get("/api/v1/vms/shop").send().await.of();
    assert_eq!((shop.id, shop.task), (vm.id, None));
    world.post("/api/v1/vms", json!({"name": "web"})).send().await;
    let taken = world.post("/api/v1/vms/shop/rename", json!({"name": "web"})).send().await;
    assert_eq!((taken.status.as_u16(), taken.code().as_str()), (409, "NAME_TAKEN"));
}

#[tokio::test]
async fn a_node_is_asked_to_look_at_what_it_has() {
    let (world, agent) = World::ready().await;
    let path = "/api/v1/nodes/node-1/refresh";
    let operator = world.post(path, json!({})).bearer(world.token(Role::Operator)).send().await;
    assert_eq!(operator.status, StatusCode::FORBIDDEN);
    let answer = world.post(path, json!({})).send().await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    let look = agent.poll(&world, "wait_ms=5000").await.remove(0);
    assert_eq!((look.kind.as_str(), look.target.node), ("inventory.refresh", Some(agent.identity.node)));
    let unnamed = world.post("/api/v1/tasks", json!({"kind": "inventory.refresh"})).send().await;
    assert_eq!(unnamed.code(), "VALIDATION_ERROR");
}
