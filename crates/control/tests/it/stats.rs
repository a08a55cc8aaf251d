//! Statistics of tasks over the API, and in the metrics.

use std::time::Duration;

use hostler_model::{kind::KindName, role::Role, stats::TaskStats};
use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::World;

#[tokio::test]
async fn they_tell_what_waits_what_runs_and_what_happened() {
    let (world, agent) = World::ready().await;
    let none: TaskStats = world.get("/api/v1/tasks/stats").send().await.of();
    assert_eq!((none.total.queued, none.kinds.len(), none.nodes.len()), (0, 0, 0));
    for message in ["one", "two"] {
        world.echo(message).await;
    }
    let one = agent.poll(&world, "wait_ms=5000&max=1").await.remove(0);
    world.pass(Duration::from_secs(3));
    assert_eq!(agent.finish(&world, &one, json!({"message": "one"})).await.status, StatusCode::OK);
    let told: TaskStats = world.get("/api/v1/tasks/stats").bearer(world.token(Role::Viewer)).send().await.of();
    let [kind] = &told.kinds[..] else { panic!("{told:?}") };
    assert_eq!((kind.kind, kind.figures.last[0].submitted, kind.figures.last[0].succeeded), (KindName::Echo, 2, 1));
    let [node] = &told.nodes[..] else { panic!("{told:?}") };
    assert_eq!(
        (node.name.as_ref().unwrap().as_str(), node.figures.last[2].started),
        ("node-1", told.total.last[2].started)
    );
    let document = world.get("/api/v1/tasks/stats").send().await.json();
    for field in ["queued", "running", "aborting", "dead_letters", "waiting_for", "last", "wait"] {
        assert!(!document["kinds"][0][field].is_null(), "{field}: {document:#}");
    }
    let metrics = world.get("/metrics").send().await.text();
    for line in [
        "hostler_task_events_total{what=\"submitted\",kind=\"echo\"} 2",
        "hostler_task_events_total{what=\"succeeded\",kind=\"echo\"} 1",
        "hostler_task_run_seconds_count{kind=\"echo\"} 1",
        "hostler_task_wait_seconds_bucket{le=\"+Inf\",kind=\"echo\"}",
        "hostler_tasks_waiting{for=\"paused\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_tenant_is_told_its_own_and_only_the_platform_of_all() {
    let (world, _agent) = World::ready().await;
    world.echo("x").await;
    let foreign: TaskStats = world.get("/api/v1/tasks/stats").bearer(&world.foreign).send().await.of();
    assert_eq!((foreign.total.queued + foreign.total.running, foreign.total.last[2].submitted), (0, 0));
    let all: TaskStats = world.get("/api/v1/tasks/stats?all_tenants=true").send().await.of();
    assert_eq!(all.total.last[2].submitted, 1);
    for token in [world.token(Role::TenantAdmin), &world.foreign] {
        let answer = world.get("/api/v1/tasks/stats?all_tenants=true").bearer(token).send().await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "FORBIDDEN"));
    }
}

#[tokio::test]
async fn they_are_told_of_one_kind_or_node_and_a_wrong_question_is_refused() {
    let (world, agent) = World::ready().await;
    world.echo("x").await;
    let path = "/api/v1/tasks/stats";
    for query in ["kind=echo", "node=node-1", &format!("node={}&kind=echo", agent.identity.node)] {
        let told: TaskStats = world.get(&format!("{path}?{query}")).send().await.of();
        assert_eq!(told.total.last[0].submitted, 1, "{query}");
    }
    let told: TaskStats = world.get(&format!("{path}?kind=vm.stop")).send().await.of();
    assert!(told.kinds.is_empty());
    for (query, code) in [
        ("kind=explode", "VALIDATION_ERROR"),
        ("minutes=5", "VALIDATION_ERROR"),
        ("all_tenants=perhaps", "VALIDATION_ERROR"),
        ("node=no-such", "NODE_NOT_FOUND"),
    ] {
        assert_eq!(world.get(&format!("{path}?{query}")).send().await.code(), code, "{query}");
    }
    let answer = world.call(Method::POST, path).send().await;
    assert_eq!(answer.code(), "METHOD_NOT_ALLOWED");
}
