//! What goes into the steps and comes out of them.

mod access;
mod offer;
mod tenant;

use std::{sync::Arc, time::Duration};

use hostler_model::{
    Code, Fence, ImageDigest, NodeId, PrincipalId, SnapshotId, TaskId, TenantId, Timestamp, TokenId, VmId,
    amounts::Amounts,
    caller::Caller,
    event::{Actor, Class, RequestOrigin},
    id::{EnrolmentId, ImportId, SecretId},
    image::Image,
    import::{Import, ImportPhase, ImportProgress, ImportState},
    internal::{Heartbeat, HeartbeatAnswer, ProgressReport, Report},
    key::Kid,
    kind::KindName,
    name::Name,
    node::{FreshnessPolicy, NodeFacts, NodeState, Slots},
    placement::Choice,
    refused::Refused,
    schedule::Schedule,
    secret::Secret,
    snapshot::{Snapshot, SnapshotState},
    stats::{TaskStats, Took, What},
    task::{Intent, Target, Task, TaskState},
    token::{ServiceAccount, TokenFormat},
    vm::{Vm, VmSpec, VmState},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use access::{Denied, Login};
pub use offer::{DeadOffer, Death, Offer, PlainSettle, Started};
pub use tenant::{Claimed, EditTenant, MadeReservation, MadeTenant, NewReservationRow, NewTenantRow};

/// A task to be written down.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Its id, made beforehand: a commit whose answer was lost is looked up by it.
    pub task: TaskId,
    /// Whose.
    pub tenant: TenantId,
    /// Who asks, for the audit.
    pub actor: Actor,
    /// What.
    pub kind: KindName,
    /// With which parameters, filled in.
    pub params: Value,
    /// The texts that were taken out of them, to be kept apart.
    pub secrets: Vec<Secret>,
    /// To what: a VM, or the only node that will do.
    pub target: Target,
    /// When it is leased, and how long it may take.
    pub schedule: Schedule,
    /// Not leased before this; one that has passed is now.
    pub not_before: Timestamp,
    /// The machine to be, for kinds that make one.
    pub vm: Option<NewMachine>,
    /// The snapshot to be, for kinds that make one.
    pub snapshot: Option<NewSnapshot>,
    /// The task of which this is a retry.
    pub retry_of: Option<TaskId>,
    /// The caller's key, if it sent one.
    pub idempotency: Option<Idempotency>,
    /// The generations that the machine may have; `None`: any.
    pub if_match: Option<Vec<u32>>,
    /// Answer as if, and write nothing.
    pub dry_run: bool,
}

impl Submission {
    /// What the system itself asks of a machine, as its kind says and at once.
    pub(crate) fn of_system(task: TaskId, vm: &Vm, kind: KindName, now: Timestamp) -> Submission {
        let params = serde_json::json!({});
        Submission {
            task,
            tenant: vm.tenant,
            actor: Actor::system(),
            kind,
            schedule: Schedule::of(kind.spec(), &params),
            not_before: now,
            params,
            secrets: Vec::new(),
            target: Target { vm: Some(vm.id), node: None },
            vm: None,
            snapshot: None,
            retry_of: None,
            idempotency: None,
            if_match: None,
            dry_run: false,
        }
    }
}

/// A machine to be.
#[derive(Clone, Debug)]
pub struct NewMachine {
    /// Its id, made beforehand.
    pub id: VmId,
    /// Its name.
    pub name: Name,
    /// Its spec.
    pub spec: VmSpec,
    /// Whether it waits for a node with room where there is none.
    pub wait_for_capacity: bool,
    /// Whether it is protected from deletion.
    pub protected: bool,
    /// How long after its submission it is deleted by itself.
    pub ttl: Option<Duration>,
}

/// What an edit came to.
#[derive(Clone, Debug)]
pub enum Edited {
    /// All of it is done.
    Record {
        /// The machine as it is then.
        vm: Box<Vm>,
        /// Whether this is the first answer under the key once more.
        replayed: bool,
    },
    /// The rest is under way.
    Task(Box<Accepted>),
}

/// A snapshot to be.
#[derive(Clone, Debug)]
pub struct NewSnapshot {
    /// Its id, made beforehand.
    pub id: SnapshotId,
    /// Its name.
    pub name: Name,
    /// Whether it takes the memory too.
    pub memory: bool,
}

/// An `Idempotency-Key`: unique per tenant, principal and route, kept for 24 h and until its task or import ends.
#[derive(Clone, PartialEq, Debug)]
pub struct Idempotency {
    /// The caller's key, at most 255 bytes.
    pub key: String,
    /// The route, such as `POST /vms`.
    pub route: String,
    /// sha256 of the body, in hex.
    pub body: String,
    /// Which item of a batch, where one key stands for many.
    pub part: Option<u32>,
}

