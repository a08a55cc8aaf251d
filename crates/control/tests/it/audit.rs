//! The audit over the API: who did what, and a chain that somebody verifies with the authority's certificate alone.

use hostler_model::{
    PrincipalId, TenantId,
    caller::Caller,
    chain::{self, BEGINNING, Hashes, HexHash, Line, Link, Shown, Walk},
    role::Role,
    scope::Scopes,
};
use hostler_store::Eyes;
use hostler_trust::CheckpointVerifier;
use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::World;

async fn export(world: &World, token: &str) -> Vec<Line> {
    let answer = world.get("/api/v1/audit/export?limit=500").bearer(token).send().await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a walk along an export finds, with checkpoints verified by the authority's certificate.
fn walked(lines: &[Line], ca_pem: &str) -> Walk {
    let (signer, mut walk) = (CheckpointVerifier::new(ca_pem).unwrap(), Walk::from(BEGINNING));
    for line in lines {
        match line {
            Line::From(_) => {}
            Line::Link(link) => walk.link(link),
            Line::Checkpoint(token) => match signer.verify(token) {
                Ok(checkpoint) => walk.checkpoint(checkpoint.stand),
                Err(error) => walk.wrong(error.to_string()),
            },
            Line::Stray(entries) => walk.stray(entries),
            Line::End(head) => walk.end(*head),
        }
    }
    walk
}

#[tokio::test]
async fn an_entry_says_who_by_what_from_where_in_which_request_and_what_came_of_it() {
    let (world, _) = World::ready().await;
    let answer = world.post("/api/v1/nodes/node-1/cordon", json!({})).send().await;
    let request = answer.header("x-request-id");
    let audit = world.get("/api/v1/audit?limit=500").send().await.json();
    let entries = audit["items"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["kind"] == "node.cordon").unwrap();
    let actor = &entry["data"]["actor"];
    assert_eq!(
        (&actor["role"], &actor["method"], &actor["request"]),
        (&json!("platform-admin"), &json!("token"), &json!(request))
    );
    assert!(actor["principal"].is_string() && actor["credential"].is_string(), "{actor}");
    assert_eq!((&entry["data"]["result"], &entry["noun"]), (&json!("done"), &json!("node")));
    let joined = entries.iter().find(|entry| entry["kind"] == "node.join").unwrap();
    assert_eq!(joined["data"]["actor"]["method"], "join token");
    world.post("/api/v1/nodes/node-1/uncordon", json!({})).send().await;
    world.echo("an enqueue is one too").await;
    let audit = world.get("/api/v1/audit?limit=500").send().await.json();
    let submitted = audit["items"].as_array().unwrap().last().unwrap();
    assert_eq!((&submitted["kind"], &submitted["data"]["result"]), (&json!("task.submit"), &json!("done")));
}

#[tokio::test]
async fn an_export_is_verified_with_the_authoritys_certificate_and_nothing_else() {
    let (world, agent) = World::ready().await;
    world.echo("one").await;
    world.server.app().sign_chain().await.unwrap();
    world.echo("two").await;
    let lines = export(&world, world.token(Role::PlatformAdmin)).await;
    let walk = walked(&lines, &agent.joined.ca_pem);
    assert_eq!(walk.wrongs(), [""; 0]);
    let signed = walk.signed().unwrap();
    assert!(signed > 0 && signed < walk.stand().seq, "what came since is not signed yet");
    assert_eq!(world.get("/api/v1/audit/authority").send().await.text(), agent.joined.ca_pem);
    let other = hostler_trust::Authority::create(world.clock.now()).unwrap();
    assert!(!walked(&lines, other.ca_pem()).wrongs().is_empty());
    // Every byte of an entry counts.
    let mut forged = lines.clone();
    let whole = forged.iter_mut().find_map(|line| match line {
        Line::Link(link) => link.entries.iter_mut().find_map(|entry| match entry {
            Shown::Whole(entry) => Some(entry),
            Shown::Hashed(_) => None,
        }),
        _ => None,
    });
    let whole = whole.unwrap();
    whole.data["actor"]["principal"] = json!("somebody else");
    let told = format!("the entry {} is not what was written", whole.seq);
    assert_eq!(walked(&forged, &agent.joined.ca_pem).wrongs(), [told]);
}

/// Edits an entry in the database, makes every link behind it anew, and the head, and removes what was signed.
async fn forge(world: &World, seq: i64) {
    world.tamper(&format!("UPDATE log SET data = '{{}}' WHERE seq = {seq}"));
    let (mut hash, mut statements) = (BEGINNING.hash, vec!["DELETE FROM checkpoints".to_owned()]);
    for line in world.store.chain(Eyes::Doctor, 0, 1000).await.unwrap() {
        let Line::Link(Link { last, entries, .. }) = line else { continue };
        let hashes: Hashes = entries.iter().map(Shown::hash).collect();
        hash = HexHash(chain::link(&hash.0, &hashes.digest()));
        statements.push(format!("UPDATE links SET hashes = '{hashes}', hash = '{hash}' WHERE last_seq = {last}"));
    }
    statements.push(format!("UPDATE log_head SET hash = '{hash}'"));
    world.tamper(&statements.join("; "));
}

/// What the doctor finds wrong.
async fn ills(world: &World) -> Vec<Value> {
    let diagnosis = world.get("/api/v1/doctor").send().await.json();
    diagnosis["checks"].as_array().unwrap().iter().filter(|check| check["ok"] != true).cloned().collect()
}

#[tokio::test]
async fn a_log_that_was_written_anew_in_the_database_is_not_signed_and_the_doctor_says_so() {
    let (world, _agent) = World::ready().await;
    let app = world.server.app();
    for text in ["one", "two", "three"] {
        world.echo(text).await;
        app.sign_chain().await.unwrap();
    }
    let signed = world.store.signed_up_to().await.unwrap();
    assert_eq!(signed, world.store.log_head().await.unwrap());
    assert_eq!(ills(&world).await, [Value::Null; 0]);
    world.echo("not signed yet").await;

    forge(&world, 2).await;
    assert!(world.store.doctor().await.unwrap().is_well(), "by itself it looks whole");
    for _ in 0..2 {
        let error = app.sign_chain().await.unwrap_err().to_string();
        assert!(error.contains("written anew"), "{error}");
    }
    assert_eq!(world.store.signed_up_to().await.unwrap(), 0, "nothing is signed any more");
    let found = ills(&world).await;
    assert_eq!((found.len(), &found[0]["name"]), (1, &json!("what was signed of the log")), "{found:?}");
    assert!(found[0]["detail"].as_str().unwrap().contains("written anew"), "{found:?}");
}

#[tokio::test]
async fn a_tenant_verifies_the_whole_chain_and_reads_its_own_entries() {
    let (world, agent) = World::ready().await;
    world.echo("not for a stranger").await;
    for token in [world.token(Role::TenantAdmin), &world.foreign] {
        let lines = export(&world, token).await;
        assert_eq!(walked(&lines, &agent.joined.ca_pem).wrongs(), [""; 0]);
    }
    let foreign = serde_json::to_string(&export(&world, &world.foreign).await).unwrap();
    assert!(!foreign.contains("task.submit") && !foreign.contains("node.join"), "{foreign}");
    let refused = world.get("/api/v1/audit/export").bearer(world.token(Role::Operator)).send().await;
    assert_eq!(refused.code(), "FORBIDDEN");
}

#[tokio::test]
async fn a_caller_that_is_refused_is_in_the_audit_and_strangers_are_counted() {
    let world = World::new().await;
    let before = world.store.log_head().await.unwrap();
    for _ in 0..5 {
        let answer = world.post("/api/v1/join-tokens", json!({})).bearer(world.token(Role::Operator)).send().await;
        assert_eq!(answer.code(), "FORBIDDEN");
        world.get("/api/v1/vms").bearer("hos_nobody").send().await;
    }
    world.server.app().tell_denied().await.unwrap();
    let audit = world.get(&format!("/api/v1/audit?after={before}")).send().await.json();
    let entries = audit["items"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "one for all of a kind: {audit}");
    let (entry, what) = (&entries[0], &entries[0]["data"]["what"]);
    assert_eq!((&entry["kind"], &entry["data"]["result"]), (&json!("access.denied"), &json!("FORBIDDEN")));
    assert_eq!((&what["route"], &what["count"]), (&json!("POST /api/v1/join-tokens"), &json!(5)));
    assert_eq!(entry["data"]["actor"]["role"], "operator");
    let metrics = world.get("/metrics").send().await.text();
    assert!(metrics.contains("status=\"401\"") || metrics.contains("401"), "{metrics}");
    let _: Value = audit;
}

/// What was denied since, as the audit has it: the route, the code, how often, and by which credential.
async fn denied(world: &World, since: i64) -> Vec<(String, String, u64, Value)> {
    let audit = world.get(&format!("/api/v1/audit?limit=500&after={since}")).send().await.json();
    let entries = audit["items"].as_array().unwrap().iter().filter(|entry| entry["kind"] == "access.denied");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let read = |data: &Value| {
        let what = &data["what"];
        (
            text(&what["route"]),
            text(&data["result"]),
            what["count"].as_u64().unwrap(),
            data["actor"]["credential"].clone(),
        )
    };
    entries.map(|entry| read(&entry["data"])).collect()
}

#[tokio::test]
async fn what_a_handler_forbids_is_in_the_audit_too() {
    let world = World::new().await;
    let caller = Caller::new(world.ids.next::<PrincipalId>(world.clock.now()), TenantId::DEFAULT, Role::TenantAdmin);
    let scopes = Scopes::of_words(Some("task:write token:write"));
    let narrow = world.token_of(Caller { scopes, ..caller }).await;
    let before = world.store.log_head().await.unwrap();
    let echo = json!({"kind": "echo", "params": {"message": "x"}});
    let delete = json!({"kind": "vm.delete", "target": {"vm": "web"}});
    for (path, body, status) in [
        // A kind that asks for more, alone and in a batch.
        ("/api/v1/tasks", delete.clone(), 403),
        ("/api/v1/tasks/batch", json!({"tasks": [echo, delete]}), 200),
        // More than one's own credential has.
        ("/api/v1/tokens", json!({"label": "x", "scopes": ["vm:exec"]}), 403),
        ("/api/v1/service-accounts", json!({"name": "ci", "role": "platform-admin"}), 403),
        ("/api/v1/tokens", json!({"label": "x", "tenant": "stranger"}), 403),
        // What is not there, or makes no sense, is not forbidden.
        ("/api/v1/tokens", json!({"label": ""}), 400),
    ] {
        let answer = world.post(path, body).bearer(&narrow).send().await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
    }
    world.server.app().tell_denied().await.unwrap();
    let told = denied(&world, before).await;
    let told: Vec<(&str, &str, u64)> = told.iter().map(|(route, code, n, _)| (&route[..], &code[..], *n)).collect();
    assert_eq!(told.len(), 5, "{told:?}");
    for (route, code) in [
        ("POST /api/v1/tasks", "FORBIDDEN"),
        ("POST /api/v1/tasks/batch", "FORBIDDEN"),
        ("POST /api/v1/tokens", "FORBIDDEN"),
        ("POST /api/v1/tokens", "FORBIDDEN_OWNERSHIP"),
        ("POST /api/v1/service-accounts", "FORBIDDEN"),
    ] {
        assert!(told.contains(&(route, code, 1)), "{route} {code}: {told:?}");
    }
}

#[tokio::test]
async fn who_calls_with_a_token_that_is_over_is_in_the_audit_by_its_id() {
    let world = World::new().await;
    let body = json!({"label": "x", "expires_in_seconds": 60});
    let operator = world.token(Role::Operator);
    let made = async || world.post("/api/v1/tokens", body.clone()).bearer(operator).send().await.json();
    let (revoked, expired) = (made().await, made().await);
    let path = format!("/api/v1/tokens/{}", revoked["about"]["id"].as_str().unwrap());
    world.call(Method::DELETE, &path).send().await;
    let before = world.store.log_head().await.unwrap();
    world.pass(std::time::Duration::from_secs(60));
    for token in [&revoked, &expired, &revoked, &revoked] {
        let answer = world.get("/api/v1/vms").bearer(token["token"].as_str().unwrap()).send().await;
        assert_eq!(answer.code(), "UNAUTHENTICATED");
    }
    // A server that goes away tells first what it has not yet told.
    let end = CancellationToken::new();
    end.cancel();
    world.server.run_loops(end).await;
    let mut told = denied(&world, before).await;
    told.sort_by_key(|(_, _, count, _)| *count);
    let of = |token: &Value, count| {
        ("GET /api/v1/vms".to_owned(), "UNAUTHENTICATED".to_owned(), count, token["about"]["id"].clone())
    };
    assert_eq!(told, [of(&expired, 1), of(&revoked, 3)]);
}
