//! A world to test in: one server, its store, tokens for each role, and agents that are driven by hand.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use hostler_control::{
    Keyring, Limits, Master, Oidc, Pace, PeerAddress, PeerIdentity, RateLimits, Sealer, Server, ServerConfig, Sources,
};
use hostler_db::Mode;
use hostler_model::{
    Clock, Ids, PrincipalId, Resources, TenantId, Timestamp,
    caller::Caller,
    catalogue::{Catalogue, KnownImage},
    defaults::Defaults,
    event::Actor,
    image::{Image, Sha256Hex},
    internal::{Assignment, Assignments, Join, Joined, Reports},
    node::NodeFacts,
    placement::Policy,
    role::Role,
    task::Task,
    tenant::UNLIMITED,
};
use hostler_store::{Config, LogFilter, NewApiToken, NewJoinToken, NewTenantRow, Store, TaskFilter, Timing, VmFilter};
use hostler_trust::{
    AccessIssuer, ApiToken, Authority, Credentials, Expected, JoinToken, NodeIdentity, NodeKey, NodeSigner,
    TaskVerifier,
};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;
use uuid::Uuid;

/// Another tenant's id, for callers who must see nothing.
pub fn stranger() -> TenantId {
    TenantId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0077))
}

/// A server and what belongs to it.
pub struct World {
    pub server: Server,
    pub store: Store,
    pub ids: Ids,
    pub clock: Clock,
    time: Arc<AtomicI64>,
    dir: TempDir,
    tokens: Vec<(Role, String)>,
    pub foreign: String,
}

impl World {
    /// A server without nodes and images.
    pub async fn new() -> World {
        World::knowing(Vec::new()).await
    }

    /// One whose catalogue has these images too.
    pub async fn knowing(known: Vec<KnownImage>) -> World {
        World::with(known, Limits::default(), None).await
    }

    /// One that takes no longer blobs than this.
    pub async fn limited(blob_bytes: u64) -> World {
        World::with(Vec::new(), Limits { blob_bytes, ..Limits::default() }, None).await
    }

    /// One that lets nobody call more often than this.
    pub async fn slowed(rates: RateLimits) -> World {
        World::with(Vec::new(), Limits { rates, ..Limits::default() }, None).await
    }

    /// One that believes an identity provider.
    pub async fn sending(oidc: Oidc) -> World {
        World::with(Vec::new(), Limits::default(), Some(oidc)).await
    }

