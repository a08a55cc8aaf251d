//! User-data and stdin: given to the node that works on their task, and shown to nobody else.

use hostler_model::{kind::KindName, task::Task};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Agent, World};

const SECRET: &str = "hunter2-hunter2";

/// Everything that people can read, as text.
async fn all_that_is_shown(world: &World) -> String {
    let mut shown = String::new();
    for path in ["/api/v1/tasks", "/api/v1/vms", "/api/v1/audit", "/metrics"] {
        shown.push_str(&world.get(path).send().await.text());
    }
    let log = world.store.log(Default::default(), 0, 10_000).await.unwrap();
    shown + &serde_json::to_string(&log).unwrap()
}

async fn secret(world: &World, agent: &Agent, task: &str, params: &Value, fence: &str) -> crate::harness::Answer {
    let id = params["secret"].as_str().unwrap();
    agent.call(world, Method::GET, &format!("tasks/{task}/secrets/{id}?fence={fence}")).send().await
}

#[tokio::test]
async fn user_data_is_given_to_the_node_under_its_fence_and_shown_to_nobody() {
    let (world, agent) = World::ready().await;
    let body =
        json!({"name": "web", "cloud_init": {"hostname": "h", "user": "ada", "runcmd": [format!("echo {SECRET}")]}});
    let answer = world.post("/api/v1/vms", body).send().await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    let said = answer.json();
    assert!(!said.to_string().contains(SECRET), "{said}");
    let (params, spec) = (&said["task"]["params"], &said["vm"]["spec"]);
    assert_eq!(params["cloud_init"], json!({"hostname": "h"}));
    assert_eq!(params["user_data"], spec["first_boot"]["user_data"]);
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    assert!(!json!(one).to_string().contains(SECRET), "it does not travel in the task");
    let (task, fence, wanted) = (one.sub.to_string(), one.fence.to_string(), &one.params["user_data"]);
    let given = secret(&world, &agent, &task, wanted, &fence).await.json();
    let text = given["text"].as_str().unwrap();
    assert!(text.starts_with("#cloud-config\n") && text.contains(SECRET), "{text}");
    assert_eq!(text.len() as u64, wanted["bytes"].as_u64().unwrap());
    let passed = secret(&world, &agent, &task, wanted, "1.9").await;
    assert_eq!((passed.status.as_u16(), passed.code().as_str()), (409, "STALE_FENCE"));
    assert_eq!(secret(&world, &agent, &task, wanted, "now").await.code(), "VALIDATION_ERROR");
    let other = Agent::join(&world, "other").await;
    assert_eq!(secret(&world, &other, &task, wanted, &fence).await.code(), "STALE_FENCE");
    assert!(!all_that_is_shown(&world).await.contains(SECRET));
}

#[tokio::test]
async fn what_a_program_reads_does_not_travel_in_its_task_either() {
    let (world, _agent) = World::ready().await;
    world.post("/api/v1/vms", json!({"name": "web"})).send().await;
    let answer = world.post("/api/v1/vms/web/exec", json!({"argv": ["cat"], "stdin": SECRET})).send().await;
    assert_eq!(answer.json()["task"]["params"]["stdin"]["bytes"], SECRET.len());
    let none = world.post("/api/v1/vms/web/exec", json!({"argv": ["cat"]})).send().await.json();
    assert_eq!(none["task"]["params"]["stdin"], "", "nothing is kept of nothing");
    assert!(!all_that_is_shown(&world).await.contains(SECRET));
}

#[tokio::test]
async fn a_retry_has_the_texts_of_the_first_one() {
    let (world, agent) = World::ready().await;
    world.post("/api/v1/vms", json!({"name": "web", "user_data": SECRET})).send().await;
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let end =
        json!({"result": "failed", "code": "HANDLER_FAILED", "detail": "no", "retryable": false, "effects": "undone"});
    agent.report(&world, &one, end).await;
    let again = world.post(&format!("/api/v1/tasks/{}/retry", one.sub), json!({})).send().await;
    assert_eq!(again.status, StatusCode::ACCEPTED, "{}", again.text());
    let again: Task = serde_json::from_value(again.json()["task"].clone()).unwrap();
    assert_eq!(again.kind, KindName::VmCreate);
    let two = agent.poll(&world, "wait_ms=5000").await.remove(0);
    assert_ne!(two.params["user_data"]["secret"], one.params["user_data"]["secret"]);
    let given = secret(&world, &agent, &two.sub.to_string(), &two.params["user_data"], &two.fence.to_string()).await;
    assert_eq!(given.json()["text"], SECRET);
}

#[tokio::test]
async fn nobody_can_name_a_text_that_is_not_his() {
    let (world, _agent) = World::ready().await;
    let said = world.post("/api/v1/vms", json!({"name": "web", "user_data": SECRET})).send().await.json();
    let stolen = said["task"]["params"]["user_data"].clone();
    let before = world.marks().await;
    for (path, body) in [
        ("/api/v1/vms", json!({"user_data": stolen})),
        ("/api/v1/vms", json!({"vendor_data": stolen})),
        ("/api/v1/vms/web/exec", json!({"argv": ["cat"], "stdin": stolen})),
        ("/api/v1/tasks", json!({"kind": "vm.create", "params": {"user_data": stolen}})),
    ] {
        let answer = world.post(path, body).send().await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "VALIDATION_ERROR"), "{}", answer.text());
        assert!(!answer.text().contains(SECRET));
    }
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn a_first_boot_that_makes_no_sense_is_refused_and_not_quoted() {
    let (world, _agent) = World::ready().await;
    let before = world.marks().await;
    let private = format!("-----BEGIN OPENSSH PRIVATE KEY-----{SECRET}");
    for (body, word) in [
        (json!({"cloud_init": {"hostname": "a b"}}), "cloud_init.hostname"),
        (json!({"cloud_init": {"user": "Root"}}), "cloud_init.user"),
        (json!({"cloud_init": {"ssh_authorized_keys": [private]}}), "private key"),
        (json!({"cloud_init": {"runcmd": [5, SECRET]}}), "runcmd"),
        (json!({"cloud_init": {"runcmd": SECRET}}), "runcmd"),
        (json!({"cloud_init": {"network": {"version": 1}}}), "cloud_init.network"),
        (json!({"cloud_init": {"sshKeys": []}}), "sshKeys"),
        (json!({"cloud_init": {"user": "ada"}, "user_data": SECRET}), "user_data"),
        (json!({"user_data": "x".repeat(256 * 1024 + 1)}), "user_data"),
        (json!({"user_data": [SECRET]}), "user_data"),
        (json!({"ready": "soon"}), "ready"),
        (json!({"ready": {"tcp": {"port": 0}}}), "ready.tcp.port"),
        (json!({"ready": {"marker": {"path": "run"}}}), "ready.marker.path"),
    ] {
        let answer = world.post("/api/v1/vms", body.clone()).send().await;
        let text = answer.text();
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "VALIDATION_ERROR"), "{body} {text}");
        assert!(text.contains(word) && !text.contains(SECRET), "{word}: {text}");
    }
    assert_eq!(world.marks().await, before);
}
