//! Lists: newest first, page by page, filtered.

use hostler_model::{kind::KindInfo, role::Role};
use serde_json::json;

use crate::harness::World;

#[tokio::test]
async fn pages_follow_one_another_newest_first() {
    let (world, _agent) = World::ready().await;
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(json!(world.echo(&n.to_string()).await.id));
    }
    made.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/api/v1/tasks?limit=2{cursor}")).send().await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|task| task["id"].clone()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, made);
    let foreign = cursor.trim_start_matches('&');
    assert_eq!(world.get(&format!("/api/v1/vms?{foreign}")).send().await.code(), "CURSOR_INVALID");
}

#[tokio::test]
async fn filters_keep_what_fits() {
    let (world, agent) = World::ready().await;
    world.echo("x").await;
    let vm = world.post("/api/v1/vms", json!({"name": "web"})).send().await.json();
    let count = |path: String| {
        let call = world.get(&path);
        async move { call.send().await.json()["items"].as_array().unwrap().len() }
    };
    assert_eq!(count("/api/v1/tasks?kind=vm.create".into()).await, 1);
    assert_eq!(count("/api/v1/tasks?state=running".into()).await, 0);
    assert_eq!(count(format!("/api/v1/tasks?vm={}", vm["vm"]["id"].as_str().unwrap())).await, 1);
    assert_eq!(count("/api/v1/vms?state=running".into()).await, 0);
    assert_eq!(count("/api/v1/vms?node=node-1".into()).await, 1);
    assert_eq!(count(format!("/api/v1/vms?node={}", agent.identity.node)).await, 1);
    assert_eq!(count("/api/v1/nodes".into()).await, 1);
}

#[tokio::test]
async fn the_kinds_are_listed_as_the_code_has_them() {
    let world = World::new().await;
    let told = world.get("/api/v1/tasks/kinds").bearer(world.token(Role::Viewer)).send().await.json();
    let kinds: Vec<KindInfo> = serde_json::from_value(told["items"].clone()).unwrap();
    assert_eq!(kinds, KindInfo::all());
    let exec = told["items"].as_array().unwrap().iter().find(|kind| kind["kind"] == "vm.exec").unwrap();
    assert_eq!(
        (&exec["class"], &exec["role"], &exec["on_uncertain"]),
        (&json!("guest"), &json!("operator"), &json!("fail"))
    );
    // They are no word for a task's id.
    assert_eq!(world.get("/api/v1/tasks/kind").send().await.code(), "TASK_NOT_FOUND");
}