/// A submission that was accepted, now or before under the same key.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The task as it was when it was accepted first.
    pub task: Task,
    /// The machine it is about.
    pub vm: Option<Vm>,
    /// The snapshot it is about.
    pub snapshot: Option<Snapshot>,
    /// Whether this is the first answer once more.
    pub replayed: bool,
    /// Of a dry run of what is to be placed: what speaks for and against each node.
    pub placement: Option<Choice>,
}

/// A node's request for work.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which node.
    pub node: NodeId,
    /// Under which enrolment: refused when it is not the node's current one.
    pub enrolment: EnrolmentId,
    /// How many it can take, of each class. What is to be undone comes beside them.
    pub free: Slots,
    /// What it holds; leases it does not list are sent again. `None`: nothing is sent again.
    pub resync: Option<Vec<(TaskId, Fence)>>,
}

/// A task leased to a node.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Which task.
    pub task: TaskId,
    /// Which attempt.
    pub fence: Fence,
    /// The VM's epoch.
    pub epoch: Option<u32>,
    /// To do, or to stop and undo.
    pub intent: Intent,
    /// What.
    pub kind: KindName,
    /// To what.
    pub target: Target,
    /// With which parameters.
    pub params: Value,
    /// When the lease lapses.
    pub lease_expires_at: Timestamp,
    /// When it must have ended.
    pub deadline: Timestamp,
}

/// A node's wish for a text that belongs to a task of its.
#[derive(Clone, Copy, Debug)]
pub struct Reveal {
    /// Which node.
    pub node: NodeId,
    /// Under which enrolment.
    pub enrolment: EnrolmentId,
    /// Of which task.
    pub task: TaskId,
    /// Under which attempt.
    pub fence: Fence,
    /// Which text.
    pub secret: SecretId,
}

/// Progress of one attempt.
#[derive(Clone, Debug)]
pub struct Progressed {
    /// Which node says so.
    pub node: NodeId,
    /// Under which enrolment.
    pub enrolment: EnrolmentId,
    /// Of which task.
    pub task: TaskId,
    /// What.
    pub report: ProgressReport,
}

/// A heartbeat of one node.
#[derive(Clone, Debug)]
pub struct Beat {
    /// Which node.
    pub node: NodeId,
    /// Under which enrolment.
    pub enrolment: EnrolmentId,
    /// What it says.
    pub heartbeat: Heartbeat,
}

/// What a heartbeat came to.
#[derive(Clone, PartialEq, Debug)]
pub struct HeardBeat {
    /// What its node is told.
    pub answer: HeartbeatAnswer,
    /// What the node refused that was not heard before.
    pub refused: Vec<Refused>,
}

/// A result of one attempt.
#[derive(Clone, Debug)]
pub struct Settle {
    /// Which node says so.
    pub node: NodeId,
    /// Under which enrolment.
    pub enrolment: EnrolmentId,
    /// What.
    pub report: Report,
    /// What proves that.
    pub proof: Proof,
}

/// What proves that a result is its node's.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The signature, a compact JWS.
    pub signed: Arc<str>,
    /// The thumbprint of the certificate with whose key it was made.
    pub certificate: String,
}

/// A certificate that was made for a node.
#[derive(Clone, Debug)]
pub struct NodeCertificate {
    /// By which signatures name it.
    pub thumbprint: String,
    /// The certificate.
    pub pem: String,
    /// When it ends.
    pub ends_at: Timestamp,
}

/// A wish that a task be stopped.
#[derive(Clone, Debug)]
pub struct Cancel {
    /// Which task.
    pub task: TaskId,
    /// Whose.
    pub tenant: TenantId,
    /// Who asks.
    pub actor: Actor,
}

/// A node that joins.
#[derive(Clone, Debug)]
pub struct JoinNode {
    /// sha256 of the token, in hex.
    pub token_hash: String,
    /// sha256 of the public key that is to be certified, in hex.
    pub key: String,
    /// The node's id, if it is new.
    pub node: NodeId,
    /// Its name: a node of this name that joins again keeps its id and gets a new enrolment.
    pub name: Name,
    /// Its new enrolment.
    pub enrolment: EnrolmentId,
    /// What it says of its host.
    pub facts: NodeFacts,
    /// In which request.
    pub origin: RequestOrigin,
}

/// Joins with a token that is known and not good, so many times.
#[derive(Clone, Debug)]
pub struct RefusedJoin {
    /// Which token.
    pub token: TokenId,
    /// The name under which a host was to join, the last time.
    pub name: Name,
    /// Why not, in words, the last time.
    pub why: String,
    /// How often.
    pub count: u64,
    /// In which request, the last time.
    pub origin: RequestOrigin,
}

