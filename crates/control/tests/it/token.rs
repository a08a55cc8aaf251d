//! Tokens of people and programs, and service accounts, through the routes of people.

use std::{convert::Infallible, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::stream;
use hostler_model::{
    PrincipalId, TenantId,
    caller::{Audience, Caller},
    role::Role,
    scope::Scopes,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::harness::{Answer, World};

async fn ask(world: &World, token: &str, body: Value) -> Answer {
    world.post("/api/v1/tokens", body).bearer(token).send().await
}

/// A token, and what it is.
async fn made(world: &World, token: &str, body: Value) -> (String, Value) {
    let answer = ask(world, token, body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    let body = answer.json();
    (body["token"].as_str().unwrap().to_owned(), body["about"].clone())
}

async fn whoami(world: &World, token: &str) -> Answer {
    world.get("/api/v1/whoami").bearer(token).send().await
}

#[tokio::test]
async fn a_token_is_shown_once_and_stands_for_its_maker() {
    let world = World::new().await;
    let operator = world.token(Role::Operator);
    for format in ["opaque", "jwt"] {
        let body = json!({"label": "laptop", "scopes": ["vm:read", "token:read"], "format": format});
        let (token, about) = made(&world, operator, body).await;
        let me = whoami(&world, &token).await.json();
        assert_eq!(me["principal"], whoami(&world, operator).await.json()["principal"]);
        assert_eq!(
            (&me["role"], &me["scopes"], &me["token"]),
            (&json!("operator"), &json!(["vm:read", "token:read"]), &about["id"])
        );
        assert_eq!(me["expires_at"], about["expires_at"]);
        let id = about["id"].as_str().unwrap();
        let shown = world.get(&format!("/api/v1/tokens/{id}")).bearer(&token).send().await;
        assert_eq!(shown.json(), about);
        let listed = world.get("/api/v1/tokens?limit=1").bearer(&token).send().await;
        assert_eq!(listed.json()["items"], json!([about]));
        let audit = world.get("/api/v1/audit").send().await.text();
        for text in [shown.text(), listed.text(), audit] {
            assert!(!text.contains(&token), "a token is shown twice: {text}");
        }
        assert_eq!(world.get("/api/v1/tasks").bearer(&token).send().await.code(), "FORBIDDEN");
        assert_eq!(world.get("/api/v1/vms").bearer(&token).send().await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_token_grants_nothing_that_its_maker_does_not_have() {
    let world = World::new().await;
    let of = async |audience, role, words: Option<&str>| {
        let caller = Caller::new(world.ids.next::<PrincipalId>(world.clock.now()), TenantId::DEFAULT, role);
        world.token_of(Caller { audience, scopes: Scopes::of_words(words), ..caller }).await
    };
    let operator = of(Audience::Tenant, Role::Operator, Some("vm:write token:write")).await;
    for (more, code) in [
        (json!({"role": "tenant-admin"}), "FORBIDDEN"),
        (json!({"role": "platform-admin"}), "FORBIDDEN"),
        (json!({"scopes": ["vm:exec"]}), "FORBIDDEN"),
        (json!({"scopes": ["vm:read", "task:read"]}), "FORBIDDEN"),
        (json!({"audience": "admin"}), "VALIDATION_ERROR"),
        (json!({"service_account": "ci"}), "FORBIDDEN"),
        (json!({"expires_in_seconds": 0}), "VALIDATION_ERROR"),
        (json!({"expires_in_seconds": 40_000_000}), "VALIDATION_ERROR"),
        (json!({"tenant": "stranger"}), "FORBIDDEN_OWNERSHIP"),
        (json!({"scopes": ["moon:read"]}), "VALIDATION_ERROR"),
        (json!({"label": ""}), "VALIDATION_ERROR"),
    ] {
        let mut body = json!({"label": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = ask(&world, &operator, body).await;
        assert_eq!(answer.code(), code, "{more}: {}", answer.text());
    }
    // What is left out is as narrow as its maker.
    let (token, _) = made(&world, &operator, json!({"label": "same"})).await;
    assert_eq!(world.get("/api/v1/vms").bearer(&token).send().await.status, StatusCode::OK);
    assert_eq!(world.get("/api/v1/tasks").bearer(&token).send().await.code(), "FORBIDDEN");
    // A tenant's credential makes none for the platform, whatever role stands in it.
    let capped = of(Audience::Tenant, Role::PlatformAdmin, None).await;
    assert_eq!(ask(&world, &capped, json!({"label": "x", "role": "platform-admin"})).await.code(), "FORBIDDEN");
    // A platform's may make a tenant's, and none of its own in another tenant.
    let body = json!({"label": "x", "role": "viewer"});
    let (viewer, about) = made(&world, world.token(Role::PlatformAdmin), body.clone()).await;
    assert_eq!((&about["audience"], &about["role"]), (&json!("tenant"), &json!("viewer")));
    assert_eq!(world.get("/api/v1/doctor").bearer(&viewer).send().await.code(), "FORBIDDEN");
    let elsewhere = world.post("/api/v1/tokens?tenant=stranger", body).send().await;
    assert_eq!(elsewhere.json()["field"], "service_account", "{}", elsewhere.text());
}

#[tokio::test]
async fn a_token_ends_in_time_and_makes_none_that_outlives_it() {
    let world = World::new().await;
    for format in ["opaque", "jwt"] {
        let body = json!({"label": "short", "expires_in_seconds": 60, "format": format});
        let (token, about) = made(&world, world.token(Role::Operator), body).await;
        assert_eq!(
            ask(&world, &token, json!({"label": "x", "expires_in_seconds": 61})).await.code(),
            "VALIDATION_ERROR"
        );
        let (_, child) = made(&world, &token, json!({"label": "x"})).await;
        assert_eq!((&child["expires_at"], &child["made_with"]), (&about["expires_at"], &about["id"]));
        world.pass(Duration::from_secs(59));
        assert_eq!(whoami(&world, &token).await.status, StatusCode::OK);
        world.pass(Duration::from_secs(1));
        let refused = whoami(&world, &token).await;
        assert_eq!((refused.code().as_str(), &refused.json()["expired_at"]), ("UNAUTHENTICATED", &about["expires_at"]));
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_and_those_it_made_where_that_is_asked() {
    let world = World::new().await;
    let operator = world.token(Role::Operator);
    for format in ["opaque", "jwt"] {
        let (token, about) = made(&world, operator, json!({"label": "a", "format": format})).await;
        let (child, _) = made(&world, &token, json!({"label": "b"})).await;
        let path = format!("/api/v1/tokens/{}", about["id"].as_str().unwrap());
        assert_eq!(whoami(&world, &token).await.status, StatusCode::OK);
        let revoked = world.call(Method::DELETE, &path).bearer(operator).send().await.json();
        assert!(revoked["revoked_at"].is_string(), "{revoked}");
        let refused = whoami(&world, &token).await;
        assert_eq!(
            (refused.code().as_str(), &refused.json()["revoked_at"]),
            ("UNAUTHENTICATED", &revoked["revoked_at"])
        );
        assert_eq!(whoami(&world, &child).await.status, StatusCode::OK);
        world.call(Method::DELETE, &format!("{path}?with_made=true")).bearer(operator).send().await;
        assert_eq!(whoami(&world, &child).await.code(), "UNAUTHENTICATED");
    }
}

/// A body that says when it is asked for, which is behind the gate, and comes when it is let go.
fn held(text: String) -> (Body, oneshot::Receiver<()>, oneshot::Sender<()>) {
    let ((asks, asked), (go, goes)) = (oneshot::channel(), oneshot::channel());
    let come = async move {
        asks.send(()).unwrap();
        goes.await.unwrap();
        Ok::<_, Infallible>(Bytes::from(text))
    };
    (Body::from_stream(stream::once(come)), asked, go)
}

#[tokio::test]
async fn a_body_that_comes_after_its_token_was_revoked_or_is_over_does_nothing() {
    let world = World::new().await;
    let admin = world.token(Role::PlatformAdmin);
    for (method, path, body) in [
        (Method::POST, "/api/v1/tokens", json!({"label": "late"})),
        (Method::POST, "/api/v1/service-accounts", json!({"name": "late", "role": "viewer"})),
        (Method::POST, "/api/v1/tenants", json!({"name": "late"})),
        (Method::POST, "/api/v1/join-tokens", json!({})),
        (Method::POST, "/api/v1/keys", json!({})),
        (Method::POST, "/api/v1/tasks", json!({"kind": "echo", "params": {"message": "late"}})),
        (Method::PUT, "/api/v1/images/late/content", json!("the bytes of an image")),
    ] {
        for revoked in [true, false] {
            let (token, about) = made(&world, admin, json!({"label": "x", "expires_in_seconds": 60})).await;
            let (body, asked, go) = held(body.to_string());
            let call = world.call(method.clone(), path).bearer(&token).body("application/json", body);
            let (answer, before) = tokio::join!(call.send(), async {
                asked.await.unwrap();
                if revoked {
                    let path = format!("/api/v1/tokens/{}", about["id"].as_str().unwrap());
                    assert_eq!(world.call(Method::DELETE, &path).send().await.status, StatusCode::OK);
                } else {
                    world.pass(Duration::from_secs(60));
                }
                let before = world.store.log_head().await.unwrap();
                go.send(()).unwrap();
                before
            });
            assert_eq!(answer.code(), "UNAUTHENTICATED", "{path}");
            assert_eq!(world.store.log_head().await.unwrap(), before, "something was done at {path}");
        }
    }
}

/// Another server over the same store hears of it; what it remembers is gone with the hint, or with its time.
#[tokio::test]
async fn another_server_hears_of_a_revocation() {
    let world = World::new().await;
    let (token, about) = made(&world, world.token(Role::Operator), json!({"label": "a"})).await;
    assert_eq!(whoami(&world, &token).await.status, StatusCode::OK);
    let id = about["id"].as_str().unwrap().parse().unwrap();
    let actor = hostler_model::event::Actor::system();
    world.store.revoke_token(id, hostler_store::Revoke::One, actor).await.unwrap().unwrap();
    for _ in 0..500 {
        if whoami(&world, &token).await.status == StatusCode::UNAUTHORIZED {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a revoked token is still believed after half a second");
}

#[tokio::test]
async fn tokens_are_seen_by_their_holder_and_by_who_answers_for_the_tenant() {
    let world = World::new().await;
    let (_, about) = made(&world, world.token(Role::Operator), json!({"label": "mine"})).await;
    let (_, platform) = made(&world, world.token(Role::PlatformAdmin), json!({"label": "platform"})).await;
    let sees = async |token: &str, about: &Value| {
        let path = format!("/api/v1/tokens/{}", about["id"].as_str().unwrap());
        let shown = world.get(&path).bearer(token).send().await.status == StatusCode::OK;
        let list = world.get("/api/v1/tokens?limit=500").bearer(token).send().await.json();
        let listed = list["items"].as_array().unwrap().contains(about);
        assert_eq!(shown, listed, "{list}");
        if !shown {
            assert_eq!(world.call(Method::DELETE, &path).bearer(token).send().await.code(), "TOKEN_NOT_FOUND");
        }
        shown
    };
    let (operator, admin) = (world.token(Role::Operator), world.token(Role::TenantAdmin));
    assert!(sees(operator, &about).await && sees(admin, &about).await);
    assert!(!sees(world.token(Role::Viewer), &about).await && !sees(&world.foreign, &about).await);
    // The platform's are not for a tenant's administrator, though they are of the same tenant.
    assert!(!sees(admin, &platform).await && sees(world.token(Role::PlatformAdmin), &platform).await);
    assert_eq!(world.get("/api/v1/tokens/nonsense").send().await.code(), "TOKEN_NOT_FOUND");
}

#[tokio::test]
async fn a_service_account_has_tokens_up_to_its_role_and_they_go_with_it() {
    let world = World::new().await;
    let admin = world.token(Role::TenantAdmin);
    let account = |token: &str, role: &str| {
        world.post("/api/v1/service-accounts", json!({"name": "ci", "role": role})).bearer(token).send()
    };
    assert_eq!(account(world.token(Role::Operator), "viewer").await.code(), "FORBIDDEN");
    assert_eq!(account(admin, "platform-admin").await.code(), "FORBIDDEN");
    assert_eq!(account(admin, "operator").await.status, StatusCode::CREATED);
    assert_eq!(account(admin, "operator").await.code(), "NAME_TAKEN");
    let more = json!({"label": "x", "service_account": "ci", "role": "tenant-admin"});
    assert_eq!(ask(&world, admin, more).await.code(), "FORBIDDEN");
    let (token, about) = made(&world, admin, json!({"label": "build", "service_account": "ci"})).await;
    assert_eq!((&about["role"], &about["service_account"]), (&json!("operator"), &json!("ci")));
    assert_eq!(whoami(&world, &token).await.json()["service_account"], "ci");
    let listed = world.get("/api/v1/service-accounts").bearer(&token).send().await.json();
    assert_eq!(listed["items"][0]["name"], "ci");
    let foreign = world.call(Method::DELETE, "/api/v1/service-accounts/ci").bearer(&world.foreign).send().await;
    assert_eq!(foreign.code(), "SERVICE_ACCOUNT_NOT_FOUND");
    let gone = world.call(Method::DELETE, "/api/v1/service-accounts/ci").bearer(admin).send().await;
    assert_eq!(gone.status, StatusCode::OK);
    assert_eq!(whoami(&world, &token).await.code(), "UNAUTHENTICATED");
    let unknown = ask(&world, admin, json!({"label": "x", "service_account": "ci"})).await;
    assert_eq!(unknown.code(), "SERVICE_ACCOUNT_NOT_FOUND");
}

#[tokio::test]
async fn a_signed_token_is_verified_by_the_published_keys() {
    let world = World::new().await;
    let body = json!({"label": "x", "format": "jwt", "scopes": ["vm:read"]});
    let (token, about) = made(&world, world.token(Role::Operator), body).await;
    let keys = world.get("/.well-known/jwks.json").no_credential().send().await.json();
    let key = &keys["keys"][0];
    assert!(key["d"].is_null(), "a private key is published");
    let verifies = jsonwebtoken::DecodingKey::from_ed_components(key["x"].as_str().unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.set_audience(&["tenant"]);
    validation.set_issuer(&["hostler-test"]);
    let claims = jsonwebtoken::decode::<Value>(&token, &verifies, &validation).unwrap().claims;
    assert_eq!((&claims["jti"], &claims["sub"]), (&about["id"], &about["principal"]));
    assert_eq!((&claims["roles"], &claims["scope"]), (&json!(["operator"]), &json!("vm:read")));
    assert_eq!(claims["tenant"], json!(TenantId::DEFAULT));
    // One that the issuer signed and never gave out lets nobody in.
    let app = world.server.app();
    let until = world.clock.now().plus(Duration::from_secs(60));
    let caller = Caller::new(PrincipalId::SYSTEM, TenantId::DEFAULT, Role::PlatformAdmin);
    let stray = app.access.issue(world.ids.next(world.clock.now()), &caller, world.clock.now(), until).unwrap();
    assert_eq!(whoami(&world, &stray).await.code(), "UNAUTHENTICATED");
    for wrong in [format!("{token}x"), token.replace('.', ""), format!("{}.", token.rsplit_once('.').unwrap().0)] {
        assert_eq!(whoami(&world, &wrong).await.code(), "UNAUTHENTICATED");
    }
}
