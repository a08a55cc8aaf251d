//! Who may call what: every route of the document, with every role and without any.

use base64::{Engine, engine::general_purpose::STANDARD};
use hostler_model::kind::Role;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Agent, Call, World, stranger};

fn routes() -> Vec<(Method, String)> {
    let document: Value = serde_json::from_str(&hostler_control::openapi()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{task}", "01900000-0000-7000-8000-000000000042");
        let path = path
            .replace("{vm}", "no-such")
            .replace("{node}", "no-such")
            .replace("{snapshot}", "no-such")
            .replace("{image}", "no-such")
            .replace("{import}", "no-such")
            .replace("{sha256}", &"0".repeat(64));
        let path = path.replace("{file}", "index.html");
        for method in item.as_object().unwrap().keys() {
            routes.push((method.to_ascii_uppercase().parse().unwrap(), path.clone()));
        }
    }
    routes
}

#[tokio::test]
async fn nothing_but_health_answers_without_a_credential() {
    let world = World::new().await;
    for (method, path) in routes() {
        let answer = world.call(method.clone(), &path).no_credential().send().await;
        if ["/healthz", "/readyz"].contains(&path.as_str()) {
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            continue;
        }
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "UNAUTHENTICATED"), "{method} {path}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}");
    }
    for path in ["/", "/api/v1/nothing", "/docs"] {
        assert_eq!(world.get(path).no_credential().send().await.status.as_u16(), 401, "{path}");
    }
}

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
async fn a_lesser_role_is_refused_what_the_table_says() {
    let world = World::new().await;
    let viewer_may: Vec<&str> = vec![
        "/openapi.json",
        "/docs",
        "/docs/index.html",
        "/api/v1/tasks",
        "/api/v1/tasks/dead",
        "/api/v1/tasks/stats",
        "/api/v1/tasks/kinds",
        "/api/v1/vms",
        "/api/v1/snapshots",
        "/api/v1/images",
        "/api/v1/imports",
        "/api/v1/catalogue",
        "/api/v1/quota",
        "/api/v1/nodes",
    ];
    for (method, path) in routes() {
        // The stream does not end by itself.
        if path == "/api/v1/events" || ["/healthz", "/readyz"].contains(&path.as_str()) {
            continue;
        }
        let answer = world.call(method.clone(), &path).bearer(world.token(Role::Viewer)).send().await;
        let reads = method == Method::GET
            && (viewer_may.contains(&path.as_str()) || path.contains("no-such") || path.contains("0042"));
        assert_eq!(answer.status == StatusCode::FORBIDDEN, !reads, "{method} {path} {}", answer.status);
    }
    for (role, path, allowed) in [
        (Role::Operator, "/api/v1/audit", false),
        (Role::TenantAdmin, "/api/v1/audit", true),
        (Role::TenantAdmin, "/api/v1/doctor", false),
        (Role::PlatformAdmin, "/api/v1/doctor", true),
        (Role::TenantAdmin, "/metrics", false),
    ] {
        let answer = world.get(path).bearer(world.token(role)).send().await;
        assert_eq!(answer.status == StatusCode::OK, allowed, "{role:?} {path} {}", answer.text());
    }
}

#[tokio::test]
async fn another_tenants_things_are_not_there() {
    let (world, _agent) = World::ready().await;
    let vm = world.post("/api/v1/vms", json!({"name": "web"})).send().await.json();
    let (task, id) = (vm["task"]["id"].as_str().unwrap(), vm["vm"]["id"].as_str().unwrap());
    let before = world.marks().await;
    for (method, path) in [
        (Method::GET, format!("/api/v1/tasks/{task}")),
        (Method::POST, format!("/api/v1/tasks/{task}/cancel")),
        (Method::POST, format!("/api/v1/tasks/{task}/retry")),
        (Method::GET, format!("/api/v1/vms/{id}")),
        (Method::GET, "/api/v1/vms/web".to_owned()),
        (Method::DELETE, format!("/api/v1/vms/{id}")),
    ] {
        let answer = world.call(method.clone(), &path).bearer(&world.foreign).send().await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    for path in ["/api/v1/tasks", "/api/v1/vms", "/api/v1/images", "/api/v1/audit"] {
        let answer = world.get(path).bearer(&world.foreign).send().await.json();
        let items = answer["items"].as_array().unwrap();
        assert!(items.iter().all(|item| item["tenant"] == json!(stranger())), "{path} {answer}");
    }
    assert_eq!(world.marks().await, before);
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
    let token = Agent::join_token(&world).await.reveal();
    let join = |csr: &str| {
        let body = json!({"token": token, "name": "node-1", "csr_pem": csr, "facts": Agent::facts(), "later": 1});
        Call::new(world.server.internal(), Method::POST, "/internal/v1/nodes/join").json(&body).send()
    };
    assert_eq!(join("no request").await.code(), "CSR_INVALID");
    let csr = hostler_trust::NodeKey::generate().unwrap().csr("node-1").unwrap();
    assert_eq!(join(&csr).await.status, StatusCode::OK);
    assert_eq!(join(&csr).await.code(), "JOIN_TOKEN_INVALID");
}

#[tokio::test]
async fn the_probe_says_the_servers_version() {
    let answer = World::new().await.get("/healthz").no_credential().send().await;
    assert_eq!(answer.json(), json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}));
}
