//! Placement over the API: a node's record is edited, machines choose by it, and every answer says why.

use std::time::Duration;

use hostler_model::role::Role;
use http::{Method, StatusCode};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{Agent, World};

const NODE: &str = "/api/v1/nodes/a";

#[tokio::test]
async fn a_nodes_record_is_a_merge_patch_with_a_tag() {
    let world = World::new().await;
    Agent::join(&world, "a").await;
    assert_eq!(world.get(NODE).send().await.header("etag"), "\"1\"");
    let patch = r#"{"labels": {"zone": "north"}, "overcommit": {"vcpus_percent": 200}}"#;
    let patched = world.call(Method::PATCH, NODE).body("application/merge-patch+json", patch).send().await;
    assert_eq!((patched.status, patched.header("etag")), (StatusCode::OK, "\"2\""), "{}", patched.text());
    let node = patched.json();
    assert_eq!((&node["labels"], &node["overcommit"]), (&json!({"zone": "north"}), &json!({"vcpus_percent": 200})));
    assert_eq!(node["schedulable"]["vcpus"], 8);
    let old = world.call(Method::PATCH, NODE).header("if-match", "\"1\"").json(&json!({"labels": null})).send().await;
    assert_eq!((old.status.as_u16(), old.code().as_str()), (412, "PRECONDITION_FAILED"));
    let cleared =
        world.call(Method::PATCH, NODE).header("if-match", "\"2\"").json(&json!({"labels": null})).send().await;
    assert_eq!(cleared.json()["labels"], json!({}));
}

#[tokio::test]
async fn a_bad_edit_of_a_node_says_what_is_wrong() {
    let world = World::new().await;
    Agent::join(&world, "a").await;
    let cases = [
        (json!({"overcommit": {"memory_percent": 0}}), "overcommit.memory_percent"),
        (json!({"overcommit": {"memory_percent": "lots"}}), "overcommit.memory_percent"),
        (json!({"labels": {"zone": 7}}), "labels.zone"),
    ];
    for (patch, field) in cases {
        let answer = world.call(Method::PATCH, NODE).json(&patch).send().await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "VALIDATION_ERROR"));
        assert_eq!(answer.json()["field"], field, "{}", answer.text());
    }
    let unknown = world.call(Method::PATCH, NODE).json(&json!({"label": {}})).send().await;
    assert_eq!(unknown.json()["unknown"], json!(["label"]));
    let tenant = world.call(Method::PATCH, NODE).bearer(world.token(Role::TenantAdmin)).json(&json!({})).send().await;
    assert_eq!(tenant.code(), "FORBIDDEN");
    let none = world.call(Method::PATCH, "/api/v1/nodes/none").json(&json!({})).send().await;
    assert_eq!(none.code(), "NODE_NOT_FOUND");
    assert_eq!(world.get(NODE).send().await.header("etag"), "\"1\"");
}

#[tokio::test]
async fn a_machine_is_placed_by_its_words_and_a_dry_run_says_how() {
    let (world, agent) = World::ready().await;
    let node = agent.identity.node;
    let wanted = json!({"placement": {"labels": {"zone": "north"}, "anti_affinity": "web"}});
    let refused = world.post("/api/v1/vms", wanted.clone()).send().await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "NO_CAPACITY"));
    assert_eq!(refused.json()["nodes"][0]["reasons"], json!(["labels"]));
    let dry = world.post("/api/v1/vms?dry_run=true", wanted.clone()).send().await;
    assert_eq!(dry.code(), "NO_CAPACITY", "a dry run answers the same");
    let labels = json!({"labels": {"zone": "north"}});
    world.call(Method::PATCH, &format!("/api/v1/nodes/{node}")).json(&labels).send().await;
    let dry = world.post("/api/v1/vms?dry_run=true", wanted.clone()).send().await.json();
    assert_eq!(dry["placement"]["node"], dry["placement"]["nodes"][0]["node"]);
    assert!(dry["placement"]["nodes"][0]["score"].as_f64().unwrap() > 0.5, "{dry}");
    let task = json!({"tasks": [{"kind": "vm.create", "params": wanted}]});
    let batch = world.post("/api/v1/tasks/batch?dry_run=true", task).send().await.json();
    assert_eq!(batch["answers"][0]["placement"], dry["placement"]);
    let made = world.post("/api/v1/vms", wanted.clone()).send().await.json();
    assert_eq!(made["vm"]["spec"]["placement"], wanted["placement"]);
    assert_eq!(made["placement"], json!(null), "what is done needs no explanation");
    let second = world.post("/api/v1/vms", wanted).send().await.json();
    assert_eq!(second["nodes"][0]["reasons"], json!(["anti_affinity"]));
    for bad in [json!({"anti_affinity": "no group"}), json!({"labels": {"": "x"}}), json!({"rack": "1"})] {
        let answer = world.post("/api/v1/vms", json!({"placement": bad})).send().await;
        assert_eq!(answer.code(), "VALIDATION_ERROR", "{}", answer.text());
    }
}