/// Whether a node's queue moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// It does.
    Open,
    /// Nothing is leased to the node but what is to be undone.
    Paused,
}

/// Whether what is left on a node is given up with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Force {
    /// It keeps the node.
    No,
    /// The host is gone for good, and all that was there with it.
    Yes,
}

/// A token by which a node may join, once.
#[derive(Clone, Debug)]
pub struct NewJoinToken {
    /// Its id.
    pub id: TokenId,
    /// sha256 of the token, in hex.
    pub token_hash: String,
    /// The only node name it is good for; `None` for any that no node has.
    pub node_name: Option<Name>,
    /// How long from now.
    pub validity: Duration,
    /// Whether the node is approved at once.
    pub approve: bool,
    /// Who made it.
    pub actor: Actor,
}

/// A credential for people and programs.
#[derive(Clone, Debug)]
pub struct NewApiToken {
    /// Its id.
    pub id: TokenId,
    /// sha256 of the token, in hex.
    pub token_hash: String,
    /// Whom it stands for.
    pub caller: Caller,
    /// The service account that this is, where it is one.
    pub account: Option<ServiceAccount>,
    /// What it is for, in words.
    pub label: String,
    /// How it is written.
    pub format: TokenFormat,
    /// With which token it is made, where it is one of ours.
    pub made_with: Option<TokenId>,
    /// Who makes it.
    pub actor: Actor,
}

impl NewApiToken {
    /// One that the system makes by itself for somebody.
    pub fn of_system(id: TokenId, token_hash: String, caller: Caller, label: &str) -> NewApiToken {
        let (account, made_with, format) = (None, None, TokenFormat::Opaque);
        NewApiToken {
            id,
            token_hash,
            caller,
            account,
            label: label.to_owned(),
            format,
            made_with,
            actor: Actor::system(),
        }
    }
}

/// A new key that signs tasks.
#[derive(Clone, Debug)]
pub struct NewSigningKey {
    /// Its name.
    pub kid: Kid,
    /// Its public part, as it stands in a JWK.
    pub public: String,
    /// Its private part, sealed.
    pub private: String,
}

/// A key under which values are sealed, wrapped.
#[derive(Clone, Debug)]
pub struct WrappedKey {
    /// Whose values: a tenant's, or the control plane's.
    pub owner: String,
    /// What wraps it: the name of a master key.
    pub master: String,
    /// The key.
    pub wrapped: String,
}

/// A key that was wrapped anew.
#[derive(Clone, Debug, Serialize)]
pub struct Rewrapped {
    /// Whose values it seals.
    pub owner: String,
    /// As it was wrapped.
    pub before: String,
    /// What wraps it from now on: the same for all.
    pub master: String,
    /// As it is to be.
    pub after: String,
}

/// What a step changed that others may be waiting for: hints, never the truth.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Wakes {
    /// More than can be said one by one: everybody looks.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// More tasks ended or spoke than can be said one by one: whoever waits for a task looks.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all_tasks: bool,
    /// Whom to believe: keys that sign tasks, nodes that are welcome.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trust: bool,
    /// Nodes that have something to fetch.
    pub nodes: Vec<NodeId>,
    /// Tasks that ended.
    pub ended: Vec<TaskId>,
    /// Tasks whose logs have new lines.
    pub logged: Vec<TaskId>,
    /// Tasks that a node works on and is to stop.
    pub aborting: Vec<(NodeId, TaskId)>,
    /// Credentials were revoked: whoever remembers one forgets it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub credentials: bool,
    /// The last log entry's number.
    pub seq: i64,
}

/// How the store judges time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timing {
    /// How long a lease lasts; 30 s by default.
    pub lease: Duration,
    /// How long silence may last.
    pub freshness: FreshnessPolicy,
    /// How often an agent is asked to send a heartbeat; 5 s by default.
    pub heartbeat: Duration,
    /// How long what has ended is kept; 30 days by default, `None`: for ever.
    pub history: Option<Duration>,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            lease: Duration::from_secs(30),
            freshness: FreshnessPolicy::default(),
            heartbeat: Duration::from_secs(5),
            history: Some(Duration::from_secs(30 * 24 * 60 * 60)),
        }
    }
}

/// What goes some time after its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Old {
    /// Tasks that ended.
    Tasks,
    /// Snapshots that were deleted.
    Snapshots,
    /// Machines that were deleted, once no task and no snapshot is theirs.
    Vms,
    /// Imports that ended.
    Imports,
}

impl Old {
    /// In an order in which nothing goes before what needs it.
    pub const ALL: [Old; 4] = [Old::Tasks, Old::Snapshots, Old::Vms, Old::Imports];

    /// What they are called.
    pub const fn word(self) -> &'static str {
        match self {
            Old::Tasks => "tasks",
            Old::Snapshots => "snapshots",
            Old::Vms => "vms",
            Old::Imports => "imports",
        }
    }
}

