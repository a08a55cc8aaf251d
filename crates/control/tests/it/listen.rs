//! Over real sockets: TLS with the certificate's identity, large bodies, a graceful end.

use std::time::Duration;

use hostler_control::Server;
use hostler_model::{
    Clock,
    internal::{Assignments, Join, Joined},
    task::TaskState,
};
use hostler_trust::{
    Credentials, NodeKey,
    tls::{self, PublicCertificate, ServerTrust},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Agent, World};

struct Served {
    api: String,
    internal: String,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

async fn serve(world: &World) -> Served {
    serve_as(world.server.clone()).await
}

async fn serve_as(server: Server) -> Served {
    let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let internal = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, internally) = (api.local_addr().unwrap(), internal.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let serving = tokio::spawn(async move { server.serve(api, internal, token).await.unwrap() });
    Served { api: at.to_string(), internal: format!("https://localhost:{}", internally.port()), shutdown, serving }
}

fn client(clock: &Clock, trust: ServerTrust<'_>, credentials: Option<&Credentials>) -> reqwest::Client {
    tls::http_client(tls::client_config(trust, credentials, clock).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_polls_and_is_known_by_its_certificate() {
    let world = World::new().await;
    let served = serve(&world).await;
    let token = Agent::join_token(&world, "node-1").await;
    let key = NodeKey::generate().unwrap();
    let join = Join {
        token: token.reveal(),
        name: "node-1".into(),
        csr_pem: key.csr("node-1").unwrap(),
        facts: Agent::facts(),
    };
    let stranger = client(&world.clock, ServerTrust::Fingerprint(token.authority()), None);
    let url = |rest: &str| format!("{}/internal/v1/nodes/{rest}", served.internal);
    let joined: Joined = stranger.post(url("join")).json(&join).send().await.unwrap().json().await.unwrap();
    let credentials = Credentials::new(&key, &joined.certificate_pem, &joined.ca_pem).unwrap();
    let node = client(&world.clock, ServerTrust::Authority(&joined.ca_pem), Some(&credentials));
    let path = url(&format!("{}/tasks/wait?wait_ms=20", joined.node));
    let polled: Assignments = node.get(&path).send().await.unwrap().json().await.unwrap();
    assert_eq!(polled.tasks.len(), 0);
    assert_eq!(stranger.get(&path).send().await.unwrap().status(), 401);
    let other = url("01900000-0000-7000-8000-000000000042/tasks/wait?wait_ms=20");
    assert_eq!(node.get(other).send().await.unwrap().status(), 403);
    // A day later the certificate has ended: it renews, and does nothing else.
    world.pass(Duration::from_secs(25 * 3600));
    assert_eq!(node.get(&path).send().await.unwrap().status(), 401);
    let renew = json!({"csr_pem": key.csr("node-1").unwrap()});
    let renewed = node.post(url(&format!("{}/renew", joined.node))).json(&renew).send().await.unwrap();
    assert_eq!(renewed.status(), 200);
    served.shutdown.cancel();
    served.serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_node_is_cut_off_with_what_it_waits_for_and_renews_no_more() {
    let (world, agent) = World::ready().await;
    let served = serve(&world).await;
    let credentials = Credentials::new(&agent.key, &agent.joined.certificate_pem, &agent.joined.ca_pem).unwrap();
    let node = client(&world.clock, ServerTrust::Authority(&agent.joined.ca_pem), Some(&credentials));
    let url = |rest: &str| format!("{}/internal/v1/nodes/{}/{rest}", served.internal, agent.identity.node);
    assert_eq!(node.get(url("tasks/wait?wait_ms=0")).send().await.unwrap().status(), 200);
    // A poll that waits, and a connection that somebody holds open.
    let poll = tokio::spawn(node.get(url("tasks/wait?wait_ms=60000")).send());
    let polls = "hostler_dispatch_waiting_polls 1";
    while !world.get("/metrics").send().await.text().contains(polls) {}
    let began = std::time::Instant::now();
    assert_eq!(world.post("/api/v1/nodes/node-1/revoke", json!({})).send().await.status, 200);
    // Its answer is a refusal, where it came before the connection was cut.
    assert!(came_to_nothing(poll.await.unwrap()));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // What it tries anew is cut or refused, the renewal included, and that of a certificate that has ended too.
    let renew = json!({"csr_pem": agent.key.csr("node-1").unwrap()});
    for _ in 0..2 {
        assert!(came_to_nothing(node.get(url("tasks/wait?wait_ms=0")).send().await));
        assert!(came_to_nothing(node.post(url("renew")).json(&renew).send().await));
        world.pass(Duration::from_secs(25 * 3600));
    }
    served.shutdown.cancel();
    served.serving.await.unwrap();
}

/// Whether a call came to nothing.
fn came_to_nothing(answer: reqwest::Result<reqwest::Response>) -> bool {
    answer.map_or(true, |answer| [401, 403].contains(&answer.status().as_u16()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_before_it_serves_is_no_service() {
    let (world, agent) = World::ready().await;
    let task = world.echo("x").await;
    assert_eq!(agent.poll(&world, "wait_ms=20").await.len(), 1);
    // Longer than a lease, and not as long as the task may take.
    world.pass(Duration::from_secs(40));
    let served = serve(&world).await;
    let passed = async {
        let passed = "hostler_loop_passes_total{name=\"lapse_leases\"}";
        while !world.get("/metrics").send().await.text().contains(passed) {}
    };
    tokio::time::timeout(Duration::from_secs(20), passed).await.expect("the loops run");
    assert_eq!(world.store.task(task.id).await.unwrap().unwrap().state, TaskState::Running);
    served.shutdown.cancel();
    served.serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_too_much_reads_the_refusal() {
    let world = World::new().await;
    let served = serve(&world).await;
    let mut stream = TcpStream::connect(&served.api).await.unwrap();
    let token = world.token(hostler_model::role::Role::PlatformAdmin);
    let head = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 104857600\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b' '; 1 << 20];
    for _ in 0..16 {
        stream.write_all(&piece).await.unwrap();
    }
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    served.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_answers_long_polls_and_ends_streams() {
    let (world, agent) = World::ready().await;
    let served = serve(&world).await;
    let credentials = Credentials::new(&agent.key, &agent.joined.certificate_pem, &agent.joined.ca_pem).unwrap();
    let node = client(&world.clock, ServerTrust::Authority(&agent.joined.ca_pem), Some(&credentials));
    let url = format!("{}/internal/v1/nodes/{}/tasks/wait?wait_ms=60000", served.internal, agent.identity.node);
    let poll = tokio::spawn(node.get(url).send());
    let people = tls::plain_http_client().unwrap();
    let token = world.token(hostler_model::role::Role::PlatformAdmin);
    let events = people.get(format!("http://{}/api/v1/events", served.api)).bearer_auth(token).send().await.unwrap();
    let began = std::time::Instant::now();
    served.shutdown.cancel();
    served.serving.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    events.bytes().await.unwrap();
    // Answered, or not yet accepted when the listener closed.
    let _ = poll.await.unwrap();
}

/// Writes a certificate for `localhost` and its key; the certificate, which is its own authority.
fn renew(dir: &std::path::Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let key = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::set_permissions(dir.join("key.pem"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::write(dir.join("cert.pem"), made.pem()).unwrap();
    made.pem()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_come_over_tls_and_a_renewed_certificate_is_shown_without_a_restart() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let first = renew(dir.path());
    let certificate = PublicCertificate::open(&dir.path().join("cert.pem"), &dir.path().join("key.pem")).unwrap();
    let served = serve_as(world.server.clone().with_certificate(certificate)).await;
    let port = served.api.rsplit_once(':').unwrap().1;
    let url = format!("https://localhost:{port}/healthz");
    let trusting = |pem: &str| client(&world.clock, ServerTrust::Authority(pem), None);
    assert_eq!(trusting(&first).get(&url).send().await.unwrap().status(), 200);
    let plain = reqwest::Client::new().get(format!("http://localhost:{port}/healthz")).send().await;
    assert!(plain.is_err(), "the API answers without TLS");
    let second = renew(dir.path());
    let shown = async { while trusting(&second).get(&url).send().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), shown).await.expect("the renewed certificate is shown");
    assert!(trusting(&first).get(&url).send().await.is_err());
    served.shutdown.cancel();
    served.serving.await.unwrap();
}

/// Renews the certificate of the world's authority in its file, before the one that is there.
fn renew_authority(world: &World, years: i32) -> String {
    let [pem, key] = ["ca.pem", "ca.key"].map(|name| std::fs::read_to_string(world.ca().join(name)).unwrap());
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    let public = <sha2::Sha256 as sha2::Digest>::digest(rcgen::PublicKeyData::der_bytes(&key));
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, format!("hostler authority {}", hex::encode(&public[..4])));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2025 + years, 1, 1);
    let renewed = params.self_signed(&key).unwrap().pem();
    hostler_trust::file::write_private(&world.ca().join("ca.pem"), (renewed.clone() + &pem).as_bytes()).unwrap();
    renewed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_was_renewed_in_its_files_is_taken_up_and_nodes_know_it() {
    let (world, agent) = World::ready().await;
    let served = serve(&world).await;
    let before = Credentials::new(&agent.key, &agent.joined.certificate_pem, &agent.joined.ca_pem).unwrap();
    let url = |rest: &str| format!("{}/internal/v1/nodes/{}/{rest}", served.internal, agent.identity.node);
    let polls = async |credentials: &Credentials| {
        let trust = ServerTrust::Fingerprint(credentials.authority_fingerprint());
        let node = client(&world.clock, trust, Some(credentials));
        node.get(url("tasks/wait?wait_ms=0")).send().await.map(|answer| answer.status().as_u16())
    };
    assert_eq!(polls(&before).await.unwrap(), 200);
    let renewed = renew_authority(&world, 30);
    let shown = hostler_trust::Fingerprint::of_pem(&renewed).unwrap();
    let taken_up = async {
        while client(&world.clock, ServerTrust::Fingerprint(shown), Some(&before))
            .get(url("tasks/wait?wait_ms=0"))
            .send()
            .await
            .is_err()
        {}
    };
    tokio::time::timeout(Duration::from_secs(60), taken_up).await.expect("the renewed one is shown");
    // A node that knows the one before goes on, and knows the new one once it has renewed its own.
    assert_eq!(polls(&before).await.unwrap(), 200);
    let renew = json!({"csr_pem": agent.key.csr("node-1").unwrap()});
    let node = client(&world.clock, ServerTrust::Fingerprint(before.authority_fingerprint()), Some(&before));
    let joined: Joined = node.post(url("renew")).json(&renew).send().await.unwrap().json().await.unwrap();
    let after = Credentials::new(&agent.key, &joined.certificate_pem, &joined.ca_pem).unwrap();
    assert_eq!(after.authority_fingerprint(), shown);
    assert_eq!(polls(&after).await.unwrap(), 200);
    served.shutdown.cancel();
    served.serving.await.unwrap();
}
