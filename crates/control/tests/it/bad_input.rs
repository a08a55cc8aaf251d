//! Bad input: each a refusal with a stable code and a sentence, and nothing is left behind.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, World};

async fn post(world: &World, path: &str, body: Value) -> Answer {
    world.post(path, body).send().await
}

#[tokio::test]
async fn a_body_that_makes_no_sense_is_refused_and_leaves_nothing() {
    let (world, _agent) = World::ready().await;
    let before = world.marks().await;
    let vms = "/api/v1/vms";
    let tasks = "/api/v1/tasks";
    let cases: [(&str, Value, u16, &str, &str); 24] = [
        (vms, json!({"memory": 512}), 400, "VALIDATION_ERROR", "memory"),
        (vms, json!({"memory_mib": "2GB"}), 400, "VALIDATION_ERROR", "memory_mib"),
        (vms, json!({"memory_mib": 0}), 400, "VALIDATION_ERROR", "memory_mib"),
        (vms, json!({"memory_mib": -1}), 400, "VALIDATION_ERROR", "memory_mib"),
        (vms, json!({"memory_mib": 1.5}), 400, "VALIDATION_ERROR", "memory_mib"),
        (vms, json!({"vcpus": 100_000}), 400, "VALIDATION_ERROR", "vcpus"),
        (vms, json!({"disk_gib": i64::MAX}), 400, "VALIDATION_ERROR", "disk_gib"),
        (vms, json!({"disk_gib": 1e30}), 400, "VALIDATION_ERROR", "disk_gib"),
        (vms, json!({"ready_timeout_seconds": 0}), 400, "VALIDATION_ERROR", "ready_timeout_seconds"),
        (vms, json!({"name": "../etc"}), 400, "VALIDATION_ERROR", "name"),
        (vms, json!({"name": "it's"}), 400, "VALIDATION_ERROR", "name"),
        (vms, json!({"name": "\"; drop"}), 400, "VALIDATION_ERROR", "name"),
        (vms, json!({"name": ""}), 400, "VALIDATION_ERROR", "name"),
        (vms, json!({"image": "no-such"}), 404, "IMAGE_NOT_FOUND", "no-such"),
        (vms, json!({"node": "no-such"}), 404, "NODE_NOT_FOUND", "no-such"),
        (vms, json!([]), 400, "VALIDATION_ERROR", ""),
        (vms, json!("tiny"), 400, "VALIDATION_ERROR", ""),
        (tasks, json!({}), 400, "VALIDATION_ERROR", "kind"),
        (tasks, json!({"kind": "vm.explode"}), 400, "UNKNOWN_ACTION", "vm.explode"),
        (tasks, json!({"kind": "echo", "params": {"mesage": "x"}}), 400, "VALIDATION_ERROR", "mesage"),
        (tasks, json!({"kind": "echo", "params": {"delay_ms": -1}}), 400, "VALIDATION_ERROR", "delay_ms"),
        (tasks, json!({"kind": "echo", "target": {"vm": "x"}}), 400, "VALIDATION_ERROR", "target.vm"),
        (tasks, json!({"kind": "vm.delete"}), 400, "VALIDATION_ERROR", "target.vm"),
        (tasks, json!({"kind": "vm.delete", "target": {"vm": "../x"}}), 404, "VM_NOT_FOUND", "../x"),
    ];
    for (path, body, status, code, word) in cases {
        let answer = post(&world, path, body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{body} {}", answer.text());
        assert!(answer.text().contains(word), "{body} {}", answer.text());
        let dry = post(&world, &format!("{path}?dry_run=true"), body.clone()).await;
        assert_eq!(dry.code(), code, "{body}");
    }
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn a_program_without_arguments_is_refused() {
    let (world, _agent) = World::ready().await;
    world.post("/api/v1/vms", json!({"name": "web"})).send().await;
    let before = world.marks().await;
    for body in
        [json!({}), json!({"argv": []}), json!({"argv": "uname -a"}), json!({"argv": ["x"], "timeout_seconds": 0})]
    {
        let answer = post(&world, "/api/v1/vms/web/exec", body.clone()).await;
        assert_eq!(answer.code(), "VALIDATION_ERROR", "{body}");
    }
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn bytes_that_are_no_json_are_refused() {
    let world = World::new().await;
    let before = world.marks().await;
    let cases: [(&str, &[u8]); 6] = [
        ("application/json", b"{\"kind\": \"\xff\xfe\"}"),
        ("application/json", b"{\"kind\": "),
        ("application/json", b"kind=echo"),
        ("application/json", b"{} {}"),
        ("application/x-www-form-urlencoded", b"kind=echo"),
        ("text/plain", b"{\"kind\": \"echo\"}"),
    ];
    for (media, bytes) in cases {
        let answer = world.call(Method::POST, "/api/v1/tasks").body(media, bytes.to_vec()).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "MALFORMED_BODY"), "{media}");
    }
    let deep = "[".repeat(100_000);
    let answer = world.call(Method::POST, "/api/v1/tasks").body("application/json", deep).send().await;
    assert_eq!(answer.code(), "MALFORMED_BODY");
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_before_it_is_read() {
    let world = World::new().await;
    let call = world.call(Method::POST, "/api/v1/tasks").header("content-length", "104857600");
    // Its bytes never come: whoever waited for them would wait for ever.
    let answer = call
        .body("application/json", Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()))
        .send()
        .await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "BODY_TOO_LARGE"));
}

