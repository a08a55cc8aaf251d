//! Tokens by which nodes join, as an administrator makes them over the API.

use std::time::Duration;

use hostler_model::role::Role;
use hostler_trust::NodeKey;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Call, World};

const TOKENS: &str = "/api/v1/join-tokens";

async fn issued(world: &World, body: Value) -> Value {
    let answer = world.post(TOKENS, body).send().await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    answer.json()
}

async fn join(world: &World, token: &Value, name: &str) -> Answer {
    let csr = NodeKey::generate().unwrap().csr(name).unwrap();
    let body = json!({"token": token["token"], "name": name, "csr_pem": csr, "facts": Agent::facts()});
    Call::new(world.server.internal(), Method::POST, "/internal/v1/nodes/join").json(&body).send().await
}

#[tokio::test]
async fn a_token_lets_one_node_in_once() {
    let world = World::new().await;
    let token = issued(&world, json!({})).await;
    assert_eq!(join(&world, &token, "n1").await.status, StatusCode::OK);
    assert_eq!(join(&world, &token, "n2").await.code(), "JOIN_TOKEN_INVALID");
    assert_eq!(world.get("/api/v1/nodes/n1").send().await.json()["state"], "ready");
}

#[tokio::test]
async fn a_token_for_a_name_is_for_that_name_and_a_pending_node_waits_for_its_approval() {
    let world = World::new().await;
    let token = issued(&world, json!({"node": "n1", "approve": false})).await;
    assert_eq!((&token["node"], &token["approve"]), (&json!("n1"), &json!(false)));
    assert_eq!(join(&world, &token, "n2").await.code(), "JOIN_TOKEN_INVALID");
    assert_eq!(join(&world, &token, "n1").await.status, StatusCode::OK);
    assert_eq!(world.get("/api/v1/nodes/n1").send().await.json()["state"], "pending");
    assert_eq!(world.post("/api/v1/nodes/n1/approve", json!({})).send().await.json()["state"], "ready");
}

#[tokio::test]
async fn a_token_ends_after_a_quarter_of_an_hour() {
    let world = World::new().await;
    let token = issued(&world, json!({})).await;
    world.pass(Duration::from_secs(15 * 60 + 1));
    assert_eq!(join(&world, &token, "n1").await.code(), "JOIN_TOKEN_INVALID");
}

#[tokio::test]
async fn its_making_is_in_the_audit_and_the_token_is_not() {
    let world = World::new().await;
    let token = issued(&world, json!({"node": "n1"})).await;
    let audit = world.get("/api/v1/audit").send().await.text();
    assert!(audit.contains("join_token.create") && audit.contains("platform-admin"), "{audit}");
    assert!(!audit.contains(token["token"].as_str().unwrap()), "{audit}");
}

#[tokio::test]
async fn what_makes_no_sense_and_who_may_not_are_refused_and_leave_nothing() {
    let world = World::new().await;
    let before = world.marks().await;
    for body in [json!({"name": "n1"}), json!({"node": "N 1"}), json!({"approve": "yes"}), json!([])] {
        let answer = world.post(TOKENS, body.clone()).send().await;
        assert_eq!(answer.code(), "VALIDATION_ERROR", "{body}");
    }
    let answer = world.post(TOKENS, json!({})).bearer(world.token(Role::TenantAdmin)).send().await;
    assert_eq!(answer.code(), "FORBIDDEN");
    assert_eq!(world.marks().await, before);
}
