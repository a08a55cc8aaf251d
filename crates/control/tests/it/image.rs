//! Images that are here: their names, which nodes have them, when they go, and which are known.

use std::time::Duration;

use hostler_model::{Timestamp, defaults::Defaults, image::Sha256Hex, node::NodeFacts, role::Role};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    disk::{Disks, import, upload},
    harness::{Agent, World},
};

#[tokio::test]
async fn names_stand_for_images_until_they_are_deleted() {
    let (world, _agent) = World::ready().await;
    let put = |name: &str, image: &str| {
        world.call(Method::PUT, &format!("/api/v1/images/{name}")).json(&json!({"image": image}))
    };
    let alias = put("Rocky-10-GenericCloud-Base.latest", "tiny").send().await;
    assert_eq!(alias.json()["names"], json!(["Rocky-10-GenericCloud-Base.latest", "tiny"]));
    assert_eq!(put("other", "no-such").send().await.code(), "IMAGE_NOT_FOUND");
    assert_eq!(put("..", "tiny").send().await.code(), "VALIDATION_ERROR");
    assert_eq!(put(&"a".repeat(64), "tiny").send().await.code(), "VALIDATION_ERROR");
    let made = world.post("/api/v1/vms", json!({"name": "web", "image": "Rocky-10-GenericCloud-Base.latest"}));
    let digest = made.send().await.json()["vm"]["spec"]["image_digest"].clone();
    let again = world.post("/api/v1/vms", json!({"name": "web-2", "image": digest})).send().await;
    assert_eq!(again.json()["vm"]["spec"]["image_digest"], digest, "{}", again.text());
    let delete = |name: &str| world.call(Method::DELETE, &format!("/api/v1/images/{name}")).send();
    assert_eq!(delete("tiny").await.json()["image"]["names"], json!(["Rocky-10-GenericCloud-Base.latest"]));
    assert_eq!(world.get("/api/v1/images/tiny").send().await.code(), "IMAGE_NOT_FOUND");
    let info = world.get(&format!("/api/v1/images/{}", digest.as_str().unwrap())).send().await.json();
    assert_eq!((&info["digest"], &info["vms"]), (&digest, &json!(2)));
    let refused = delete("Rocky-10-GenericCloud-Base.latest").await;
    assert_eq!(refused.code(), "IMAGE_IN_USE");
    assert!(refused.text().contains("web"), "{}", refused.text());
}

#[tokio::test]
async fn an_image_is_brought_to_nodes_and_taken_from_them() {
    let (world, agent) = World::ready().await;
    let pull = |body: Value| world.post("/api/v1/images/tiny/pull", body).send();
    let pulled = pull(json!({})).await;
    assert_eq!(pulled.status, StatusCode::ACCEPTED, "{}", pulled.text());
    let task = pulled.json()["tasks"][0].clone();
    assert_eq!((&task["kind"], &task["node"]), (&json!("image.pull"), &json!(agent.identity.node)));
    let leased = agent.poll(&world, "max=5&wait_ms=0").await.pop().unwrap();
    assert_eq!(leased.params["image_digest"], pulled.json()["image"]["digest"]);
    agent.finish(&world, &leased, json!({"fetched": true, "bytes": 19})).await;
    let ended = world.get(&format!("/api/v1/tasks/{}", leased.sub)).send().await.json();
    assert_eq!((&ended["state"], &ended["output"]["bytes"]), (&json!("succeeded"), &json!(19)));
    assert_eq!(pull(json!({"node": "no-such"})).await.code(), "NODE_NOT_FOUND");
    assert_eq!(pull(json!({"nodes": "node-1"})).await.code(), "VALIDATION_ERROR");
    assert_eq!(world.post("/api/v1/images/none/pull", json!({})).send().await.code(), "IMAGE_NOT_FOUND");
    let evicted = world.call(Method::DELETE, "/api/v1/images/tiny?node=node-1").send().await;
    assert_eq!((evicted.status, &evicted.json()["tasks"][0]["kind"]), (StatusCode::ACCEPTED, &json!("image.delete")));
    assert!(world.get("/api/v1/images/tiny").send().await.status.is_success(), "only the node's copy goes");
    for kind in ["image.pull", "image.delete"] {
        let body = |image: &str| json!({"kind": kind, "params": {"image": image}, "target": {"node": "node-1"}});
        assert_eq!(world.post("/api/v1/tasks", body("none")).send().await.code(), "IMAGE_NOT_FOUND");
        assert_eq!(world.post("/api/v1/tasks", body("tiny")).send().await.status, StatusCode::ACCEPTED);
        // Another tenant's image is none, also by its digest.
        let digest = pulled.json()["image"]["digest"].as_str().unwrap().to_owned();
        let foreign = world.post("/api/v1/tasks", body(&digest)).bearer(&world.foreign);
        assert_eq!(foreign.send().await.code(), "IMAGE_NOT_FOUND");
    }
}