/// What came of a piece of a walk over what is old.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Forgotten {
    /// How many were removed.
    pub removed: usize,
    /// Behind which the next piece begins; `None`: the walk is over.
    pub next: Option<Uuid>,
}

/// What one pass of a loop did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Tasks or nodes that were changed.
    pub changed: usize,
    /// Whether there may be more at once.
    pub more: bool,
}

/// Which tasks to list.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Only of this tenant.
    pub tenant: Option<TenantId>,
    /// Only in this state.
    pub state: Option<TaskState>,
    /// Only of this kind.
    pub kind: Option<KindName>,
    /// Only about this VM.
    pub vm: Option<VmId>,
    /// Only failed with this code.
    pub code: Option<Code>,
    /// Only dead letters that wait for somebody to decide; a tenant must be named.
    pub dead: bool,
}

/// Which machines to list.
#[derive(Clone, Debug, Default)]
pub struct VmFilter {
    /// Only of this tenant.
    pub tenant: Option<TenantId>,
    /// Only in this state; without it all that are not deleted.
    pub state: Option<VmState>,
    /// Only on this node.
    pub node: Option<NodeId>,
}

/// Which snapshots to list.
#[derive(Clone, Debug, Default)]
pub struct SnapshotFilter {
    /// Only of this tenant.
    pub tenant: Option<TenantId>,
    /// Only of this machine.
    pub vm: Option<VmId>,
    /// Only in this state; without it all that are not deleted.
    pub state: Option<SnapshotState>,
}

/// Which log entries to read.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    /// Only of this tenant.
    pub tenant: Option<TenantId>,
    /// Only events, or only audit entries.
    pub class: Option<Class>,
    /// Only about this noun and id.
    pub subject: Option<uuid::Uuid>,
}

/// How often something ever happened to tasks of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counter {
    /// Of which kind.
    pub kind: KindName,
    /// What.
    pub what: What,
    /// After about how long.
    pub took: Took,
    /// To how many.
    pub tasks: i64,
    /// How long it took all of them together, in milliseconds.
    pub ms: i64,
}

/// Whose statistics.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatsFilter {
    /// Only of this tenant.
    pub tenant: Option<TenantId>,
    /// Only of this kind.
    pub kind: Option<KindName>,
    /// Only on this node.
    pub node: Option<NodeId>,
}

/// Gauges for `/metrics`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Gauges {
    /// Tasks that have not ended, and those that were given up; nothing of what happened lately.
    pub tasks: TaskStats,
    /// What was ever counted of tasks.
    pub counters: Vec<Counter>,
    /// Machines by state.
    pub vms: Vec<(VmState, i64)>,
    /// Nodes by state and freshness.
    pub nodes: Vec<(NodeState, hostler_model::node::Freshness, i64)>,
    /// What all tenants hold and use.
    pub held: Amounts,
    /// What is in use.
    pub used: Amounts,
    /// How many offers wait to be sent, and how many the broker has that no agent has begun.
    pub outbox: (i64, i64),
    /// The last log entry's number.
    pub seq: i64,
}

/// An import that begins.
#[derive(Clone, Debug)]
pub struct NewImportRow {
    /// Which.
    pub id: ImportId,
    /// Whose image it will be.
    pub tenant: TenantId,
    /// The image's name.
    pub name: String,
    /// Where it comes from, for people.
    pub source: String,
    /// Bytes that are here already.
    pub bytes: u64,
    /// The caller's key, if it sent one.
    pub idempotency: Option<Idempotency>,
}

impl NewImportRow {
    /// The import as it begins.
    pub fn import(&self, by: PrincipalId, now: Timestamp) -> Import {
        Import {
            id: self.id,
            tenant: self.tenant,
            name: self.name.clone(),
            source: self.source.clone(),
            state: ImportState::Running,
            progress: ImportProgress { phase: ImportPhase::Waiting, percent: None, bytes: self.bytes },
            image: None,
            error: None,
            created_by: by,
            created_at: now,
            finished_at: None,
        }
    }
}

/// An import that was begun, now or before under the same key.
#[derive(Clone, Debug)]
pub struct BegunImport {
    /// The import as it was when it began.
    pub import: Import,
    /// Whether this is the first answer once more.
    pub replayed: bool,
}

/// An image that was shipped with the software.
#[derive(Clone, PartialEq, Debug)]
pub struct ShippedImage {
    /// The image.
    pub image: Image,
    /// Whether its name stands for it: not where somebody gave that to another one.
    pub named: bool,
}

/// By an image's digest: the names that stand for it, and how many machines are made of it.
pub type Uses = std::collections::BTreeMap<ImageDigest, (Vec<String>, i64)>;