    async fn with(known: Vec<KnownImage>, limits: Limits, oidc: Option<Oidc>) -> World {
        hostler_trust::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(1_760_000_000_000_000));
        let clock = Clock::from_fn({
            let time = time.clone();
            move || Timestamp::from_micros(time.load(Ordering::Relaxed))
        });
        let ids = Ids::seeded(7);
        let store = open(&dir.path().join("hostler.db"), &clock, &ids);
        let master = Master::file(&dir.path().join("master.key")).unwrap();
        let sealer = Sealer::new(store.clone(), master);
        let server = Server::new(ServerConfig {
            store: store.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            authority: Authority::load_or_create(&dir.path().join("ca"), clock.now()).unwrap(),
            keys: Keyring::open(store.clone(), sealer.clone()).await.unwrap(),
            sealer,
            node_validity: hostler_trust::ca::NODE_VALIDITY,
            access: AccessIssuer::generate("hostler-test", clock.now()).unwrap(),
            oidc,
            issuer: "hostler-test".into(),
            blobs: dir.path().join("blobs"),
            sources: Sources {
                allow: vec!["127.0.0.0/8".parse().unwrap()],
                roots: vec![dir.path().join("import")],
                files: Vec::new(),
                catalogue: Catalogue::default().with(known).unwrap(),
            },
            defaults: Defaults::default(),
            names: Vec::new(),
            pace: quick(),
            limits,
            broker: None,
        });
        let mut world = World { server, store, ids, clock, time, dir, tokens: Vec::new(), foreign: String::new() };
        for role in Role::ALL {
            let token = world.make_token(TenantId::DEFAULT, role).await;
            world.tokens.push((role, token));
        }
        let other = world
            .store
            .create_tenant(NewTenantRow::of_system(stranger(), "stranger".parse().unwrap(), UNLIMITED))
            .await;
        other.unwrap().unwrap();
        world.foreign = world.make_token(stranger(), Role::TenantAdmin).await;
        world
    }

    /// With one approved node that can do everything, and the image `tiny`.
    pub async fn ready() -> (World, Agent) {
        let world = World::new().await;
        world.import_tiny().await;
        let agent = Agent::join(&world, "node-1").await;
        (world, agent)
    }

    async fn make_token(&self, tenant: TenantId, role: Role) -> String {
        self.token_of(Caller::new(self.ids.next::<PrincipalId>(self.clock.now()), tenant, role)).await
    }

    /// A token that stands for this caller.
    pub async fn token_of(&self, caller: Caller) -> String {
        let (token, id) = (ApiToken::generate(&self.ids), self.ids.next(self.clock.now()));
        let new = NewApiToken::of_system(id, token.hash().to_string(), caller, "test");
        self.store.create_api_token(new).await.unwrap().unwrap();
        token.reveal()
    }

    /// The folder of the authority.
    pub fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join("ca")
    }

    pub fn token(&self, role: Role) -> &str {
        &self.tokens.iter().find(|(has, _)| *has == role).unwrap().1
    }

    /// Lets time pass for the store and the server, not for tokio.
    pub fn pass(&self, by: Duration) {
        self.time.fetch_add(by.as_micros() as i64, Ordering::Relaxed);
    }

    pub async fn import_tiny(&self) -> Image {
        self.import_tiny_for(TenantId::DEFAULT).await
    }

    pub async fn import_tiny_for(&self, tenant: TenantId) -> Image {
        let dir = self.dir.path().join("tiny");
        write_tiny(&dir);
        self.server.app().import_dir(tenant, &dir, Actor::system()).await.unwrap().image
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// What somebody does who has the database and nothing else.
    pub fn tamper(&self, sql: &str) {
        rusqlite::Connection::open(self.dir.path().join("hostler.db")).unwrap().execute_batch(sql).unwrap();
    }

    /// An empty store beside that of the server.
    pub fn another_store(&self) -> Store {
        open(&self.dir.path().join("another.db"), &self.clock, &self.ids)
    }

    /// A call by the platform's administrator.
    pub fn call(&self, method: Method, path: &str) -> Call {
        Call::new(self.server.api(), method, path).bearer(self.token(Role::PlatformAdmin))
    }

    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str, body: Value) -> Call {
        self.call(Method::POST, path).json(&body)
    }

    /// How much was written down: tasks, machines, the log's head.
    pub async fn marks(&self) -> (usize, usize, i64) {
        let tasks = self.store.tasks(TaskFilter::default(), None, 500).await.unwrap().len();
        let vms = self.store.vms(VmFilter::default(), None, 500).await.unwrap().len();
        (tasks, vms, self.store.log_head().await.unwrap())
    }

    pub async fn kinds_of_events(&self, subject: Uuid) -> Vec<String> {
        let filter = LogFilter {
            subject: Some(subject),
            class: Some(hostler_model::event::Class::Event),
            ..LogFilter::default()
        };
        let entries = self.store.log(filter, 0, 500).await.unwrap();
        entries.into_iter().map(|entry| entry.kind).collect()
    }

    /// Submits an echo.
    pub async fn echo(&self, message: &str) -> Task {
        let body = json!({"kind": "echo", "params": {"message": message}});
        let answer = self.post("/api/v1/tasks", body).send().await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        serde_json::from_value(answer.json()["task"].clone()).unwrap()
    }
}

fn open(path: &Path, clock: &Clock, ids: &Ids) -> Store {
    let (clock, ids) = (clock.clone(), ids.clone());
    let config = Config { mode: Mode::Threads, clock, ids, timing: Timing::default(), placement: Policy::default() };
    Store::open(path, config).unwrap()
}

