//! Quotas over the API: read by whom they are for, changed and held by the platform's administrators.

use hostler_model::role::Role;
use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::World;

#[tokio::test]
async fn a_tenant_sees_its_own_quota_and_what_is_held_for_it() {
    let world = World::new().await;
    let quota = "/api/v1/tenants/stranger/quota";
    let changed = world.call(Method::PATCH, quota).json(&json!({"vms": 2, "running_vms": 1})).send().await;
    assert_eq!((changed.status, changed.header("etag")), (StatusCode::OK, "\"2\""));
    let own = world.get(quota).bearer(&world.foreign).send().await.json();
    assert_eq!((&own["limits"]["vms"], &own["limits"]["snapshots"]), (&json!(2), &json!(-1)));
    let held = json!({"amount": {"vms": 2}, "reason": "the fair on Monday"});
    let path = "/api/v1/tenants/stranger/reservations";
    assert_eq!(world.post(&format!("{path}?dry_run=true"), held.clone()).send().await.status, StatusCode::OK);
    let made = world.post(path, held.clone()).send().await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let over = world.post(path, held.clone()).send().await;
    assert_eq!(over.code(), "QUOTA_EXCEEDED");
    assert_eq!(over.json()["over"], json!([{"resource": "vms", "limit": 2, "used": 0, "held": 2, "asked": 2}]));
    let list = world.get(path).bearer(&world.foreign).send().await.json();
    assert_eq!(list["items"], json!([made.json()]));
    assert_eq!(world.post(path, held).bearer(&world.foreign).send().await.code(), "FORBIDDEN");
    assert_eq!(world.get("/api/v1/tenants/default/quota").bearer(&world.foreign).send().await.code(), "NOT_FOUND");
}

#[tokio::test]
async fn a_reservation_whose_answer_was_lost_is_held_once() {
    let world = World::new().await;
    let reserve = |vms: i64| {
        let body = json!({"amount": {"vms": vms}, "reason": "x"});
        world.post("/api/v1/tenants/default/reservations", body).header("idempotency-key", "k1")
    };
    let (first, again) = (reserve(2).send().await, reserve(2).send().await);
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!((again.json(), again.header("idempotency-replayed")), (first.json(), "true"));
    assert_eq!(world.get("/api/v1/quota").send().await.json()["book"]["held"]["vms"], 2);
    assert_eq!(reserve(3).send().await.code(), "IDEMPOTENCY_MISMATCH");
}

#[tokio::test]
async fn images_are_in_the_quota_by_the_bytes_that_a_refusal_names() {
    let world = World::new().await;
    let image = world.import_tiny().await;
    let bytes: u64 = image.manifest.files.values().map(|file| file.size).sum();
    let quotas = ["/api/v1/quota", "/api/v1/tenants/default/quota"];
    for quota in quotas {
        assert_eq!(world.get(quota).send().await.json()["images_bytes"], bytes, "{quota}");
    }
    let patched = world.call(Method::PATCH, quotas[1]).json(&json!({"images_gib": 0})).send().await;
    assert_eq!(patched.json()["images_bytes"], bytes);
    assert_eq!(world.get("/api/v1/tenants/stranger/quota").send().await.json()["images_bytes"], 0);
}

#[tokio::test]
async fn a_nodes_book_is_counted_anew_by_the_platform_only() {
    let (world, agent) = World::ready().await;
    let path = format!("/api/v1/nodes/{}/recalculate", agent.identity.node);
    world.post("/api/v1/vms", json!({})).send().await;
    let counted = world.post(&path, json!({})).send().await.json();
    assert_eq!((&counted["differed"], &counted["book"]["held"]["vms"]), (&json!(false), &json!(1)), "{counted}");
    let tenants = world.post(&path, json!({})).bearer(world.token(Role::TenantAdmin)).send().await;
    assert_eq!(tenants.code(), "FORBIDDEN");
    assert_eq!(world.post("/api/v1/nodes/none/recalculate", json!({})).send().await.code(), "NODE_NOT_FOUND");
}

#[tokio::test]
async fn what_is_released_twice_was_there_once() {
    let world = World::new().await;
    let path = "/api/v1/tenants/default/reservations";
    let made = world.post(path, json!({"amount": {"vcpus": 4}, "reason": "x"})).send().await.json();
    let release = || world.call(Method::DELETE, &format!("{path}/{}", made["id"].as_str().unwrap()));
    assert_eq!(release().send().await.json(), made);
    assert_eq!(release().send().await.code(), "NOT_FOUND");
    let again = world.post("/api/v1/tenants/default/quota/recalculate", json!({})).send().await.json();
    assert_eq!((&again["differed"], &again["book"]["held"]["vcpus"]), (&json!(false), &json!(0)));
    for bad in [
        json!({"amount": {"vcpus": 4}}),
        json!({"amount": {"vcpus": -4}, "reason": "x"}),
        json!({"amount": {}, "reason": "x"}),
        json!({"amount": {"vcpu": 1}, "reason": "x"}),
        json!({"amount": {"vcpus": 1}, "reason": "x", "expires_in_seconds": 0}),
    ] {
        assert_eq!(world.post(path, bad).send().await.code(), "VALIDATION_ERROR");
    }
}