#[tokio::test]
async fn a_node_that_is_drained_names_what_is_left_to_those_who_may_see_it() {
    let (world, agent) = World::ready().await;
    let node = format!("/api/v1/nodes/{}", agent.identity.node);
    let made = world.post("/api/v1/vms", json!({"name": "web"})).send().await.json();
    agent.poll(&world, "wait_ms=5000").await;
    let drained = world.post(&format!("{node}/drain"), json!({})).send().await.json();
    assert_eq!((&drained["state"], &drained["drain"]["vms"]), (&json!("draining"), &json!(1)));
    let left = &drained["drain"]["blocking"][0];
    assert_eq!((&left["name"], &left["vm"]), (&json!("web"), &made["vm"]["id"]));
    assert!(left["why"].as_str().unwrap().contains(made["task"]["id"].as_str().unwrap()), "{left}");
    let theirs = world.get(&node).bearer(&world.foreign).send().await.json();
    assert_eq!((&theirs["drain"]["vms"], &theirs["drain"]["blocking"]), (&json!(1), &json!([])), "counted, not named");
    let refused = world.call(Method::DELETE, &format!("{node}?force=true")).send().await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "NODE_STATE_CONFLICT"));
    assert_eq!(refused.json()["left"]["blocking"][0]["name"], "web");
    let unknown = world.call(Method::DELETE, &format!("{node}?forced=true")).send().await;
    assert_eq!(unknown.code(), "VALIDATION_ERROR");
    let tenant = world.call(Method::DELETE, &node).bearer(world.token(Role::TenantAdmin)).send().await;
    assert_eq!(tenant.code(), "FORBIDDEN");
    let open = world.post(&format!("{node}/uncordon"), json!({})).send().await.json();
    assert_eq!((&open["state"], &open["drain"]), (&json!("ready"), &json!(null)));
}

#[tokio::test]
async fn a_node_with_nothing_is_drained_by_a_loop_and_removed() {
    let (world, agent) = World::ready().await;
    let node = format!("/api/v1/nodes/{}", agent.identity.node);
    world.post(&format!("{node}/drain"), json!({})).send().await;
    let shutdown = CancellationToken::new();
    let drained = async {
        while world.get(&node).send().await.json()["state"] != "drained" {}
        shutdown.cancel();
    };
    let both = async { tokio::join!(world.server.run_loops(shutdown.clone()), drained) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("the loop sees that nothing is left");
    let dry = world.call(Method::DELETE, &format!("{node}?dry_run=true")).send().await.json();
    assert_eq!((&dry["node"]["state"], &dry["vms"]), (&json!("drained"), &json!(0)));
    let removed = world.call(Method::DELETE, &node).send().await;
    assert_eq!((removed.status, removed.json()), (StatusCode::OK, dry));
    assert_eq!(world.get(&node).send().await.code(), "NODE_NOT_FOUND");
}

#[tokio::test]
async fn a_machine_waits_for_room_where_that_is_asked_for() {
    let (world, agent) = World::ready().await;
    let node = format!("/api/v1/nodes/{}", agent.identity.node);
    world.post(&format!("{node}/cordon"), json!({})).send().await;
    let wanted = json!({"name": "web", "wait_for_capacity": true});
    let dry = world.post("/api/v1/vms?dry_run=true", wanted.clone()).send().await.json();
    assert_eq!((&dry["task"]["waiting_for"], &dry["placement"]["node"]), (&json!("capacity"), &json!(null)), "{dry}");
    assert_eq!(dry["placement"]["nodes"][0]["reasons"], json!(["state"]));
    let made = world.post("/api/v1/vms", wanted).send().await;
    assert_eq!((made.status, &made.json()["vm"]["node"]), (StatusCode::ACCEPTED, &json!(null)), "{}", made.text());
    let task = format!("/api/v1/tasks/{}", made.json()["task"]["id"].as_str().unwrap());
    assert_eq!(world.get(&task).send().await.json()["waiting_for"], "capacity");
    let stats = world.get("/api/v1/tasks/stats").send().await.json();
    assert_eq!(stats["total"]["waiting_for"]["capacity"], 1, "{stats}");
    let metrics = world.get("/metrics").send().await.text();
    assert!(metrics.contains("hostler_tasks_waiting{for=\"capacity\"} 1"), "{metrics}");
    let stop = world.post("/api/v1/vms/web/stop", json!({})).send().await;
    assert_eq!((stop.status.as_u16(), stop.code().as_str()), (409, "VM_STATE_CONFLICT"), "{}", stop.text());
    world.post(&format!("{node}/uncordon"), json!({})).send().await;
    assert_eq!(world.store.place_waiting().await.unwrap().changed, 1);
    assert_eq!(agent.poll(&world, "wait_ms=5000").await.len(), 1);
}
