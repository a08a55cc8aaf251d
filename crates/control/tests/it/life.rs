//! Whole lives, driven by hand through the internal routes.

use std::time::Duration;

use hostler_model::{
    internal::Reports,
    proof::TaskProof,
    role::Role,
    task::{Intent, Task, TaskState},
    tenant::{Limits, UNLIMITED},
};
use hostler_store::EditTenant;
use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Agent, World, stranger};

#[tokio::test]
async fn an_echo_lives_from_the_call_to_its_result() {
    let (world, agent) = World::ready().await;
    let task = world.echo("hello").await;
    assert_eq!(task.state, TaskState::Queued);
    let assigned = agent.poll(&world, "max=8&wait_ms=5000").await;
    let [one] = &assigned[..] else { panic!("{assigned:?}") };
    assert_eq!((one.sub, one.intent, one.fence.attempt), (task.id, Intent::Run, 1));
    assert_eq!(one.jti, format!("{}.1", task.id));
    assert_eq!(one.params["message"], "hello");
    let lease = one.lease_expires_at.as_micros() / 1_000_000;
    assert!(one.exp >= lease && one.exp <= lease + 10, "a task is not to be begun long after its lease");
    let answer = agent.finish(&world, one, json!({"message": "hello"})).await;
    assert_eq!(answer.json(), "settled");
    let again = agent.finish(&world, one, json!({"message": "other"})).await;
    assert_eq!(again.json(), "settled", "a repeat is a 200");
    let ended: Task = world.get(&format!("/api/v1/tasks/{}", task.id)).send().await.of();
    assert_eq!((ended.state, ended.output), (TaskState::Succeeded, Some(json!({"message": "hello"}))));
    assert_eq!(world.kinds_of_events(task.id.0).await.last().unwrap(), "task.succeeded");
    let doctor = world.get("/api/v1/doctor").send().await.json();
    assert!(doctor["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true), "{doctor}");
}

#[tokio::test]
async fn a_passed_fence_is_a_conflict_and_changes_nothing() {
    let (world, agent) = World::ready().await;
    let task = world.echo("x").await;
    let mut one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    one.fence.attempt += 1;
    let answer = agent.finish(&world, &one, json!({"message": "x"})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "STALE_FENCE"));
    let after: Task = world.get(&format!("/api/v1/tasks/{}", task.id)).send().await.of();
    assert_eq!(after.state, TaskState::Running);
    one.sub = world.ids.next(world.clock.now());
    let answer = agent.finish(&world, &one, json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "TASK_NOT_FOUND"));
}

#[tokio::test]
async fn a_batch_of_results_is_answered_one_by_one() {
    let (world, agent) = World::ready().await;
    let task = world.echo("x").await;
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let now = world.clock.now();
    let report = |task: &str, attempt: u32| {
        json!({"task": task, "fence": {"store_epoch": one.fence.store_epoch, "attempt": attempt},
            "end": {"result": "succeeded", "output": {"message": "x"}}, "started_at": now, "finished_at": now})
    };
    let unknown = "01900000-0000-7000-8000-000000000042";
    let id = task.id.to_string();
    let body = agent.signed(vec![report(&id, 9), report(&id, 1), report(unknown, 1)]);
    let answer = agent.call(&world, Method::POST, "results").json(&body).send().await;
    assert_eq!(answer.json()["receipts"], json!(["stale", "settled", "unknown"]));
    let many: Vec<_> = (0..1001).map(|_| report(unknown, 1)).collect();
    let answer = agent.call(&world, Method::POST, "results").json(&json!({"results": many})).send().await;
    assert_eq!(answer.code(), "VALIDATION_ERROR");
}

