//! Tenants over the API: who sees which, how one is made, changed and deleted.

use hostler_model::{
    PrincipalId, TenantId,
    caller::{Audience, Caller},
    role::Role,
};
use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{World, stranger};

#[tokio::test]
async fn a_tenant_is_made_with_the_limits_that_are_said_and_the_servers_for_the_rest() {
    let world = World::new().await;
    let mut defaults = world.server.app().defaults();
    defaults.limits.vms = 10;
    world.server.app().set_defaults(defaults);
    let body = json!({"name": "acme", "limits": {"vcpus": 4}});
    let ask = || world.post("/api/v1/tenants", body.clone()).header("idempotency-key", "k1");
    let made = ask().send().await;
    assert_eq!((made.status, made.header("etag")), (StatusCode::CREATED, "\"1\""));
    let tenant = made.json();
    assert_eq!(made.header("location"), format!("/api/v1/tenants/{}", tenant["id"].as_str().unwrap()));
    assert_eq!(
        tenant["limits"],
        json!({"vcpus": 4, "memory_mib": -1, "disk_gib": -1, "vms": 10, "running_vms": -1, "snapshots": -1, "images_gib": -1})
    );
    let again = ask().send().await;
    assert_eq!((again.header("idempotency-replayed"), again.json()), ("true", tenant));
    assert_eq!(world.post("/api/v1/tenants", body.clone()).send().await.code(), "NAME_TAKEN");
    let dry = world.post("/api/v1/tenants?dry_run=true", json!({"name": "other"})).send().await;
    assert_eq!((dry.status, &dry.json()["name"]), (StatusCode::OK, &json!("other")));
    assert_eq!(world.get("/api/v1/tenants/other").send().await.code(), "NOT_FOUND");
    for bad in [json!({"name": "No"}), json!({"name": "x", "limits": {"vms": -2}}), json!({"name": "x", "vms": 1})] {
        assert_eq!(world.post("/api/v1/tenants", bad).send().await.code(), "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn a_tenants_callers_see_their_own_and_no_other() {
    let world = World::new().await;
    let own = world.get("/api/v1/tenants/stranger").bearer(&world.foreign).send().await;
    assert_eq!(own.json()["id"], json!(stranger()));
    let other = world.get("/api/v1/tenants/default").bearer(&world.foreign).send().await;
    let none = world.get("/api/v1/tenants/no-such").bearer(&world.foreign).send().await;
    assert_eq!(
        (other.status, other.code(), none.code()),
        (StatusCode::NOT_FOUND, "NOT_FOUND".into(), "NOT_FOUND".into())
    );
    assert_eq!(world.get("/api/v1/tenants").bearer(&world.foreign).send().await.code(), "FORBIDDEN");
    let nobodys = Caller {
        audience: Audience::Admin,
        tenant: None,
        ..Caller::new(world.ids.next::<PrincipalId>(world.clock.now()), TenantId::DEFAULT, Role::PlatformAdmin)
    };
    let token = world.token_of(nobodys).await;
    assert_eq!(world.get("/api/v1/tenants/stranger").bearer(&token).send().await.status, StatusCode::OK);
}

#[tokio::test]
async fn tenants_come_page_by_page() {
    let world = World::new().await;
    let first = world.get("/api/v1/tenants?limit=1").send().await.json();
    assert_eq!(first["items"][0]["name"], "stranger");
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = world.get(&format!("/api/v1/tenants?cursor={cursor}")).send().await.json();
    assert_eq!((rest["items"][0]["name"].as_str(), rest["next_cursor"].as_str()), (Some("default"), None));
}

#[tokio::test]
async fn a_limit_below_what_a_tenant_has_blocks_growth_only() {
    let (world, agent) = World::ready().await;
    world.post("/api/v1/vms", json!({"name": "web"})).send().await;
    let limits = json!({"limits": {"vms": 0}});
    let patch =
        |tag: &'static str| world.call(Method::PATCH, "/api/v1/tenants/default").header("if-match", tag).json(&limits);
    let changed = patch("\"1\"").send().await;
    assert_eq!((changed.header("etag"), &changed.json()["book"]["held"]["vms"]), ("\"2\"", &json!(1)));
    assert_eq!(patch("\"1\"").send().await.code(), "PRECONDITION_FAILED");
    for route in ["/api/v1/vms", "/api/v1/vms?dry_run=true"] {
        let refused = world.post(route, json!({"name": "more"})).send().await;
        assert_eq!(refused.code(), "QUOTA_EXCEEDED");
        assert_eq!(refused.json()["over"], json!([{"resource": "vms", "limit": 0, "used": 0, "held": 1, "asked": 1}]));
    }
    // What there is goes on.
    assert_eq!(agent.poll(&world, "wait_ms=5000").await.len(), 1);
}

#[tokio::test]
async fn a_tenant_that_has_something_is_not_deleted() {
    let world = World::new().await;
    let gone = || world.call(Method::DELETE, "/api/v1/tenants/stranger");
    let refused = gone().send().await;
    assert_eq!((refused.code().as_str(), &refused.json()["remains"]), ("TENANT_IN_USE", &json!({"tokens": 1})));
    let tokens = world.get("/api/v1/tokens?tenant=stranger").send().await.json();
    let token = tokens["items"][0]["id"].as_str().unwrap();
    world.call(Method::DELETE, &format!("/api/v1/tokens/{token}")).send().await;
    assert_eq!(world.call(Method::DELETE, "/api/v1/tenants/stranger?dry_run=true").send().await.status, StatusCode::OK);
    assert_eq!(gone().send().await.status, StatusCode::OK);
    assert_eq!(gone().send().await.code(), "NOT_FOUND");
    assert_eq!(world.get("/api/v1/quota?tenant=stranger").send().await.code(), "NOT_FOUND");
    assert_eq!(world.call(Method::DELETE, "/api/v1/tenants/default").send().await.code(), "TENANT_IN_USE");
}
