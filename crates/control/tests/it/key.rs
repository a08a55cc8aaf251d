//! Keys that sign tasks, over the API: one follows another, and agents know it.

use std::time::Duration;

use hostler_control::{Keyring, Master, Owner, Sealer, app::Error};
use hostler_model::{
    Code,
    event::Actor,
    internal::{HeartbeatAnswer, Inventory},
    key::Rotated,
    role::Role,
};
use hostler_trust::{TaskRefusal, TaskVerifier};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Agent, World};

const KEYS: &str = "/api/v1/keys";

async fn states(world: &World) -> Vec<(String, String)> {
    let page = world.get(KEYS).send().await.json();
    let text = |key: &Value, field: &str| key[field].as_str().unwrap().to_owned();
    page["items"].as_array().unwrap().iter().map(|key| (text(key, "kid"), text(key, "state"))).collect()
}

async fn change(world: &World, kid: &str, verb: &str) -> String {
    let answer = world.post(&format!("{KEYS}/{kid}/{verb}"), json!({})).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["state"].as_str().unwrap().to_owned()
}

async fn staged(world: &World) -> String {
    world.pass(Duration::from_secs(1));
    let answer = world.post(KEYS, json!({})).send().await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    answer.json()["kid"].as_str().unwrap().to_owned()
}

/// The keys that a heartbeat brings to an agent that knows none of them.
async fn told(world: &World, agent: &Agent, knows: &str) -> Option<Value> {
    let inventory = Inventory { full: true, ..Inventory::default() };
    let beat = json!({"facts": Agent::facts(), "leases": [], "inventory": inventory, "keys": knows});
    let answer = agent.call(world, Method::POST, "heartbeat").json(&beat).send().await;
    answer.of::<HeartbeatAnswer>().task_keys
}

#[tokio::test]
async fn one_key_follows_another_and_agents_hear_of_it_before_it_signs() {
    let (world, agent) = World::ready().await;
    let first = states(&world).await;
    assert_eq!((first.len(), first[0].1.as_str()), (1, "active"));
    let next = staged(&world).await;
    let set = told(&world, &agent, "").await.unwrap();
    assert!(set.to_string().contains(&next), "{set}");
    assert_eq!(told(&world, &agent, &hostler_trust::task::digest(&set)).await, None, "what it knows is not sent again");

    world.echo("signed with the first").await;
    agent.poll(&world, "max=1&wait_ms=0").await;
    assert_eq!(change(&world, &next, "activate").await, "active");
    assert_eq!(states(&world).await, [(next.clone(), "active".into()), (first[0].0.clone(), "grace".into())]);
    world.echo("signed with the next").await;
    let poll = agent.call(&world, Method::GET, "tasks/wait?max=1&wait_ms=0").send().await.json();
    let token = poll["tasks"][0].as_str().unwrap().to_owned();
    let told_before = TaskVerifier::from_jwks(&set).unwrap();
    assert_eq!(told_before.signed(&token).map(|task| task.aud), Ok(agent.identity.node));

    assert_eq!(change(&world, &first[0].0, "retire").await, "retired");
    world.pass(Duration::from_secs(1));
    assert_eq!(change(&world, &next, "revoke").await, "revoked");
    let now = states(&world).await;
    assert_eq!((now.len(), now[0].1.as_str()), (3, "active"), "a new one signs: {now:?}");
    let set = told(&world, &agent, "").await.unwrap();
    assert_eq!((set["keys"].as_array().unwrap().len(), &set["revoked"]), (1, &json!([next])));
    let revoked = TaskVerifier::from_jwks(&set).unwrap();
    assert_eq!(revoked.signed(&token).unwrap_err(), TaskRefusal::RevokedKey);
}