#[tokio::test]
async fn a_result_is_taken_with_its_nodes_signature_and_kept_with_it_and_verified_without_the_server() {
    let (world, agent) = World::ready().await;
    let other = Agent::join(&world, "node-2").await;
    let body = json!({"kind": "echo", "params": {"message": "x"}, "target": {"node": "node-1"}});
    let made = world.post("/api/v1/tasks", body).send().await.json();
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let path = format!("/api/v1/tasks/{}", one.sub);
    assert_eq!(world.get(&format!("{path}/proof")).send().await.code(), "NOT_FOUND");
    let now = world.clock.now();
    let report = |message: &str| {
        json!({"task": one.sub, "fence": one.fence, "end": {"result": "succeeded", "output": {"message": message}},
            "started_at": now, "finished_at": now})
    };
    let send = |reports: Reports| agent.call(&world, Method::POST, "results").json(&reports).send();
    // Unsigned, signed for something else, or by another node: nothing is taken.
    let signed = agent.signed(vec![report("x")]);
    let unsigned = Reports { signed: Vec::new(), ..signed.clone() };
    assert_eq!(send(unsigned).await.code(), "VALIDATION_ERROR");
    let changed = Reports { results: agent.signed(vec![report("y")]).results, ..signed.clone() };
    assert_eq!(send(changed).await.code(), "VALIDATION_ERROR");
    assert_eq!(send(other.signed(vec![report("x")])).await.code(), "IDENTITY_MISMATCH");
    assert_eq!(world.get(&path).send().await.json()["state"], "running");
    assert_eq!(send(signed).await.json()["receipts"], json!(["settled"]));
    let task = world.get(&path).send().await.json();
    assert_eq!((&task["state"], &task["signed"]), (&json!("succeeded"), &json!(true)));
    let proof: TaskProof = world.get(&format!("{path}/proof")).send().await.of();
    assert_eq!(proof.said["output"], task["output"]);
    assert_eq!(hostler_trust::result::verify(&proof, &agent.joined.ca_pem), Ok(agent.identity));
    let mut forged = proof.clone();
    forged.said["output"] = json!({"message": "y"});
    assert!(hostler_trust::result::verify(&forged, &agent.joined.ca_pem).is_err());
    let foreign = world.get(&format!("{path}/proof")).bearer(&world.foreign).send().await;
    assert_eq!(foreign.code(), "TASK_NOT_FOUND");
    // What failed says so itself, whatever becomes of the task.
    let made = world
        .post("/api/v1/tasks", json!({"kind": "echo", "params": made["task"]["params"], "target": {"node": "node-1"}}));
    made.send().await;
    let two = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let end =
        json!({"result": "failed", "code": "HANDLER_FAILED", "detail": "no", "retryable": true, "effects": "undone"});
    assert_eq!(agent.report(&world, &two, end.clone()).await.status, StatusCode::OK);
    let path = format!("/api/v1/tasks/{}", two.sub);
    assert_eq!(world.get(&path).send().await.json()["state"], "queued", "it is tried again");
    let proof: TaskProof = world.get(&format!("{path}/proof")).send().await.of();
    assert_eq!((&proof.said["effects"], &proof.said["fence"]["attempt"]), (&end["effects"], &json!(1)));
    assert_eq!(hostler_trust::result::verify(&proof, &agent.joined.ca_pem), Ok(agent.identity));
}

#[tokio::test]
async fn a_result_under_a_certificate_that_has_ended_is_to_be_signed_anew() {
    let (world, agent) = World::ready().await;
    world.echo("x").await;
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    world.pass(std::time::Duration::from_secs(25 * 3600));
    let refused = agent.finish(&world, &one, json!({"message": "x"})).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "and not as one that makes no sense: {}", refused.text());
}

#[tokio::test]
async fn progress_and_heartbeats_renew_and_tell_what_to_stop() {
    let (world, agent) = World::ready().await;
    let task = world.echo("x").await;
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    world.pass(Duration::from_secs(10));
    let progress = json!({"fence": one.fence, "started_at": world.clock.now(), "progress": {"phase": "work"}, "log": [{"at": world.clock.now(), "text": "hi"}]});
    let path = format!("tasks/{}/progress", task.id);
    let answer = agent.call(&world, Method::POST, &path).json(&progress).send().await.json();
    assert_eq!(answer["abort"], false);
    assert_ne!(answer["lease_expires_at"], json!(one.lease_expires_at));
    let cancelled: Task = world.post(&format!("/api/v1/tasks/{}/cancel", task.id), json!({})).send().await.of();
    assert_eq!(cancelled.state, TaskState::Aborting);
    let beat = json!({"facts": crate::harness::Agent::facts(),
        "leases": [{"task": task.id, "fence": one.fence}], "inventory": {"full": true, "vms": []}});
    let answer = agent.call(&world, Method::POST, "heartbeat").json(&beat).send().await.json();
    assert_eq!(answer["abort"], json!([task.id]));
}

