//! scratch
#![allow(clippy::print_stdout, missing_docs)]
use std::{collections::HashMap, sync::{Arc, Mutex}, time::{Duration, Instant}};
use hostler_control::{Limits, Pace, Server, ServerConfig};
use hostler_model::{Clock, Ids, PrincipalId, Resources, TaskId, TenantId, event::Actor, internal::*, kind::Role, node::NodeFacts};
use hostler_sqlite::Mode;
use hostler_store::{Caller, Config, NewApiToken, NewJoinToken, Store, Timing};
use hostler_trust::{ApiToken, Authority, Credentials, Expected, JoinToken, NodeKey, TaskSigner, TaskVerifier, tls::{self, ServerTrust}};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    hostler_trust::install_crypto();
    let dir = tempfile::tempdir_in("/work/main/target").unwrap();
    let clock = Clock::system();
    let ids = Ids::system();
    let store = Store::open(&dir.path().join("hostler.db"), Config { mode: Mode::Threads, clock: clock.clone(), ids: ids.clone(), timing: Timing::default() }).unwrap();
    let server = Server::new(ServerConfig { store: store.clone(), clock: clock.clone(), ids: ids.clone(), authority: Authority::create(clock.now()).unwrap(), signer: TaskSigner::generate().unwrap(), issuer: "x".into(), blobs: dir.path().join("blobs"), names: vec![], pace: Pace::default(), limits: Limits::default() });
    let token = ApiToken::generate(&ids);
    store.create_api_token(NewApiToken { token_hash: token.hash().to_string(), caller: Caller { principal: ids.next::<PrincipalId>(clock.now()), tenant: TenantId::DEFAULT, role: Role::PlatformAdmin }, label: "x".into() }).await.unwrap();
    let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let internal = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", api.local_addr().unwrap());
    let inner = format!("https://localhost:{}", internal.local_addr().unwrap().port());
    let shutdown = CancellationToken::new();
    let (s, t) = (server.clone(), shutdown.clone());
    tokio::spawn(async move { s.serve(api, internal, t).await.unwrap() });
    let started: Arc<Mutex<HashMap<TaskId, Instant>>> = Arc::default();
    let agents = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    for n in 0..agents {
        let jt = JoinToken::generate(&ids, server.app().authority.fingerprint());
        store.create_join_token(NewJoinToken { token_hash: jt.hash().to_string(), node_name: None, expires_at: clock.now().plus(Duration::from_secs(600)), approve: true, actor: Actor::system() }).await.unwrap();
        let key = NodeKey::generate().unwrap();
        let facts = NodeFacts { capacity: Resources { vcpus: 1000, memory_mib: 1 << 30, disk_gib: 100000, vms: 100000 }, capabilities: vec!["*".into()], ..NodeFacts::default() };
        let c = tls::http_client(tls::client_config(ServerTrust::Fingerprint(jt.authority()), None, &clock).unwrap()).unwrap();
        let joined: Joined = c.post(format!("{inner}/internal/v1/nodes/join")).json(&Join { token: jt.reveal(), name: format!("n{n}"), csr_pem: key.csr("n").unwrap(), facts: facts.clone() }).send().await.unwrap().json().await.unwrap();
        let cred = Credentials::new(&key, &joined.certificate_pem, &joined.ca_pem).unwrap();
        let c = tls::http_client(tls::client_config(ServerTrust::Authority(&joined.ca_pem), Some(&cred), &clock).unwrap()).unwrap();
        let (started, clock, inner) = (started.clone(), clock.clone(), inner.clone());
        let c2 = c.clone(); let inner2 = inner.clone(); let joined2 = joined.clone();
        tokio::spawn(async move { loop { let _ = c2.post(format!("{inner2}/internal/v1/nodes/{}/heartbeat", joined2.node)).json(&json!({"facts": facts, "leases": [], "inventory": {"full": false, "vms": []}})).send().await; tokio::time::sleep(Duration::from_secs(5)).await; } });
        tokio::spawn(async move {
            let v = TaskVerifier::from_jwks(&joined.task_keys).unwrap();
            loop {
                let url = format!("{inner}/internal/v1/nodes/{}/tasks/wait?max=64", joined.node);
                let Ok(answer) = c.get(&url).send().await else { tokio::time::sleep(Duration::from_millis(100)).await; continue };
                let a: Assignments = answer.json().await.unwrap();
                let at = Instant::now();
                let mut results = vec![];
                for jws in a.tasks {
                    let one = v.verify(&jws, &Expected { issuer: "x", node: joined.node }, clock.now()).unwrap();
                    started.lock().unwrap().insert(one.sub, at);
                    let now = clock.now();
                    let output = match one.kind { hostler_model::kind::KindName::VmCreate => json!({"charge": {"vcpus":1,"memory_mib":128,"disk_gib":1,"vms":1}, "boot_ms": 1.0, "acceleration": "sim"}), _ => json!({"message": "x", "existed": true}) };
                    results.push(json!({"task": one.sub, "fence": one.fence, "end": {"result":"succeeded","output": output}, "started_at": now, "finished_at": now}));
                }
                if !results.is_empty() {
                    let (c, u) = (c.clone(), format!("{inner}/internal/v1/nodes/{}/results", joined.node));
                    tokio::spawn(async move { c.post(u).json(&json!({"results": results})).send().await.unwrap().error_for_status().unwrap(); });
                }
            }
        });
    }
    if std::env::args().nth(2).as_deref() == Some("serve") {
        println!("{base} {}", token.reveal());
        tokio::time::sleep(Duration::from_secs(900)).await;
        return;
    }
    let people = tls::plain_http_client().unwrap();
    let bearer = token.reveal();
    let mut took = vec![]; let mut post = vec![];
    for _ in 0..500 {
        let began = Instant::now();
        let answer: serde_json::Value = people.post(format!("{base}/api/v1/tasks")).bearer_auth(&bearer).json(&json!({"kind":"echo","params":{"message":"x"}})).send().await.unwrap().json().await.unwrap();
        post.push(began.elapsed());
        let id: TaskId = answer["task"]["id"].as_str().unwrap().parse().unwrap();
        loop { if let Some(at) = started.lock().unwrap().remove(&id) { took.push(at - began); break; } tokio::time::sleep(Duration::from_micros(100)).await; }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    took.sort(); post.sort();
    println!("idle dispatch p50 {:?} p99 {:?} max {:?}; post p50 {:?}", took[250], took[495], took[499], post[250]);
    let n = 32; let per = 300;
    let began = Instant::now();
    let all: Vec<_> = (0..n).map(|_| { let (people, base, bearer) = (people.clone(), base.clone(), bearer.clone()); tokio::spawn(async move { for _ in 0..per {
        let r = people.post(format!("{base}/api/v1/tasks")).bearer_auth(&bearer).header("prefer","wait=20").json(&json!({"kind":"echo","params":{"message":"x"}})).send().await.unwrap(); assert_eq!(r.status(), 200); r.bytes().await.unwrap(); } }) }).collect();
    for one in all { one.await.unwrap(); }
    let t = began.elapsed();
    println!("whole life from {n} connections: {:.0}/s", (n * per) as f64 / t.as_secs_f64());
    let began = Instant::now();
    let all: Vec<_> = (0..n).map(|_| { let (people, base, bearer) = (people.clone(), base.clone(), bearer.clone()); tokio::spawn(async move { for _ in 0..500 {
        people.get(format!("{base}/api/v1/quota")).bearer_auth(&bearer).send().await.unwrap().bytes().await.unwrap(); } }) }).collect();
    for one in all { one.await.unwrap(); }
    println!("GET quota: {:.0}/s", (n * 500) as f64 / began.elapsed().as_secs_f64());
    shutdown.cancel();
}