#[tokio::test]
async fn a_key_that_does_not_allow_it_is_refused_and_nothing_is_written() {
    let world = World::new().await;
    let (signs, before) = (states(&world).await[0].0.clone(), world.marks().await);
    let answer = world.post(&format!("{KEYS}/{signs}/retire"), json!({})).send().await;
    assert_eq!(answer.code(), "KEY_STATE_CONFLICT");
    for bad in ["x", &"a".repeat(43)] {
        assert_eq!(world.post(&format!("{KEYS}/{bad}/revoke"), json!({})).send().await.code(), "KEY_NOT_FOUND");
    }
    let answer = world.post(KEYS, json!({})).bearer(world.token(Role::TenantAdmin)).send().await;
    assert_eq!(answer.code(), "FORBIDDEN");
    assert_eq!(world.marks().await, before);
}

#[tokio::test]
async fn every_change_says_who_did_it_and_shows_no_private_part() {
    let world = World::new().await;
    let next = staged(&world).await;
    change(&world, &next, "activate").await;
    let audit = world.get("/api/v1/audit").send().await.text();
    for word in ["key.create", "key.stage", "key.activate", "platform-admin"] {
        assert!(audit.contains(word), "{word}: {audit}");
    }
    let rows = world.store.signing_keys().await.unwrap();
    for (key, private) in rows {
        let private = private.unwrap();
        assert!(private.starts_with("s1.") && !private.contains("PRIVATE"), "it rests sealed");
        assert!(!audit.contains(&private) && audit.contains(&key.kid.0));
    }
}

#[tokio::test]
async fn another_server_over_the_same_store_follows() {
    let (world, _agent) = World::ready().await;
    let master = world.folder().join("master.key");
    let sealer = Sealer::new(world.store.clone(), Master::file(&master).unwrap());
    let other = Keyring::open(world.store.clone(), sealer).await.unwrap();
    let next = staged(&world).await;
    change(&world, &next, "activate").await;
    other.refresh().await.unwrap();
    assert_eq!(other.now().signer.kid(), next);
    assert_eq!(other.now().digest, world.server.app().keys.now().digest);
}

#[tokio::test]
async fn without_the_master_key_nothing_is_signed() {
    let world = World::new().await;
    let another = Master::file(&world.folder().join("another.key")).unwrap();
    let stranger = Sealer::new(world.store.clone(), another);
    let error = Keyring::open(world.store.clone(), stranger).await.unwrap_err().to_string();
    assert!(error.contains("--master-key") && error.contains("another.key"), "{error}");
}

#[tokio::test]
async fn a_loop_hears_of_keys_that_another_server_changed() {
    let world = World::new().await;
    let closing = tokio_util::sync::CancellationToken::new();
    let (server, until) = (world.server.clone(), closing.clone());
    let loops = tokio::spawn(async move { server.run_loops(until).await });
    let sealer = Sealer::new(world.store.clone(), Master::file(&world.folder().join("master.key")).unwrap());
    let before = world.server.app().keys.now().digest.clone();
    let key = hostler_trust::TaskKey::generate().unwrap();
    let place = format!("signing key {}", key.kid());
    let private = sealer.seal(Owner::Control, &place, &key.to_pem()).await.unwrap();
    let new = hostler_store::NewSigningKey { kid: key.kid(), public: key.public(), private };
    world.store.stage_key(new, Actor::system()).await.unwrap().unwrap();
    let changed = async {
        while world.server.app().keys.now().digest == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed).await.unwrap();
    closing.cancel();
    loops.await.unwrap();
}

const MINE: Owner = Owner::Tenant(hostler_model::TenantId::DEFAULT);

/// A server that has just started over the same store and file: nothing is in its memory.
fn started(world: &World) -> Sealer {
    Sealer::new(world.store.clone(), Master::file(&world.folder().join("master.key")).unwrap())
}

/// What rests sealed as the default tenant's, and opens as long as no key of it is lost.
async fn sealed(world: &World) -> String {
    world.server.app().sealer.seal(MINE, "place", "hunter2").await.unwrap()
}

async fn opens(sealer: &Sealer, sealed: &str) -> bool {
    // Both, or this server could not start: the control plane's own opens too.
    let own = sealer.seal(Owner::Control, "x", "y").await.is_ok();
    own && sealer.open_text(MINE, "place", sealed).await.is_ok_and(|text| text == "hunter2")
}