#[tokio::test]
async fn a_machine_is_made_shown_and_deleted() {
    let (world, agent) = World::ready().await;
    let made = world.post("/api/v1/vms", json!({})).send().await;
    assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.text());
    let body = made.json();
    let (id, name) = (body["vm"]["id"].as_str().unwrap(), body["vm"]["name"].as_str().unwrap());
    assert_eq!(made.header("location"), format!("/api/v1/tasks/{}", body["task"]["id"].as_str().unwrap()));
    assert!(name.starts_with("vm-"), "{name}");
    assert_eq!(body["task"]["params"]["memory_mib"], 128);
    assert_eq!(body["vm"]["state"], "provisioning");
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    assert_eq!(one.target.vm.unwrap().to_string(), id);
    let charge = json!({"vcpus": 1, "memory_mib": 128, "disk_gib": 1, "vms": 1});
    let output = json!({"charge": charge, "boot_ms": 5.0, "acceleration": "simulated"});
    assert_eq!(agent.finish(&world, &one, output).await.status, StatusCode::OK);
    let shown = world.get(&format!("/api/v1/vms/{name}")).send().await.json();
    assert_eq!((&shown["state"], &shown["ready"]), (&json!("running"), &json!(true)));
    let quota = world.get("/api/v1/quota").send().await.json();
    let counted = json!({"vcpus": 1, "memory_mib": 128, "disk_gib": 1, "vms": 1, "running_vms": 1, "snapshots": 0});
    assert_eq!(quota["book"]["used"], counted);

    let deletion = world.call(Method::DELETE, &format!("/api/v1/vms/{name}")).send().await;
    assert_eq!(deletion.status, StatusCode::ACCEPTED, "{}", deletion.text());
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    assert_eq!(agent.finish(&world, &one, json!({"existed": true})).await.status, StatusCode::OK);
    assert_eq!(world.get(&format!("/api/v1/vms/{name}")).send().await.code(), "VM_NOT_FOUND");
    assert_eq!(world.get(&format!("/api/v1/vms/{id}")).send().await.json()["state"], "deleted");
    let quota = world.get("/api/v1/quota").send().await.json();
    assert_eq!(quota["book"]["used"]["vms"], 0);
}

#[tokio::test]
async fn a_failed_creation_can_be_retried_under_its_name() {
    let (world, agent) = World::ready().await;
    let made = world.post("/api/v1/vms", json!({"name": "web"})).send().await.json();
    let task = made["task"]["id"].as_str().unwrap();
    let early = world.post(&format!("/api/v1/tasks/{task}/retry"), json!({})).send().await;
    assert_eq!(early.code(), "TASK_STATE_CONFLICT");
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let end =
        json!({"result": "failed", "code": "HANDLER_FAILED", "detail": "no", "retryable": false, "effects": "undone"});
    assert_eq!(agent.report(&world, &one, end).await.status, StatusCode::OK);
    let again = world.post(&format!("/api/v1/tasks/{task}/retry"), json!({})).send().await;
    assert_eq!(again.status, StatusCode::ACCEPTED, "{}", again.text());
    let again = again.json();
    assert_eq!((&again["task"]["retry_of"], &again["vm"]["name"]), (&made["task"]["id"], &json!("web")));
    assert_ne!(again["vm"]["id"], made["vm"]["id"]);
}

#[tokio::test]
async fn nodes_fetch_manifests_and_blobs() {
    let (world, agent) = World::ready().await;
    let images = world.get("/api/v1/images").send().await.json();
    let digest = images["items"][0]["digest"].as_str().unwrap();
    let manifest = agent.call(&world, Method::GET, &format!("images/{digest}")).send().await.json();
    let sha256 = manifest["files"]["kernel"]["sha256"].as_str().unwrap();
    let blob = agent.call(&world, Method::GET, &format!("blobs/{sha256}")).send().await;
    assert_eq!((blob.text().as_str(), blob.header("content-length")), ("a kernel", "8"));
    assert_eq!(agent.call(&world, Method::GET, "images/x").send().await.code(), "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn an_image_comes_in_over_the_api() {
    let world = World::new().await;
    let image = world.import_tiny().await;
    let mut manifest = serde_json::to_value(&image.manifest).unwrap();
    manifest["name"] = json!("other");
    let bytes = b"another root disk";
    let sha256 = hostler_model::image::Sha256Hex::of(bytes);
    manifest["files"]["rootfs"] = json!({"sha256": sha256, "size": bytes.len()});
    let put = |body| world.call(Method::PUT, "/api/v1/images").json(body).send();
    assert_eq!(put(&manifest).await.code(), "VALIDATION_ERROR");
    let path = format!("/api/v1/blobs/{sha256}");
    let upload = |bytes: &'static [u8]| world.call(Method::PUT, &path).body("application/octet-stream", bytes).send();
    assert_eq!(upload(b"something else").await.code(), "VALIDATION_ERROR");
    assert_eq!(upload(bytes).await.status, StatusCode::CREATED);
    assert_eq!(upload(bytes).await.status, StatusCode::OK);
    let registered = put(&manifest).await;
    assert_eq!(registered.status, StatusCode::OK, "{}", registered.text());
    let blobs = std::fs::read_dir(world.folder().join("blobs")).unwrap();
    let names = blobs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| !name.starts_with('.')).count(), 3);
}

