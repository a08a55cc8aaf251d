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

/// A host of this name asks to join, from another address.
async fn join(world: &World, token: &Value, name: &str) -> Answer {
    ask(world, &token["token"], name).at("192.0.2.7").send().await
}

fn ask(world: &World, token: &Value, name: &str) -> Call {
    let csr = NodeKey::generate().unwrap().csr(name).unwrap();
    let body = json!({"token": token, "name": name, "csr_pem": csr, "facts": Agent::facts()});
    Call::new(world.server.internal(), Method::POST, "/internal/v1/nodes/join").json(&body)
}

/// What the audit says behind an entry, the entries of a kind.
async fn told(world: &World, after: i64, kind: &str) -> Vec<Value> {
    let audit = world.get(&format!("/api/v1/audit?limit=500&after={after}")).send().await.json();
    audit["items"].as_array().unwrap().iter().filter(|entry| entry["kind"] == kind).cloned().collect()
}

#[tokio::test]
async fn a_token_lets_one_node_in_once() {
    let world = World::new().await;
    let token = issued(&world, json!({})).await;
    assert_eq!(join(&world, &token, "n1").await.status, StatusCode::OK);
    assert_eq!(join(&world, &token, "n2").await.code(), "JOIN_TOKEN_INVALID");
    assert_eq!(world.get("/api/v1/nodes/n1").send().await.json()["state"], "ready");
    // One that names nobody is for new nodes.
    let token = issued(&world, json!({})).await;
    let refused = join(&world, &token, "n1").await;
    assert_eq!(refused.code(), "JOIN_TOKEN_INVALID");
    assert!(refused.text().contains("hostler node token n1"), "{}", refused.text());
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

#[tokio::test]
async fn the_audit_says_with_which_token_and_from_where_a_node_joined_or_was_refused() {
    let world = World::new().await;
    let before = world.store.log_head().await.unwrap();
    let token = issued(&world, json!({"node": "n1"})).await;
    let made = told(&world, before, "join_token.create").await;
    assert_eq!((made.len(), &made[0]["subject"]), (1, &token["id"]));
    let joined = join(&world, &token, "n1").await;
    let entry = told(&world, before, "node.join").await.pop().unwrap();
    let actor = &entry["data"]["actor"];
    assert_eq!(
        (&actor["credential"], &actor["source"], &actor["request"]),
        (&token["id"], &json!("192.0.2.7"), &json!(joined.header("x-request-id")))
    );
    // Whoever shows it once more is an entry, and not one for each time; whoever shows what nobody made is none.
    let before = world.store.log_head().await.unwrap();
    for _ in 0..5 {
        assert_eq!(join(&world, &token, "n1").await.code(), "JOIN_TOKEN_INVALID");
    }
    let unknown = hostler_trust::JoinToken::generate(&world.ids, world.server.app().authority.get().fingerprint());
    assert_eq!(ask(&world, &json!(unknown.reveal()), "n1").send().await.code(), "JOIN_TOKEN_INVALID");
    world.server.app().tell_refused_joins().await.unwrap();
    let refused = told(&world, before, "node.join").await;
    assert_eq!(refused.len(), 1, "{refused:?}");
    let (data, what) = (&refused[0]["data"], &refused[0]["data"]["what"]);
    assert_eq!((&data["result"], &what["count"]), (&json!("JOIN_TOKEN_INVALID"), &json!(5)));
    assert_eq!((&data["actor"]["credential"], &data["actor"]["source"]), (&token["id"], &json!("192.0.2.7")));
}

#[tokio::test]
async fn a_token_that_nobody_made_costs_neither_a_signature_nor_a_step_and_guesses_come_to_an_end() {
    let world = World::new().await;
    let before = world.store.log_head().await.unwrap();
    let unknown = hostler_trust::JoinToken::generate(&world.ids, world.server.app().authority.get().fingerprint());
    // A request that cannot be signed is not even looked at.
    let body = json!({"token": unknown.reveal(), "name": "n1", "csr_pem": "no request", "facts": Agent::facts()});
    let guess = |address: &str| {
        let call = Call::new(world.server.internal(), Method::POST, "/internal/v1/nodes/join");
        call.json(&body).at(address).send()
    };
    let mut guesses = 0;
    while guess("192.0.2.7").await.code() == "JOIN_TOKEN_INVALID" {
        guesses += 1;
        assert!(guesses < 1000);
    }
    let refused = guess("192.0.2.7").await;
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("RATE_LIMITED", "1"));
    assert_eq!(guess("192.0.2.8").await.code(), "JOIN_TOKEN_INVALID", "others are not kept out by it");
    assert_eq!(world.store.log_head().await.unwrap(), before);
}

#[tokio::test]
async fn a_renewal_says_from_where_and_whether_it_was_late() {
    let (world, agent) = World::ready().await;
    let before = world.store.log_head().await.unwrap();
    let renew = json!({"csr_pem": agent.key.csr("node-1").unwrap()});
    let answer = agent.call(&world, Method::POST, "renew").json(&renew).at("192.0.2.7").send().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let entries = told(&world, before, "node.renew").await;
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(
        (&entry["data"]["actor"]["source"], &entry["data"]["what"]["late"]),
        (&json!("192.0.2.7"), &json!(false))
    );
}