async fn rotated(world: &World, verb: &str) -> Value {
    let answer = world.post(&format!("/api/v1/master-key/{verb}"), json!({})).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn what_was_sealed_opens_after_the_master_key_was_rotated_and_rotated_again() {
    let world = World::new().await;
    let path = world.folder().join("master.key");
    let text = sealed(&world).await;
    let first = std::fs::read_to_string(&path).unwrap();
    for round in 1..4 {
        // Another server read the file before, and unwraps its first key only after the rotation.
        let other = started(&world);
        let told = rotated(&world, "rotate").await;
        assert_eq!((&told["keys"], told["older"].as_array().unwrap().len()), (&json!(2), round), "{told}");
        assert!(opens(&other, &text).await && opens(&started(&world), &text).await, "round {round}");
    }
    let all = std::fs::read_to_string(&path).unwrap();
    assert_eq!(all.lines().count(), 4);
    assert!(all.contains(first.trim()), "backups of before need it");
    assert!(!opens_with(&world, &first, &text).await, "the first master key alone opens nothing of today's");

    let gone = rotated(&world, "retire").await;
    assert_eq!(gone["removed"].as_array().unwrap().len(), 3, "{gone}");
    let last = std::fs::read_to_string(&path).unwrap();
    assert!(last.lines().count() == 1 && last.starts_with(gone["master"].as_str().unwrap()), "{gone}");
    assert!(opens(&started(&world), &text).await);
    assert_eq!(rotated(&world, "retire").await["removed"], json!([]), "asked again, nothing is left to remove");
    let audit = world.get("/api/v1/audit").send().await.text();
    assert!(audit.contains("key.rotate_master") && audit.contains("key.retire_master"), "{audit}");
}

/// Whether what is stored opens with these master keys.
async fn opens_with(world: &World, keys: &str, sealed: &str) -> bool {
    let path = world.folder().join("old.key");
    hostler_trust::file::write_private(&path, keys.as_bytes()).unwrap();
    opens(&Sealer::new(world.store.clone(), Master::file(&path).unwrap()), sealed).await
}

#[tokio::test]
async fn a_rotation_that_broke_off_is_repeated_at_another_server_and_no_key_is_lost() {
    let world = World::new().await;
    let (text, other) = (sealed(&world).await, started(&world));
    // The other has everything in memory, as it was.
    assert!(opens(&other, &text).await);
    for _ in 0..2 {
        // It ends between the new key in the file and what is wrapped under it.
        let mut file = hostler_trust::MasterKeys::change(&world.folder().join("master.key")).unwrap();
        file.add().unwrap();
        drop(file);
        assert!(opens(&started(&world), &text).await);
        other.rotate(Actor::system()).await.unwrap();
        assert!(opens(&started(&world), &text).await && opens(&other, &text).await);
    }
    other.retire(Actor::system()).await.unwrap();
    assert!(opens(&started(&world), &text).await);
}

#[tokio::test]
async fn of_rotations_at_once_one_goes_on_and_the_others_are_told_and_no_key_is_lost() {
    let world = World::new().await;
    let text = sealed(&world).await;
    let servers: Vec<Sealer> = (0..4).map(|_| started(&world)).collect();
    for _ in 0..3 {
        let at_once = servers.iter().map(|server| server.rotate(Actor::system()));
        let ends = futures_util::future::join_all(at_once).await;
        assert!(ends.iter().any(Result::is_ok));
        for end in ends.iter().filter_map(|end| end.as_ref().err()) {
            assert!(matches!(end, Error::Refused(refusal) if refusal.code == Code::KeyStateConflict), "{end}");
        }
        assert!(opens(&started(&world), &text).await);
    }
    let held = hostler_trust::MasterKeys::change(&world.folder().join("master.key")).unwrap();
    let answer = world.post("/api/v1/master-key/rotate", json!({})).send().await;
    assert_eq!(answer.code(), "KEY_STATE_CONFLICT");
    drop(held);
    rotated(&world, "retire").await;
    assert!(opens(&started(&world), &text).await);
}

#[tokio::test]
async fn a_server_that_slept_through_rotations_wraps_a_new_tenants_key_under_what_is_there_now() {
    let world = World::new().await;
    let idle = started(&world);
    for verb in ["rotate", "rotate", "retire"] {
        rotated(&world, verb).await;
    }
    let theirs = Owner::Tenant(crate::harness::stranger());
    let text = idle.seal(theirs, "place", "hunter3").await.unwrap();
    assert_eq!(started(&world).open_text(theirs, "place", &text).await.unwrap(), "hunter3");

    // One that has a copy of its own of the file, and an old one, wraps nothing that the others could not open.
    let old = std::fs::read_to_string(world.folder().join("master.key")).unwrap();
    let path = world.folder().join("copy.key");
    hostler_trust::file::write_private(&path, old.as_bytes()).unwrap();
    let apart = Sealer::new(world.store.clone(), Master::file(&path).unwrap());
    rotated(&world, "rotate").await;
    let error = apart.seal(MINE, "place", "x").await.unwrap_err().to_string();
    assert!(error.contains("copy.key"), "{error}");
    for change in [apart.rotate(Actor::system()).await.err(), apart.retire(Actor::system()).await.err()] {
        assert!(change.is_some_and(|error| error.to_string().contains("copy.key")));
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), old);
}

