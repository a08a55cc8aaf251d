//! An empty store, a clock to hold, and short words for what tests do with them.

use std::{
    cell::Cell,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use hostler_db::Mode;
use hostler_fixture::Database;
use hostler_model::{
    Clock, Code, Ids, ImageDigest, NodeId, Resources, TaskId, TenantId, Timestamp, VmId,
    event::{Actor, Class, Entry, RequestOrigin},
    id::EnrolmentId,
    internal::{Heartbeat, HeartbeatAnswer, HeldLease, Inventory, ProgressAnswer, ProgressReport, Receipt, Report},
    kind::KindName,
    node::{Node, NodeFacts, Slots},
    placement::{Placement, Policy},
    ready::Readiness,
    schedule::Schedule,
    task::{Effects, End, PhaseTiming, Progress, Target, Task},
    task_log::{Line, Said},
    tenant::UNLIMITED,
    vm::{Observation, Vm, VmSpec, VmState},
};
use hostler_store::{
    Accepted, Answer, Beat, Cancel, Claim, Config, Idempotency, JoinNode, Leased, LogFilter, NewJoinToken, NewMachine,
    NewTenantRow, Now, Progressed, Proof, Settle, Store, Submission, Timing,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// An engine below the store: opens its one database, and changes it behind the store's back.
pub trait Engine {
    /// Opens the database, empty at first.
    fn open(&self, clock: Clock, ids: Ids) -> Store;
    /// Runs a statement of a tamperer's.
    fn tamper(&self, sql: &str);
}

/// SQLite in a file.
pub struct Sqlite {
    dir: TempDir,
    mode: Mode,
}

impl Sqlite {
    pub fn threads() -> Sqlite {
        Sqlite { dir: dir(), mode: Mode::Threads }
    }

    pub fn inline() -> Sqlite {
        Sqlite { dir: dir(), mode: Mode::Inline }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }
}

/// In memory where there is such a place: these tests are about what is written, not about disks.
fn dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Engine for Sqlite {
    fn open(&self, clock: Clock, ids: Ids) -> Store {
        Store::open(&self.path(), config(self.mode, clock, ids)).unwrap()
    }

    fn tamper(&self, sql: &str) {
        rusqlite::Connection::open(self.path()).unwrap().execute_batch(sql).unwrap();
    }
}

/// A database on a PostgreSQL server. Clones are further servers over it.
#[derive(Clone)]
pub struct Postgres(Arc<Database<'static>>);

impl Postgres {
    pub fn new() -> Postgres {
        Postgres(Arc::new(hostler_fixture::Postgres::shared().unwrap().database().unwrap()))
    }
}

impl Engine for Postgres {
    fn open(&self, clock: Clock, ids: Ids) -> Store {
        Store::connect(&self.0.url(), Now::HandedIn, config(Mode::Threads, clock, ids)).unwrap()
    }

    fn tamper(&self, sql: &str) {
        self.0.run(sql).unwrap();
    }
}

fn config(mode: Mode, clock: Clock, ids: Ids) -> Config {
    Config { mode, clock, ids, timing: Timing::default(), placement: Policy::default() }
}

/// A node's agent, as far as the store sees it.
#[derive(Clone, Copy, Debug)]
pub struct Agent {
    pub node: NodeId,
    pub enrolment: EnrolmentId,
}

/// A store under test.
pub struct World {
    engine: Box<dyn Engine>,
    pub store: Store,
    clock: Arc<AtomicI64>,
    pub ids: Ids,
    tampered: Cell<bool>,
}

pub const TENANT: TenantId = TenantId::DEFAULT;

impl World {
    pub fn open(engine: impl Engine + 'static) -> World {
        let clock = Arc::new(AtomicI64::new(1_700_000_000_000_000));
        let ids = Ids::seeded(1);
        let store = engine.open(reading(&clock), ids.clone());
        let world = World { engine: Box::new(engine), store, clock, ids, tampered: Cell::new(false) };
        world.image_for(TENANT);
        // Leases are judged after a full lease of service.
        world.advance(60);
        world
    }

    /// Another server over the same database, by the same clock.
    pub fn beside(&self, engine: impl Engine + 'static) -> World {
        let (clock, ids) = (self.clock.clone(), Ids::seeded(2));
        let store = engine.open(reading(&clock), ids.clone());
        World { engine: Box::new(engine), store, clock, ids, tampered: Cell::new(false) }
    }

    /// A tenant of this name, without limits.
    pub async fn tenant(&self, name: &str) -> TenantId {
        let new = NewTenantRow::of_system(self.id(), name.parse().unwrap(), UNLIMITED);
        self.store.create_tenant(new).await.unwrap().unwrap().tenant.id
    }

    /// A tenant has the image that the machines of these tests are made of: since before the log begins.
    pub fn image_for(&self, tenant: TenantId) {
        let manifest = json!({"name": "tiny", "arch": "x86_64", "files": {}});
        self.engine.tamper(&format!("INSERT INTO images VALUES ('{tenant}', 'd', '{manifest}', 0)"));
    }

    /// The store is closed and opened again, as after a restart.
    pub fn reopen(&mut self) {
        self.store = self.engine.open(reading(&self.clock), self.ids.clone());
    }

    /// What must hold after every test that did not break it on purpose.
    pub async fn end(self) {
        if !self.tampered.get() {
            let diagnosis = self.store.doctor().await.unwrap();
            assert!(diagnosis.is_well(), "{diagnosis:#?}");
        }
    }

    pub fn tamper(&self, sql: &str) {
        self.tampered.set(true);
        self.engine.tamper(sql);
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.fetch_add(i64::try_from(seconds).unwrap() * 1_000_000, Ordering::SeqCst);
    }

    /// The clock steps back.
    pub fn step_back(&self, seconds: i64) {
        self.clock.fetch_sub(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// Time in which the loops run, but none that judges anything.
    pub async fn serve(&self, seconds: u64) {
        // Half a lease without a pass would mean that the process was suspended.
        let parts = seconds.div_ceil(15);
        for part in 1..=parts {
            self.store.drop_idempotency_keys().await.unwrap();
            self.advance(seconds * part / parts - seconds * (part - 1) / parts);
        }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.clock.load(Ordering::SeqCst))
    }

    pub fn id<T: From<uuid::Uuid>>(&self) -> T {
        self.ids.next(self.now())
    }

    // Nodes.

    /// An approved node with room for 8 processors.
    pub async fn node(&self, name: &str) -> Agent {
        self.joined(name, true).await.0
    }

    pub async fn joined(&self, name: &str, approve: bool) -> (Agent, Node) {
        let token = self.join_token(Some(name), approve).await;
        let enrolment = self.id();
        let node = self.store.join(self.join(&token, name, enrolment)).await.unwrap().unwrap();
        (Agent { node: node.id, enrolment }, node)
    }

    pub async fn join_token(&self, node_name: Option<&str>, approve: bool) -> String {
        let token_hash = hex(self.id::<TaskId>());
        let token = NewJoinToken {
            id: self.id(),
            token_hash: token_hash.clone(),
            node_name: node_name.map(|name| name.parse().unwrap()),
            validity: Duration::from_secs(600),
            approve,
            actor: Actor::system(),
        };
        self.store.create_join_token(token).await.unwrap();
        token_hash
    }

    pub fn join(&self, token_hash: &str, name: &str, enrolment: EnrolmentId) -> JoinNode {
        let (name, key, origin) = (name.parse().unwrap(), hex(self.id::<TaskId>()), RequestOrigin::default());
        JoinNode { token_hash: token_hash.into(), key, node: self.id(), name, enrolment, facts: facts(), origin }
    }

    // Submissions.

    pub fn echo(&self) -> Submission {
        Submission {
            task: self.id(),
            tenant: TENANT,
            actor: Actor::system(),
            kind: KindName::Echo,
            params: json!({"message": "hi", "delay_ms": 0}),
            schedule: Schedule::of(KindName::Echo.spec(), &json!({})),
            not_before: self.now(),
            secrets: Vec::new(),
            target: Target::default(),
            vm: None,
            snapshot: None,
            retry_of: None,
            idempotency: None,
            if_match: None,
            dry_run: false,
        }
    }

    pub fn create(&self, name: &str) -> Submission {
        let machine = NewMachine {
            id: self.id(),
            name: name.parse().unwrap(),
            spec: spec(),
            wait_for_capacity: false,
            protected: false,
            ttl: None,
        };
        let params = json!({"name": name, "image": "tiny", "image_digest": "d", "vcpus": 1, "memory_mib": 256, "disk_gib": 1, "ready_timeout_seconds": 60});
        let schedule = Schedule::of(KindName::VmCreate.spec(), &params);
        Submission { kind: KindName::VmCreate, params, schedule, vm: Some(machine), ..self.echo() }
    }

    pub fn on_vm(&self, kind: KindName, vm: VmId) -> Submission {
        let params = match kind {
            KindName::VmExec => json!({"argv": ["true"], "timeout_seconds": 60}),
            _ => json!({}),
        };
        let schedule = Schedule::of(kind.spec(), &params);
        Submission { kind, params, schedule, target: Target { vm: Some(vm), node: None }, ..self.echo() }
    }

    pub fn keyed(&self, key: &str, body: &str) -> Submission {
        let idempotency = Idempotency { key: key.into(), route: "POST /tasks".into(), body: body.into(), part: None };
        Submission { idempotency: Some(idempotency), ..self.echo() }
    }

    pub async fn submit(&self, submission: Submission) -> Answer<Accepted> {
        self.store.submit(vec![submission]).await.unwrap().pop().unwrap()
    }

    /// Accepted, and its task.
    pub async fn ok(&self, submission: Submission) -> Task {
        self.submit(submission).await.unwrap().task
    }

    /// Refused, with this code.
    pub async fn refused(&self, submission: Submission, code: Code) -> hostler_model::Refusal {
        let refusal = self.submit(submission).await.expect_err("this should have been refused");
        assert_eq!(refusal.code, code, "{refusal:?}");
        refusal
    }

    // What agents do.

    pub async fn lease(&self, agent: Agent, max: usize) -> Vec<Leased> {
        self.claim(agent, max, None).await.unwrap()
    }

    pub async fn claim(
        &self,
        agent: Agent,
        max: usize,
        resync: Option<Vec<(TaskId, hostler_model::Fence)>>,
    ) -> Answer<Vec<Leased>> {
        let Agent { node, enrolment } = agent;
        self.store.lease(vec![Claim { node, enrolment, free: Slots::each(max), resync }]).await.unwrap().pop().unwrap()
    }

    /// What there is to lease into these slots.
    pub async fn claim_of(&self, agent: Agent, free: Slots) -> Vec<Leased> {
        let Agent { node, enrolment } = agent;
        let claim = Claim { node, enrolment, free, resync: None };
        self.store.lease(vec![claim]).await.unwrap().pop().unwrap().unwrap()
    }

    /// The one task there is to lease.
    pub async fn lease_one(&self, agent: Agent) -> Leased {
        let mut leased = self.lease(agent, 10).await;
        assert_eq!(leased.len(), 1, "{leased:?}");
        leased.pop().unwrap()
    }

    pub fn result(&self, agent: Agent, leased: &Leased, end: End) -> Settle {
        let report = Report {
            task: leased.task,
            fence: leased.fence,
            end,
            phases: vec![PhaseTiming { phase: "run".into(), ms: 1.5 }],
            log: Vec::new(),
            started_at: self.now(),
            finished_at: self.now(),
        };
        let proof = Proof { signed: "a signature".into(), certificate: "a thumbprint".into() };
        Settle { node: agent.node, enrolment: agent.enrolment, report, proof }
    }

    pub async fn settle(&self, settle: Settle) -> Answer<Receipt> {
        self.store.settle(vec![settle]).await.unwrap().pop().unwrap()
    }

    pub async fn end_with(&self, agent: Agent, leased: &Leased, end: End) {
        assert_eq!(self.settle(self.result(agent, leased, end)).await, Ok(Receipt::Settled));
    }

    pub async fn succeed(&self, agent: Agent, leased: &Leased) {
        self.end_with(agent, leased, End::Succeeded { output: output(leased.kind) }).await;
    }

    pub async fn progress(&self, agent: Agent, leased: &Leased, phase: &str, log: &[&str]) -> Answer<ProgressAnswer> {
        let report = ProgressReport {
            fence: leased.fence,
            started_at: self.now(),
            progress: Progress { phase: phase.into(), ..Progress::default() },
            log: self.said(log),
        };
        let Agent { node, enrolment } = agent;
        self.store
            .progress(vec![Progressed { node, enrolment, task: leased.task, report }])
            .await
            .unwrap()
            .pop()
            .unwrap()
    }

    /// Lines that a node writes now, a microsecond apart.
    pub fn said(&self, lines: &[&str]) -> Vec<Said> {
        let at = |n: usize| Timestamp::from_micros(self.now().as_micros() + i64::try_from(n).unwrap());
        lines.iter().enumerate().map(|(n, line)| Said { at: at(n), text: (*line).into() }).collect()
    }

    /// All lines that are kept of a task.
    pub async fn lines(&self, task: TaskId) -> Vec<Line> {
        self.store.task_log(task, 0, 10_000).await.unwrap()
    }

    pub fn heartbeat(&self, agent: Agent, leases: &[&Leased], full: bool, vms: Vec<Observation>) -> Beat {
        let leases = leases.iter().map(|leased| HeldLease { task: leased.task, fence: leased.fence }).collect();
        let heartbeat = Heartbeat {
            facts: facts(),
            leases,
            inventory: Inventory { full, vms, ..Inventory::default() },
            keys: String::new(),
            refused: None,
        };
        Beat { node: agent.node, enrolment: agent.enrolment, heartbeat }
    }

    /// A heartbeat with everything there is.
    pub async fn beat(&self, agent: Agent, vms: Vec<Observation>) -> HeartbeatAnswer {
        let beat = self.heartbeat(agent, &[], true, vms);
        self.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap().answer
    }

    /// A running VM, known as such for long enough for inventories to speak of it.
    pub async fn running(&self, agent: Agent, name: &str) -> VmId {
        let vm = self.ok(self.create(name)).await.target.vm.unwrap();
        let leased = self.lease_one(agent).await;
        self.succeed(agent, &leased).await;
        let light = self.heartbeat(agent, &[], false, Vec::new());
        self.store.heartbeat(vec![light]).await.unwrap().pop().unwrap().unwrap();
        vm
    }

    // People.

    pub fn wish(&self, task: TaskId) -> Cancel {
        Cancel { task, tenant: TENANT, actor: Actor::system() }
    }

    pub async fn cancel(&self, task: TaskId) -> Answer<Task> {
        self.store.cancel(vec![self.wish(task)]).await.unwrap().pop().unwrap()
    }

    pub async fn force(&self, task: TaskId) -> Answer<Task> {
        self.store.force(vec![self.wish(task)]).await.unwrap().pop().unwrap()
    }

    // What is there.

    pub async fn task(&self, id: TaskId) -> Task {
        self.store.task(id).await.unwrap().unwrap()
    }

    pub async fn vm(&self, id: VmId) -> Vm {
        self.store.vm(id).await.unwrap().unwrap()
    }

    pub async fn book(&self) -> hostler_model::book::Book {
        self.store.quota(TENANT).await.unwrap().book
    }

    /// The whole log, of acts what happened.
    pub async fn entries(&self) -> Vec<Entry> {
        let entries = self.store.log(LogFilter::default(), 0, 100_000).await.unwrap();
        entries.into_iter().map(|entry| entry.seen_as(Class::Event)).collect()
    }

    /// The kinds of the entries after this number.
    pub async fn kinds_after(&self, seq: i64) -> Vec<String> {
        let entries = self.store.log(LogFilter::default(), seq, 100_000).await.unwrap();
        entries.into_iter().map(|entry| entry.kind).collect()
    }

    pub async fn head(&self) -> i64 {
        self.store.log_head().await.unwrap()
    }
}

fn reading(clock: &Arc<AtomicI64>) -> Clock {
    let clock = clock.clone();
    Clock::from_fn(move || Timestamp::from_micros(clock.load(Ordering::SeqCst)))
}

fn hex(id: TaskId) -> String {
    id.0.simple().to_string()
}

pub fn facts() -> NodeFacts {
    NodeFacts {
        capacity: Resources { vcpus: 2, memory_mib: 4096, disk_gib: 100, vms: 8 },
        capabilities: vec!["*".into()],
        ..NodeFacts::default()
    }
}

pub fn spec() -> VmSpec {
    VmSpec {
        image: "tiny".into(),
        image_digest: ImageDigest("d".into()),
        vcpus: 1,
        memory_mib: 256,
        disk_gib: 1,
        placement: Placement::default(),
        ready: Readiness::GuestAgent,
        ready_timeout_seconds: 60,
        first_boot: None,
        labels: Default::default(),
        restart: Default::default(),
        autostart: false,
        port_forwards: Vec::new(),
    }
}

pub fn output(kind: KindName) -> Value {
    match kind {
        KindName::Echo => json!({"message": "hi"}),
        KindName::VmCreate => json!({"charge": spec().charge(), "boot_ms": 1.0, "acceleration": "tcg"}),
        KindName::VmExec => json!({"exit_code": 0, "stdout": "", "stderr": ""}),
        KindName::VmStart => json!({"how": "started", "boot_ms": 1.0}),
        KindName::VmStop => json!({"how": "graceful"}),
        KindName::VmReboot => json!({"how": "graceful", "boot_ms": 1.0}),
        KindName::VmPause => json!({"already": false}),
        KindName::VmResume => json!({"already": false, "ready": true}),
        KindName::VmDelete => json!({"existed": true}),
        KindName::VmSnapshot => json!({"disk_bytes": 1, "memory_bytes": 0, "paused_ms": 1.0}),
        KindName::VmRestore => json!({"memory": false, "down_ms": 1.0}),
        KindName::SnapshotDelete => json!({"existed": true}),
        KindName::VmEdit => json!({"charge": spec().charge()}),
        KindName::VmRename => json!({"told": true}),
        KindName::InventoryRefresh => json!({"full": true}),
        KindName::DiagHealthProbe => json!({}),
        KindName::ImagePull => json!({"fetched": true, "bytes": 1}),
        KindName::ImageDelete => json!({"existed": true}),
    }
}

pub fn seen(vm: VmId, state: VmState) -> Observation {
    Observation {
        vm,
        epoch: 1,
        state,
        ready: state == VmState::Running,
        reason: None,
        detail: None,
        restart_pending: false,
    }
}

pub fn failed(retryable: bool, effects: Effects) -> End {
    End::Failed { code: Code::HandlerFailed, detail: "it broke".into(), retryable, effects }
}

pub fn cancelled(effects: Effects) -> End {
    End::Cancelled { effects }
}

/// One processor, 256 MiB, 1 GiB, one machine.
pub fn one_vm() -> Resources {
    spec().charge()
}