/// Lets time pass for tokio, and with it for what the server remembers and for its timers.
pub async fn later(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// Loops that need not be waited for.
fn quick() -> Pace {
    let every = Duration::from_millis(5);
    Pace {
        lapse_leases: every,
        expire_queued: every,
        expire_running: every,
        judge_nodes: every,
        place_waiting: every,
        drain_nodes: every,
        restart_vms: every,
        expire_vms: every,
        drop_idempotency_keys: every,
        fold_stats: every,
        expire_reservations: every,
        lapse_imports: every,
        forget: every,
        collect_blobs: every,
        refresh_trust: every,
        sign_chain: every,
    }
}

fn write_tiny(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let mut files = serde_json::Map::new();
    for (part, bytes) in [("kernel", &b"a kernel"[..]), ("rootfs", b"a root disk")] {
        std::fs::write(dir.join(part), bytes).unwrap();
        files.insert(part.into(), json!({"sha256": Sha256Hex::of(bytes), "size": bytes.len()}));
    }
    let manifest = json!({
        "name": "tiny", "arch": "x86_64", "files": files, "cmdline": "console=ttyS0",
        "defaults": {"vcpus": 1, "memory_mib": 128, "disk_gib": 1}, "ready": "guest_agent",
    });
    std::fs::write(dir.join("image.json"), manifest.to_string()).unwrap();
}

/// A request on its way.
pub struct Call {
    router: Router,
    request: Request<Body>,
}

impl Call {
    pub fn new(router: Router, method: Method, path: &str) -> Call {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        Call { router, request }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Call {
        self.request.headers_mut().insert(name, value.parse().unwrap());
        self
    }

    pub fn no_credential(mut self) -> Call {
        self.request.headers_mut().remove(header::AUTHORIZATION);
        self
    }

    pub fn bearer(self, token: &str) -> Call {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn json(self, body: &impl Serialize) -> Call {
        self.body("application/json", serde_json::to_vec(body).unwrap())
    }

    pub fn body(self, media: &str, body: impl Into<Body>) -> Call {
        let mut call = self.header("content-type", media);
        *call.request.body_mut() = body.into();
        call
    }

    pub fn from(mut self, identity: NodeIdentity) -> Call {
        self.request.extensions_mut().insert(PeerIdentity(identity));
        self
    }

    pub fn at(mut self, address: &str) -> Call {
        self.request.extensions_mut().insert(PeerAddress(address.parse().unwrap()));
        self
    }

    pub async fn stream(self) -> Response {
        self.router.oneshot(self.request).await.unwrap()
    }

    pub async fn send(self) -> Answer {
        let response = self.stream().await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }
}

/// An answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.bytes.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn of<T: DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        serde_json::from_slice(&self.bytes).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of a problem, which must be whole.
    pub fn code(&self) -> String {
        let problem = self.json();
        assert_eq!(self.header("content-type"), "application/problem+json", "{problem}");
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(problem["detail"].as_str().unwrap().len() > 10, "{problem}");
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// An agent, driven by hand.
pub struct Agent {
    pub identity: NodeIdentity,
    pub joined: Joined,
    pub key: NodeKey,
    verifier: TaskVerifier,
    signer: NodeSigner,
}

impl Agent {
    pub fn facts() -> NodeFacts {
        NodeFacts {
            hypervisor: "none".into(),
            acceleration: "simulated".into(),
            capacity: Resources { vcpus: 4, memory_mib: 8192, disk_gib: 100, vms: 10 },
            capabilities: vec!["*".into()],
            ..NodeFacts::default()
        }
    }

    /// A token for a node of this name, new or known.
    pub async fn join_token(world: &World, node: &str) -> JoinToken {
        let token = JoinToken::generate(&world.ids, world.server.app().authority.get().fingerprint());
        let new = NewJoinToken {
            id: world.ids.next(world.clock.now()),
            token_hash: token.hash().to_string(),
            node_name: Some(node.parse().unwrap()),
            validity: Duration::from_secs(600),
            approve: true,
            actor: Actor::system(),
        };
        world.store.create_join_token(new).await.unwrap();
        token
    }

    pub async fn join(world: &World, name: &str) -> Agent {
        let token = Agent::join_token(world, name).await;
        Agent::join_with(world, name, &token.reveal()).await
    }

    pub async fn join_with(world: &World, name: &str, token: &str) -> Agent {
        let key = NodeKey::generate().unwrap();
        let join =
            Join { token: token.into(), name: name.into(), csr_pem: key.csr(name).unwrap(), facts: Agent::facts() };
        let answer =
            Call::new(world.server.internal(), Method::POST, "/internal/v1/nodes/join").json(&join).send().await;
        let joined: Joined = answer.of();
        let identity = NodeIdentity { node: joined.node, enrolment: joined.enrolment };
        let verifier = TaskVerifier::from_jwks(&joined.task_keys).unwrap();
        let credentials = Credentials::new(&key, &joined.certificate_pem, &joined.ca_pem).unwrap();
        Agent { identity, joined, key, verifier, signer: NodeSigner::new(&credentials) }
    }

    /// A call of this agent, below its own path.
    pub fn call(&self, world: &World, method: Method, rest: &str) -> Call {
        let path = format!("/internal/v1/nodes/{}/{rest}", self.identity.node);
        Call::new(world.server.internal(), method, &path).from(self.identity)
    }

    pub async fn poll(&self, world: &World, query: &str) -> Vec<Assignment> {
        let answer = self.call(world, Method::GET, &format!("tasks/wait?{query}")).send().await;
        let expected = Expected { issuer: &self.joined.issuer, node: self.identity.node };
        let assignments: Assignments = answer.of();
        let now = world.clock.now();
        let tasks = assignments.tasks.iter().flat_map(|jws| self.verifier.verify(jws, &expected, now).unwrap());
        tasks.map(Result::unwrap).collect()
    }

    /// Ends an assignment with this output.
    pub async fn finish(&self, world: &World, assignment: &Assignment, output: Value) -> Answer {
        self.report(world, assignment, json!({"result": "succeeded", "output": output})).await
    }

    /// Ends an assignment so.
    pub async fn report(&self, world: &World, assignment: &Assignment, end: Value) -> Answer {
        let report = json!({
            "task": assignment.sub, "fence": assignment.fence, "end": end,
            "phases": [{"phase": "work", "ms": 1.5}],
            "started_at": world.clock.now(), "finished_at": world.clock.now(),
        });
        let signed = self.signed(vec![report]);
        self.call(world, Method::POST, &format!("tasks/{}/result", assignment.sub)).json(&signed).send().await
    }

    /// Results as this agent sends them.
    pub fn signed(&self, reports: Vec<Value>) -> Reports {
        let reports = reports.into_iter().map(|report| serde_json::from_value(report).unwrap()).collect();
        self.signer.sign(reports, &self.joined.issuer).unwrap()
    }
}
