//! A server that does as it is told, behind the link seam: it signs what a test hands it, and keeps what it hears.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use hostler_agent::{
    Agent, AgentConfig, Slots,
    agent::AgentError,
    hypervisor::Hypervisor,
    metrics::{Counter, Metrics},
    tether::Tether,
};
use hostler_link::{Body, Link};
use hostler_model::{
    Clock, Fence, Ids, NodeId, TaskId, Timestamp, VmId,
    id::EnrolmentId,
    image::{Manifest, Sha256Hex},
    internal::{
        Assignment, Assignments, Heartbeat, HeartbeatAnswer, Join, Joined, ProgressAnswer, ProgressReport, Receipt,
        Receipts, Report, Reports,
    },
    key::{KeyState, SigningKey},
    kind::{Class, KindName},
    task::{End, Intent, Target},
};
use hostler_trust::{
    Authority, Credentials, JoinToken, NodeIdentity, NodeKey, TaskKey, TaskSigner, ca::NODE_VALIDITY, requested_key,
    task,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub const BASE: i64 = 1_800_000_000_000_000;

#[derive(Default)]
pub struct Heard {
    /// Signed tasks, and the class of poll that gets them.
    pub tokens: VecDeque<(Class, String)>,
    pub batches: Vec<Vec<Report>>,
    pub heartbeats: Vec<Heartbeat>,
    pub progress: Vec<(TaskId, ProgressReport)>,
    pub polls: Vec<String>,
    /// How often polls were to be ended.
    pub ends: usize,
    /// Signed tasks that an ended poll brings.
    pub at_end: Vec<String>,
    /// Whether what is to be ended waits elsewhere.
    pub elsewhere: bool,
    pub joins: usize,
    /// How many of the next joins' answers are lost.
    pub joins_lost: usize,
    /// With which keys hosts asked to join.
    pub join_keys: Vec<String>,
    pub renewals: usize,
    /// How many of the next heartbeats' answers are lost.
    pub beats_lost: usize,
    /// How many of the next results calls fail.
    pub results_fail: usize,
    /// What results are told, instead of settled.
    pub receipt: Option<Receipt>,
    /// The keys that heartbeats tell of.
    pub task_keys: Option<Value>,
    pub abort: Vec<TaskId>,
    pub over: Vec<TaskId>,
    pub manifests: HashMap<String, Manifest>,
    pub blobs: HashMap<String, Vec<u8>>,
}

#[derive(Clone)]
pub struct Server {
    pub heard: Arc<Mutex<Heard>>,
    stirred: watch::Sender<u64>,
    ended: watch::Sender<u64>,
    pub signer: Arc<TaskSigner>,
    pub key: SigningKey,
    authority: Arc<Authority>,
    pub node: NodeId,
    pub clock: Clock,
    pub ids: Ids,
}

/// A key that signs, and as agents know it.
pub fn signing(state: KeyState) -> (TaskSigner, SigningKey) {
    let (key, at) = (TaskKey::generate().unwrap(), Timestamp::from_micros(BASE));
    let public = SigningKey { kid: key.kid(), state, public: key.public(), created_at: at, changed_at: at };
    (key.signer(), public)
}

/// A clock that runs with tokio's time.
pub fn clock() -> Clock {
    let start = Instant::now();
    Clock::from_fn(move || Timestamp::from_micros(BASE).plus(start.elapsed()))
}

impl Server {
    pub fn new() -> Server {
        hostler_trust::install_crypto();
        let (clock, ids) = (clock(), Ids::seeded(7));
        let (signer, key) = signing(KeyState::Active);
        Server {
            heard: Arc::default(),
            stirred: watch::Sender::new(0),
            ended: watch::Sender::new(0),
            signer: Arc::new(signer),
            key,
            authority: Arc::new(Authority::create(clock.now()).unwrap()),
            node: ids.next(clock.now()),
            clock,
            ids,
        }
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Heard) -> T) -> T {
        let out = change(&mut self.heard.lock().unwrap());
        self.stirred.send_modify(|n| *n += 1);
        out
    }

    /// Waits until something was heard.
    pub async fn until<T>(&self, mut look: impl FnMut(&Heard) -> Option<T>) -> T {
        let mut stirred = self.stirred.subscribe();
        loop {
            if let Some(found) = look(&self.heard.lock().unwrap()) {
                return found;
            }
            stirred.changed().await.unwrap();
        }
    }

    /// Waits for the n-th result, from 1.
    pub async fn result(&self, n: usize) -> Report {
        self.until(|heard| heard.batches.iter().flatten().nth(n - 1).cloned()).await
    }

    pub fn results(&self) -> Vec<Report> {
        self.with(|heard| heard.batches.concat())
    }

    pub fn task(&self, kind: KindName, vm: Option<VmId>, params: Value) -> Assignment {
        let (task, now): (TaskId, _) = (self.ids.next(self.clock.now()), self.clock.now());
        let seconds = now.as_micros() / 1_000_000;
        Assignment {
            iss: "test".into(),
            aud: self.node,
            sub: task,
            jti: format!("{task}.1"),
            iat: seconds,
            exp: seconds + 3600,
            fence: Fence { store_epoch: 1, attempt: 1 },
            epoch: vm.map(|_| 1),
            intent: Intent::Run,
            kind,
            target: Target { vm, node: None },
            params,
            lease_expires_at: now.plus(Duration::from_secs(30)),
            deadline: now.plus(Duration::from_secs(600)),
        }
    }

    pub fn echo(&self, message: &str) -> Assignment {
        self.task(KindName::Echo, None, json!({ "message": message }))
    }

    pub fn exec(&self, vm: VmId) -> Assignment {
        self.task(KindName::VmExec, Some(vm), json!({ "argv": ["uname", "-a"] }))
    }

    pub fn delete(&self, vm: VmId) -> Assignment {
        self.task(KindName::VmDelete, Some(vm), json!({}))
    }

    pub fn create(&self, vm: VmId) -> Assignment {
        let digest = self.image(b"kernel", b"rootfs");
        let params = json!({
            "name": "one", "image": "tiny", "image_digest": digest, "vcpus": 1, "memory_mib": 128, "disk_gib": 1,
            "ready_timeout_seconds": 60,
        });
        self.task(KindName::VmCreate, Some(vm), params)
    }

    /// Serves an image, and says its digest.
    pub fn image(&self, kernel: &[u8], rootfs: &[u8]) -> String {
        let file = |bytes: &[u8]| json!({ "sha256": Sha256Hex::of(bytes), "size": bytes.len() });
        let manifest: Manifest = serde_json::from_value(json!({
            "name": "tiny", "arch": "x86_64", "files": { "kernel": file(kernel), "rootfs": file(rootfs) },
            "cmdline": "", "defaults": { "vcpus": 1, "memory_mib": 128, "disk_gib": 1 }, "ready": "guest_agent",
        }))
        .unwrap();
        let digest = manifest.digest().to_string();
        self.with(|heard| {
            for bytes in [kernel, rootfs] {
                heard.blobs.insert(Sha256Hex::of(bytes).to_string(), bytes.to_vec());
            }
            heard.manifests.insert(digest.clone(), manifest);
        });
        digest
    }

    pub fn vm(&self) -> VmId {
        self.ids.next(self.clock.now())
    }

    pub fn sign(&self, assignment: &Assignment) -> String {
        self.signer.sign(assignment).unwrap()
    }

    pub fn give(&self, assignment: &Assignment) {
        let (class, token) = (assignment.kind.spec().class, self.sign(assignment));
        self.with(|heard| heard.tokens.push_back((class, token)));
    }

    /// Gives a token of which the server does not say what it is.
    pub fn give_token(&self, token: String) {
        self.with(|heard| heard.tokens.push_back((Class::Quick, token)));
    }

    fn link(&self) -> Link {
        let server = self.clone();
        Link::service(tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        }))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let own = format!("/internal/v1/nodes/{}/", self.node);
        match path.strip_prefix(&own).unwrap_or(&path) {
            "/internal/v1/nodes/join" => {
                let join: Join = serde_json::from_slice(&body).unwrap();
                let lost = self.with(|heard| {
                    heard.joins += 1;
                    heard.join_keys.push(requested_key(&join.csr_pem).unwrap());
                    heard.joins_lost.checked_sub(1).inspect(|left| heard.joins_lost = *left).is_some()
                });
                if lost { status(StatusCode::BAD_GATEWAY) } else { json_of(&self.joined(&join.csr_pem)) }
            }
            "renew" => {
                self.with(|heard| heard.renewals += 1);
                let renew: hostler_model::internal::Renew = serde_json::from_slice(&body).unwrap();
                json_of(&self.joined(&renew.csr_pem))
            }
            "tasks/wait" if method == Method::DELETE => self.end(),
            "tasks/wait" => self.wait(query).await,
            "results" => self.settle(&body),
            "heartbeat" => self.beat(&body),
            path => self.other(path, &body),
        }
    }

    fn other(&self, path: &str, body: &Bytes) -> Response<Body> {
        if let Some(digest) = path.strip_prefix("images/") {
            return match self.with(|heard| heard.manifests.get(digest).cloned()) {
                Some(manifest) => json_of(&manifest),
                None => status(StatusCode::NOT_FOUND),
            };
        }
        if let Some(sha256) = path.strip_prefix("blobs/") {
            return match self.with(|heard| heard.blobs.get(sha256).cloned()) {
                Some(bytes) => Response::new(bytes.into()),
                None => status(StatusCode::NOT_FOUND),
            };
        }
        let task: TaskId = path.strip_prefix("tasks/").unwrap().strip_suffix("/progress").unwrap().parse().unwrap();
        let report: ProgressReport = serde_json::from_slice(body).unwrap();
        let abort = self.with(|heard| {
            heard.progress.push((task, report));
            heard.abort.contains(&task)
        });
        json_of(&ProgressAnswer { abort, lease_expires_at: self.clock.now().plus(Duration::from_secs(30)) })
    }

    async fn wait(&self, query: String) -> Response<Body> {
        let free = |class: Class| -> usize {
            let value = query.split(['?', '&']).find_map(|p| p.strip_prefix(class.as_str())?.strip_prefix('='));
            value.unwrap().parse().unwrap()
        };
        let mut slots = Slots::default();
        Class::ALL.into_iter().for_each(|class| *slots.of_mut(class) = free(class));
        let mut free = slots;
        self.with(|heard| heard.polls.push(query));
        let (mut stirred, mut ended) = (self.stirred.subscribe(), self.ended.subscribe());
        let give_up = tokio::time::sleep(Duration::from_secs(30));
        tokio::pin!(give_up);
        loop {
            let tasks: Vec<String> = {
                let mut heard = self.heard.lock().unwrap();
                let (mut taken, mut left) = (Vec::new(), VecDeque::new());
                for (class, token) in heard.tokens.drain(..) {
                    match free.of_mut(class) {
                        0 => left.push_back((class, token)),
                        slots => {
                            *slots -= 1;
                            taken.push(token);
                        }
                    }
                }
                heard.tokens = left;
                taken
            };
            if !tasks.is_empty() {
                return json_of(&Assignments { tasks, abort: Vec::new() });
            }
            tokio::select! {
                biased;
                _ = ended.changed() => {
                    let tasks = self.with(|heard| std::mem::take(&mut heard.at_end));
                    return json_of(&Assignments { tasks, abort: Vec::new() });
                }
                _ = stirred.changed() => {}
                () = &mut give_up => return json_of(&Assignments::default()),
            }
        }
    }

    fn end(&self) -> Response<Body> {
        let elsewhere = self.with(|heard| {
            heard.ends += 1;
            heard.elsewhere
        });
        if !elsewhere {
            self.ended.send_modify(|n| *n += 1);
        }
        status(StatusCode::NO_CONTENT)
    }

    fn settle(&self, body: &Bytes) -> Response<Body> {
        let reports: Reports = serde_json::from_slice(body).unwrap();
        self.with(|heard| {
            if heard.results_fail > 0 {
                heard.results_fail -= 1;
                return status(StatusCode::SERVICE_UNAVAILABLE);
            }
            let receipts = vec![heard.receipt.unwrap_or(Receipt::Settled); reports.results.len()];
            heard.batches.push(reports.results);
            json_of(&Receipts { receipts })
        })
    }

    fn beat(&self, body: &Bytes) -> Response<Body> {
        let beat: Heartbeat = serde_json::from_slice(body).unwrap();
        let leases = beat.leases.clone();
        self.with(|heard| {
            heard.heartbeats.push(beat);
            if let Some(left) = heard.beats_lost.checked_sub(1) {
                heard.beats_lost = left;
                return status(StatusCode::BAD_GATEWAY);
            }
            json_of(&HeartbeatAnswer {
                orphan_snapshots: Vec::new(),
                abort: heard.abort.clone(),
                over: leases.into_iter().filter(|held| heard.over.contains(&held.task)).collect(),
                orphans: Vec::new(),
                task_keys: heard.task_keys.clone(),
                next_ms: 5000,
            })
        })
    }

    /// Puts credentials of another key into an agent's folder, by the hand of an operator, that last so long.
    pub fn put_credentials(&self, data: &Path, node: NodeId, life: Duration) {
        let (key, enrolment) = (NodeKey::generate().unwrap(), EnrolmentId(uuid::Uuid::from_u128(9)));
        let csr = key.csr("node-1").unwrap();
        let pem = self.authority.sign_node(&csr, node, enrolment, self.clock.now(), life).unwrap();
        let credentials = Credentials::new(&key, &pem, self.authority.ca_pem()).unwrap();
        credentials.save(&data.join("agent").join("identity")).unwrap();
    }

    fn joined(&self, csr_pem: &str) -> Joined {
        let enrolment = EnrolmentId(uuid::Uuid::from_u128(9));
        let now = self.clock.now();
        let certificate_pem = self.authority.sign_node(csr_pem, self.node, enrolment, now, NODE_VALIDITY).unwrap();
        let _ = NodeIdentity { node: self.node, enrolment };
        Joined {
            node: self.node,
            enrolment,
            certificate_pem,
            ca_pem: self.authority.ca_pem().to_owned(),
            task_keys: task::key_set(std::slice::from_ref(&self.key)),
            issuer: "test".into(),
        }
    }

    pub fn config(&self, data: &Path, hypervisor: impl Hypervisor) -> AgentConfig {
        let link = self.link();
        let connect = Arc::new(move |_: Option<&hostler_trust::Credentials>| Ok(link.clone()));
        AgentConfig {
            join: Some(JoinToken::generate(&self.ids, self.authority.fingerprint())),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            slots: Slots { boot: 4, disk: 2, quick: 400, guest: 400 },
            mode: hostler_db::Mode::Inline,
            ..AgentConfig::new(data, "node-1", connect, Arc::new(hypervisor))
        }
    }

    pub async fn agent(&self, data: &Path, hypervisor: impl Hypervisor) -> Running {
        Running::start(self.config(data, hypervisor)).await
    }
}

