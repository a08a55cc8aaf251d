//! How often somebody may call.

use hostler_control::RateLimits;
use hostler_model::role::Role;
use http::StatusCode;

use crate::harness::World;

#[tokio::test]
async fn who_calls_too_often_is_told_when_to_come_again() {
    let world = World::slowed(RateLimits { token_per_second: 1, address_per_second: 0, burst_seconds: 3 }).await;
    let call = |role| world.get("/api/v1/vms").bearer(world.token(role)).send();
    for _ in 0..3 {
        assert_eq!(call(Role::Viewer).await.status, StatusCode::OK);
    }
    let refused = call(Role::Viewer).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (429, "RATE_LIMITED"));
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.json()["retry_after_seconds"], 1);
    // Others are not kept out by it.
    assert_eq!(call(Role::Operator).await.status, StatusCode::OK);
}

#[tokio::test]
async fn guesses_from_one_address_come_to_an_end() {
    let world = World::slowed(RateLimits { token_per_second: 0, address_per_second: 1, burst_seconds: 3 }).await;
    let guess = |address| world.get("/api/v1/vms").bearer("hos_wrong").at(address).send();
    for _ in 0..3 {
        assert_eq!(guess("192.0.2.1").await.code(), "UNAUTHENTICATED");
    }
    assert_eq!(guess("192.0.2.1").await.code(), "RATE_LIMITED");
    assert_eq!(world.get("/healthz").no_credential().at("192.0.2.1").send().await.code(), "RATE_LIMITED");
    assert_eq!(guess("192.0.2.2").await.code(), "UNAUTHENTICATED");
    for _ in 0..9 {
        assert_eq!(guess("127.0.0.1").await.code(), "UNAUTHENTICATED");
    }
}