#[tokio::test]
async fn a_body_that_does_not_say_how_long_it_is_is_cut_at_the_limit() {
    let world = World::new().await;
    let pieces = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65536])));
    let call = world.call(Method::POST, "/api/v1/tasks").body("application/json", Body::from_stream(pieces));
    assert_eq!(call.send().await.code(), "BODY_TOO_LARGE");
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused() {
    let (world, _agent) = World::ready().await;
    assert_eq!(post(&world, "/api/v1/vms", json!({"name": "web"})).await.status, StatusCode::ACCEPTED);
    let before = world.marks().await;
    let answer = post(&world, "/api/v1/vms", json!({"name": "web"})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "NAME_TAKEN"));
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn no_node_and_no_room_are_explained() {
    let world = World::new().await;
    world.import_tiny().await;
    let before = world.marks().await;
    let answer = post(&world, "/api/v1/vms", json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "NO_CAPACITY"), "{}", answer.text());
    assert_eq!(world.marks().await, before);
    crate::harness::Agent::join(&world, "small").await;
    let before = world.marks().await;
    let answer = post(&world, "/api/v1/vms", json!({"memory_mib": 1_000_000})).await;
    assert_eq!(answer.code(), "NO_CAPACITY");
    assert!(answer.text().contains("small") && answer.text().contains("1000000 asked"), "{}", answer.text());
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn paths_queries_and_headers_that_make_no_sense_are_refused() {
    let world = World::new().await;
    let cases = [
        (Method::GET, "/api/v1/vms/..%2Fetc", 404, "VM_NOT_FOUND"),
        (Method::GET, "/api/v1/vms/it's", 404, "VM_NOT_FOUND"),
        (Method::GET, "/api/v1/vms/%ff", 404, "NOT_FOUND"),
        (Method::GET, "/api/v1/tasks/1", 404, "TASK_NOT_FOUND"),
        (Method::GET, "/api/v1/nodes/x", 404, "NODE_NOT_FOUND"),
        (Method::GET, "/api/v1/nothing", 404, "NOT_FOUND"),
        (Method::GET, "/internal/v1/nodes/join", 404, "NOT_FOUND"),
        (Method::PATCH, "/api/v1/tasks", 405, "METHOD_NOT_ALLOWED"),
        (Method::GET, "/api/v1/tasks?cursor=garbage", 400, "CURSOR_INVALID"),
        (Method::GET, "/api/v1/tasks?cursor=", 400, "CURSOR_INVALID"),
        (Method::GET, "/api/v1/tasks?limit=0", 400, "VALIDATION_ERROR"),
        (Method::GET, "/api/v1/tasks?limit=501", 400, "VALIDATION_ERROR"),
        (Method::GET, "/api/v1/tasks?limit=x", 400, "VALIDATION_ERROR"),
        (Method::GET, "/api/v1/tasks?state=lost", 400, "VALIDATION_ERROR"),
        (Method::GET, "/api/v1/tasks?colour=red", 400, "VALIDATION_ERROR"),
        (Method::GET, "/api/v1/events?after=-1", 400, "CURSOR_INVALID"),
        (Method::GET, "/api/v1/events?after=999999", 400, "CURSOR_INVALID"),
        (Method::PUT, "/api/v1/blobs/xyz", 400, "VALIDATION_ERROR"),
    ];
    for (method, path, status, code) in cases {
        let answer = world.call(method.clone(), path).send().await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{method} {path} {}",
            answer.text()
        );
    }
    let answer = world.post("/api/v1/tasks", json!({"kind": "echo"})).header("idempotency-key", "a b").send().await;
    assert_eq!(answer.code(), "VALIDATION_ERROR");
    let answer = world.call(Method::PATCH, "/api/v1/tasks").send().await;
    assert_eq!(answer.header("allow").split(',').count(), 3, "{}", answer.header("allow"));
}
