//! Placement over the API: a node's record is edited, machines choose by it, and every answer says why.

use hostler_model::role::Role;
use http::{Method, StatusCode};
use serde_json::json;

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