#[tokio::test]
async fn a_command_wraps_in_place_of_a_file_and_sees_keys_on_its_standard_input_only() {
    let world = World::new().await;
    let (program, said) = (world.folder().join("kms"), world.folder().join("said"));
    // Turns the line around, as a service that keeps its key to itself would do something to it.
    let script = format!("#!/bin/sh\necho \"$@\" >>{}\nread line; echo \"$line\" | rev\n", said.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let words = vec![program.display().to_string(), "--region".into(), "a b; rm -rf /".into()];
    // A store in which no file has wrapped anything.
    let store = world.another_store();
    let sealer = Sealer::new(store.clone(), Master::Command(words.clone()));
    let sealed = sealer.seal(MINE, "place", "hunter2").await.unwrap();
    let fresh = Sealer::new(store.clone(), Master::Command(words));
    assert_eq!(fresh.open_text(MINE, "place", &sealed).await.unwrap(), "hunter2");
    let (said, owner) = (std::fs::read_to_string(&said).unwrap(), hostler_model::TenantId::DEFAULT);
    let lines: Vec<String> =
        ["wrap", "unwrap", "unwrap"].map(|verb| format!("--region a b; rm -rf / {verb} data key of {owner}")).into();
    assert_eq!(said.lines().collect::<Vec<_>>(), lines, "no shell, and no key among its words");

    for (bad, why) in [("/does/not/exist", "failed"), ("/bin/false", "failed"), ("/bin/true", "did not answer")] {
        let sealer = Sealer::new(store.clone(), Master::Command(vec![bad.into()]));
        let error = sealer.open_text(MINE, "place", &sealed).await.unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains(why), "{error}");
    }
    assert_eq!(fresh.rotate(Actor::system()).await.unwrap(), Rotated { keys: 1, master: None, older: Vec::new() });
    assert_eq!(fresh.open_text(MINE, "place", &sealed).await.unwrap(), "hunter2");
    // What a file wrapped is not the command's, and the other way round; nor does one wrap beside the other.
    let by_command = Sealer::new(world.store.clone(), Master::Command(vec!["/bin/true".into()]));
    let by_file = Sealer::new(store, Master::file(&world.folder().join("master.key")).unwrap());
    for (sealer, owner) in
        [(&by_command, Owner::Control), (&by_command, MINE), (&by_file, MINE), (&by_file, Owner::Control)]
    {
        let error = sealer.seal(owner, "x", "y").await.unwrap_err().to_string();
        assert!(error.contains("master_key"), "{error}");
    }
}