#[tokio::test]
async fn when_nodes_fetch_and_remove_an_image_can_be_said() {
    let (world, agent) = World::ready().await;
    let pull = |query: &str| world.post(&format!("/api/v1/images/tiny/pull?{query}"), json!({})).send();
    let pulled = pull("priority=7&delay_seconds=3600&retry_attempts=2&retry_backoff=linear&timeout_seconds=60").await;
    let task = pulled.json()["tasks"][0].clone();
    let at = |field: &str| serde_json::from_value::<Timestamp>(task[field].clone()).unwrap();
    assert!(at("not_before") >= at("created_at").plus(Duration::from_secs(3599)), "{task}");
    assert_eq!(
        (&task["priority"], &task["timeout_seconds"], &task["max_attempts"]),
        (&json!(7), &json!(60), &json!(2))
    );
    assert_eq!(task["retry"]["backoff"], "linear");
    assert!(agent.poll(&world, "max=5&wait_ms=0").await.is_empty(), "its time has not come");
    for (query, field) in
        [("priority=101", "priority"), ("timeout_seconds=0", "timeout_seconds"), ("dry_run=true", "dry_run")]
    {
        let refused = pull(query).await;
        assert_eq!(refused.code(), "VALIDATION_ERROR", "{query}");
        assert!(refused.text().contains(field), "{query}: {}", refused.text());
    }
    let delete = |query: &str| world.call(Method::DELETE, &format!("/api/v1/images/tiny?{query}")).send();
    let evicted = delete("node=node-1&priority=-3").await.json()["tasks"][0].clone();
    assert_eq!((&evicted["kind"], &evicted["priority"]), (&json!("image.delete"), &json!(-3)));
    // What is wrong with the schedule is said before anything is deleted.
    assert_eq!(delete("queue_timeout_seconds=0").await.code(), "VALIDATION_ERROR");
    assert!(world.get("/api/v1/images/tiny").send().await.status.is_success());
    assert!(delete("queue_timeout_seconds=60").await.status.is_success());
    assert_eq!(world.get("/api/v1/images/tiny").send().await.code(), "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn a_node_goes_on_where_its_download_broke() {
    let (world, agent) = World::ready().await;
    let blob = format!("blobs/{}", Sha256Hex::of(b"a root disk"));
    for (range, status, bytes) in [
        ("bytes=2-", StatusCode::PARTIAL_CONTENT, &b"root disk"[..]),
        ("bytes=0-", StatusCode::OK, b"a root disk"),
        ("bytes=11-", StatusCode::OK, b"a root disk"),
        ("bytes=-2", StatusCode::OK, b"a root disk"),
        ("lines=2-", StatusCode::OK, b"a root disk"),
    ] {
        let answer = agent.call(&world, Method::GET, &blob).header("range", range).send().await;
        assert_eq!((answer.status, &answer.bytes[..]), (status, bytes), "{range}");
    }
    let part = agent.call(&world, Method::GET, &blob).header("range", "bytes=2-").send().await;
    assert_eq!(part.header("content-range"), "bytes 2-10/11");
}

#[tokio::test]
async fn an_image_that_nobody_needs_goes_with_its_bytes() {
    let (world, disks) = (World::new().await, Disks::new());
    let bytes = disks.make("qcow2");
    for name in ["one", "two"] {
        assert_eq!(import(&upload(&world, name, "", bytes.clone()).await)["state"], "succeeded");
    }
    let blob = world.folder().join("blobs").join(Sha256Hex::of(&bytes).as_str());
    let delete = |name: &str| world.call(Method::DELETE, &format!("/api/v1/images/{name}")).send();
    assert!(delete("one").await.status.is_success());
    assert!(blob.exists(), "the other image needs it");
    assert!(delete("two").await.status.is_success());
    assert!(!blob.exists());
}

#[tokio::test]
async fn the_catalogue_is_told() {
    let world = World::new().await;
    let known = world.get("/api/v1/catalogue").send().await.json();
    let names: Vec<&str> =
        known["items"].as_array().unwrap().iter().map(|known| known["name"].as_str().unwrap()).collect();
    for name in
        ["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04", "rocky-9", "rocky-10", "almalinux-9", "almalinux-10"]
    {
        assert!(names.contains(&name), "{name}");
    }
}

#[tokio::test]
async fn machines_that_name_no_image_are_made_of_the_one_that_is_the_default_now() {
    let (world, _agent) = World::ready().await;
    let create = |name: &str| world.post("/api/v1/vms", json!({"name": name})).send();
    let (app, usual) = (world.server.app(), world.server.app().defaults());
    app.set_defaults(Defaults { image: "absent".to_owned(), ..usual.clone() });
    assert_eq!(create("web").await.code(), "IMAGE_NOT_FOUND");
    app.set_defaults(usual);
    assert_eq!(create("web").await.json()["vm"]["spec"]["image"], "tiny");
}

#[tokio::test]
async fn a_tenant_sees_of_what_lies_at_nodes_its_own_images_only() {
    let (world, agent) = World::ready().await;
    let digest = world.get("/api/v1/images/tiny").send().await.json()["digest"].clone();
    let facts = NodeFacts { images: vec![digest.as_str().unwrap().to_owned(), "f".repeat(64)], ..Agent::facts() };
    let beat = json!({"facts": facts, "leases": [], "inventory": {"full": true, "vms": []}});
    let answer = agent.call(&world, Method::POST, "heartbeat").json(&beat).send().await;
    assert!(answer.status.is_success(), "{}", answer.text());
    let seen = async |token: &str| {
        let all = world.get("/api/v1/nodes").bearer(token).send().await.json();
        let one = world.get("/api/v1/nodes/node-1").bearer(token).send().await.json();
        assert_eq!(all["items"][0]["facts"], one["facts"]);
        one["facts"]["images"].clone()
    };
    assert_eq!(seen(world.token(Role::PlatformAdmin)).await.as_array().unwrap().len(), 2);
    assert_eq!(seen(world.token(Role::Viewer)).await, json!([digest]));
    assert_eq!(seen(&world.foreign).await, json!([]));
}