fn json_of(value: &impl Serialize) -> Response<Body> {
    Response::new(serde_json::to_vec(value).unwrap().into())
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response
}

/// An agent at work.
pub struct Running {
    task: JoinHandle<Result<(), AgentError>>,
    shutdown: CancellationToken,
    tether: Tether,
    pub metrics: Arc<Metrics>,
}

impl Running {
    pub async fn start(config: AgentConfig) -> Running {
        let agent = Agent::start(config).await.unwrap();
        let (shutdown, tether, metrics) = (CancellationToken::new(), agent.tether(), agent.metrics());
        let task = tokio::spawn(agent.run(shutdown.clone()));
        Running { task, shutdown, tether, metrics }
    }

    /// As `kill -9` would.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        self.tether.gone().await;
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.metrics.get(counter)
    }

    /// Waits until so much was counted. Time stands still but for what waits on it, so this ends.
    pub async fn counted(&self, counter: Counter, times: u64) {
        while self.count(counter) < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A folder for an agent.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A later attempt at the same task.
pub fn again(assignment: &Assignment, attempt: u32, intent: Intent) -> Assignment {
    let fence = Fence { attempt, ..assignment.fence };
    Assignment { fence, intent, jti: format!("{}.{attempt}", assignment.sub), ..assignment.clone() }
}

pub fn succeeded(report: &Report) -> &Value {
    match &report.end {
        End::Succeeded { output } => output,
        other => panic!("not a success: {other:?}"),
    }
}