#[tokio::test]
async fn a_node_renews_its_certificate_and_is_changed_by_operators() {
    let (world, agent) = World::ready().await;
    let body = json!({"csr_pem": agent.key.csr("node-1").unwrap()});
    let renewed = agent.call(&world, Method::POST, "renew").json(&body).send().await.json();
    assert_eq!(renewed["enrolment"], json!(agent.identity.enrolment));
    let cordoned = world.post("/api/v1/nodes/node-1/cordon", json!({})).send().await.json();
    assert_eq!(cordoned["state"], "cordoned");
    assert_eq!(world.post("/api/v1/vms", json!({})).send().await.code(), "NO_CAPACITY");
    assert_eq!(world.post("/api/v1/nodes/node-1/uncordon", json!({})).send().await.json()["state"], "ready");
    assert_eq!(world.post("/api/v1/nodes/node-1/approve", json!({})).send().await.status.as_u16(), 409);
}

#[tokio::test]
async fn metrics_say_what_happened() {
    let (world, agent) = World::ready().await;
    world.echo("x").await;
    agent.poll(&world, "wait_ms=5000").await;
    let text = world.get("/metrics").send().await.text();
    for line in [
        "hostler_http_requests_total{route=\"/api/v1/tasks\",method=\"POST\",status=\"202\"} 1",
        "hostler_tasks{state=\"running\",kind=\"echo\"} 1",
        "hostler_dispatch_leased_total 1",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn a_retry_by_the_platforms_administrator_stays_in_the_tasks_tenant() {
    let world = World::new().await;
    let _agent = Agent::join(&world, "node-1").await;
    let limits = Limits { vcpus: 8, memory_mib: 8192, disk_gib: 100, vms: 10, ..UNLIMITED };
    let limited = world.store.edit_tenant(EditTenant::of_system(stranger(), limits.into()));
    limited.await.unwrap().unwrap();
    // The administrator's own tenant has no image of this name.
    world.import_tiny_for(stranger()).await;
    let body = json!({"name": "web"});
    let made = world.post("/api/v1/vms", body).bearer(&world.foreign).send().await.json();
    let task = made["task"]["id"].as_str().unwrap();
    world.post(&format!("/api/v1/tasks/{task}/cancel"), json!({})).send().await;
    let before = world.get("/api/v1/quota").send().await.json();

    let again = world.post(&format!("/api/v1/tasks/{task}/retry"), json!({})).send().await;
    assert_eq!(again.status, StatusCode::ACCEPTED, "{}", again.text());
    let again = again.json();
    assert_eq!((&again["task"]["tenant"], &again["vm"]["tenant"]), (&json!(stranger()), &json!(stranger())));
    assert_eq!(again["task"]["retry_of"], task);
    assert_eq!(world.get("/api/v1/quota").send().await.json(), before);
}

#[tokio::test]
async fn a_task_of_a_dead_node_is_ended_by_force_once_it_is_cancelled() {
    let (world, agent) = World::ready().await;
    let task = world.echo("x").await.id;
    agent.poll(&world, "wait_ms=5000").await;
    let path = format!("/api/v1/tasks/{task}/force");
    assert_eq!(world.post(&path, json!({})).send().await.code(), "TASK_STATE_CONFLICT");
    let cancelled = world.post(&format!("/api/v1/tasks/{task}/cancel"), json!({})).send().await;
    assert_eq!(cancelled.json()["state"], "aborting");
    let refused = world.post(&path, json!({})).bearer(world.token(Role::TenantAdmin)).send().await;
    assert_eq!(refused.code(), "FORBIDDEN");
    let forced = world.post(&path, json!({})).send().await;
    assert_eq!((forced.status, &forced.json()["state"]), (StatusCode::OK, &json!("cancelled")));
    let audit = world.get("/api/v1/audit?limit=500").send().await.text();
    assert!(audit.contains("task.force"), "{audit}");
}

#[tokio::test]
async fn a_schedule_is_asked_for_in_the_query_of_every_route_that_submits() {
    let (world, agent) = World::ready().await;
    let query = "priority=-7&delay_seconds=90&queue_timeout_seconds=70&timeout_seconds=50\
                 &retry_attempts=2&retry_backoff=linear&retry_first_seconds=4&retry_most_seconds=9&dry_run=true";
    let made = world.post("/api/v1/vms", json!({"name": "web"})).send().await.json();
    let vm = made["vm"]["id"].as_str().unwrap().to_owned();
    let one = agent.poll(&world, "wait_ms=5000").await.remove(0);
    let charge = json!({"vcpus": 1, "memory_mib": 128, "disk_gib": 1, "vms": 1});
    agent.finish(&world, &one, json!({"charge": charge, "boot_ms": 1.0, "acceleration": "tcg"})).await;
    let routes = [
        (Method::POST, "/api/v1/tasks".to_owned(), json!({"kind": "echo"})),
        (Method::POST, "/api/v1/vms".to_owned(), json!({})),
        (Method::DELETE, format!("/api/v1/vms/{vm}"), json!({})),
        (Method::PATCH, format!("/api/v1/vms/{vm}"), json!({"vcpus": 2})),
        (Method::POST, format!("/api/v1/vms/{vm}/stop"), json!({})),
        (Method::POST, format!("/api/v1/vms/{vm}/reboot"), json!({})),
        (Method::POST, format!("/api/v1/vms/{vm}/pause"), json!({})),
        (Method::POST, format!("/api/v1/vms/{vm}/rename"), json!({"name": "shop"})),
        (Method::POST, format!("/api/v1/vms/{vm}/snapshots"), json!({})),
        (Method::POST, format!("/api/v1/vms/{vm}/exec"), json!({"argv": ["true"]})),
        (Method::POST, "/api/v1/nodes/node-1/refresh".to_owned(), json!({})),
    ];
    for (method, path, body) in routes {
        let answer = world.call(method.clone(), &format!("{path}?{query}")).json(&body).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{method} {path}: {}", answer.text());
        let task = &answer.json()["task"];
        assert_eq!((&task["priority"], &task["waiting_for"]), (&json!(-7), &json!("time")), "{method} {path}");
        let times = (&task["queue_timeout_seconds"], &task["timeout_seconds"], &task["max_attempts"]);
        assert_eq!(times, (&json!(70), &json!(50), &json!(2)), "{method} {path}");
        assert_eq!(task["retry"], json!({"attempts": 2, "backoff": "linear", "first_seconds": 4, "most_seconds": 9}));
        for wrong in
            ["priority=101", "retry_attempts=0", "delay_seconds=-1", "retry_backoff=fast", "not_before=soon", "prio=1"]
        {
            let answer = world.call(method.clone(), &format!("{path}?{wrong}")).json(&body).send().await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "VALIDATION_ERROR"), "{path} {wrong}");
        }
    }
}

#[tokio::test]
async fn a_schedule_in_the_query_comes_before_the_bodys_and_belongs_to_what_a_key_stands_for() {
    let (world, _agent) = World::ready().await;
    let body = json!({"kind": "echo", "priority": 3, "retry": {"attempts": 5, "first_seconds": 2}});
    let send = async |query: &str| {
        let path = format!("/api/v1/tasks?{query}");
        world.post(&path, body.clone()).header("idempotency-key", "k").send().await
    };
    let task = send("priority=9&retry_attempts=4").await.json()["task"].clone();
    assert_eq!(
        (&task["priority"], &task["retry"]["attempts"], &task["retry"]["first_seconds"]),
        (&json!(9), &json!(4), &json!(2))
    );
    assert_eq!(send("priority=9&retry_attempts=4").await.json()["task"]["id"], task["id"]);
    let other = send("priority=8&retry_attempts=4").await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (422, "IDEMPOTENCY_MISMATCH"));
}
