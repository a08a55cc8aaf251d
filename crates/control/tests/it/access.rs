//! Credentials: how they are sent, who else may call with them, and what agents and joining nodes need. Who may call
//! which route is walked in `walk.rs`.

use base64::{Engine, engine::general_purpose::STANDARD};
use hostler_model::{internal::Joined, role::Role};
use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Agent, Call, World};

/// A browser cannot send a bearer token by itself.
#[tokio::test]
async fn a_token_is_the_password_for_the_documentation_and_nothing_else() {
    let world = World::new().await;
    let basic = |token: &str| format!("Basic {}", STANDARD.encode(format!("me:{token}")));
    let token = world.token(Role::Viewer);
    for path in ["/docs/index.html", "/docs/swagger-ui.css", "/docs/swagger-initializer.js", "/openapi.json"] {
        let answer = world.get(path).header("authorization", &basic(token)).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {}", answer.text());
        assert!(!answer.text().contains("https://unpkg.com"), "{path} loads from elsewhere");
        let wrong = world.get(path).header("authorization", &basic("hos_wrong")).send().await;
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED, "{path}");
        let asks: Vec<_> = wrong.headers.get_all("www-authenticate").iter().collect();
        assert!(asks.iter().any(|ask| ask.as_bytes().starts_with(b"Basic")), "{path} {asks:?}");
    }
    for path in ["/api/v1/vms", "/metrics", "/api/v1/quota"] {
        let answer = world.get(path).header("authorization", &basic(token)).send().await;
        assert_eq!(answer.code(), "UNAUTHENTICATED", "{path}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}");
        assert_eq!(answer.headers.get_all("www-authenticate").iter().count(), 1, "{path}");
    }
    assert_eq!(world.get("/docs").send().await.header("location"), "/docs/index.html");
    for path in ["/docs/..", "/docs/passwd", "/docs/%2e%2e"] {
        assert_eq!(world.get(path).send().await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn every_wrong_token_gets_the_same_answer() {
    let world = World::new().await;
    let unknown = hostler_trust::ApiToken::generate(&world.ids).reveal();
    let mut said = Vec::new();
    for token in ["", "x", "hos_short", &unknown, world.token(Role::Viewer).trim_end_matches(char::is_alphanumeric)] {
        let answer = world.get("/api/v1/quota").bearer(token).send().await;
        assert_eq!(answer.code(), "UNAUTHENTICATED");
        said.push(answer.json()["detail"].clone());
    }
    assert!(said[1..].iter().all(|detail| *detail == said[1]), "{said:?}");
}

#[tokio::test]
async fn an_agent_speaks_for_itself_only() {
    let (world, agent) = World::ready().await;
    let other = Agent::join(&world, "node-2").await;
    let path = format!("/internal/v1/nodes/{}/tasks/wait?wait_ms=0", agent.identity.node);
    let call = |path: &str| Call::new(world.server.internal(), Method::GET, path);
    assert_eq!(call(&path).send().await.code(), "UNAUTHENTICATED");
    assert_eq!(call(&path).from(other.identity).send().await.code(), "IDENTITY_MISMATCH");
    assert_eq!(call(&path).from(agent.identity).send().await.status, StatusCode::OK);
    assert_eq!(call("/internal/v1/nothing").send().await.code(), "UNAUTHENTICATED");
    assert_eq!(call("/api/v1/tasks").from(agent.identity).send().await.code(), "NOT_FOUND");
    // A node that joins again ends what its earlier certificate may do.
    Agent::join(&world, "node-1").await;
    assert_eq!(call(&path).from(agent.identity).send().await.code(), "IDENTITY_MISMATCH");
    let blob = agent.call(&world, Method::GET, &format!("blobs/{}", "0".repeat(64))).send().await;
    assert_eq!(blob.code(), "IDENTITY_MISMATCH");
}

#[tokio::test]
async fn a_join_token_works_once_and_a_bad_request_does_not_spend_it() {
    let world = World::new().await;
    let token = Agent::join_token(&world, "node-1").await.reveal();
    let join = |csr: &str| {
        let body = json!({"token": token, "name": "node-1", "csr_pem": csr, "facts": Agent::facts(), "later": 1});
        Call::new(world.server.internal(), Method::POST, "/internal/v1/nodes/join").json(&body).send()
    };
    assert_eq!(join("no request").await.code(), "CSR_INVALID");
    let csr = hostler_trust::NodeKey::generate().unwrap().csr("node-1").unwrap();
    let joined: Joined = join(&csr).await.of();
    // Whose answer was lost asks again, with the same key, and is the same node.
    let again: Joined = join(&csr).await.of();
    assert_eq!((again.node, again.enrolment), (joined.node, joined.enrolment));
    let other = hostler_trust::NodeKey::generate().unwrap().csr("node-1").unwrap();
    assert_eq!(join(&other).await.code(), "JOIN_TOKEN_INVALID");
}

#[tokio::test]
async fn a_node_that_waits_for_its_approval_reads_no_images() {
    let (world, agent) = World::ready().await;
    world.store.revoke_node(agent.identity.node, hostler_model::event::Actor::system()).await.unwrap().unwrap();
    let token = world.post("/api/v1/join-tokens", json!({"node": "node-1", "approve": false})).send().await.json();
    let pending = Agent::join_with(&world, "node-1", token["token"].as_str().unwrap()).await;
    let image = format!("images/{}", world.import_tiny().await.digest);
    for path in [image.clone(), format!("blobs/{}", "0".repeat(64))] {
        let refused = pending.call(&world, Method::GET, &path).send().await;
        assert_eq!(refused.code(), "NODE_STATE_CONFLICT", "{path}");
    }
    world.post("/api/v1/nodes/node-1/approve", json!({})).send().await;
    let manifest = pending.call(&world, Method::GET, &image).send().await;
    assert_eq!(manifest.status, StatusCode::OK, "{}", manifest.text());
}

#[tokio::test]
async fn the_probe_says_the_servers_version() {
    let answer = World::new().await.get("/healthz").no_credential().send().await;
    assert_eq!(answer.json(), json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}));
}
