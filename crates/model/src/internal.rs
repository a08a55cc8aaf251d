//! What travels between agents and the server, under `/internal/v1`, over mTLS.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    clock::Timestamp,
    fence::Fence,
    id::{EnrolmentId, NodeId, SnapshotId, TaskId, VmId},
    kind::KindName,
    node::NodeFacts,
    refused::Counted,
    task::{End, Intent, PhaseTiming, Progress, Target},
    task_log::Said,
    unassigned::Stranger,
    vm::Observation,
};

/// `POST /internal/v1/nodes/join`: the only call here that needs no certificate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Join {
    /// The single-use token.
    pub token: String,
    /// The node's name.
    pub name: String,
    /// A certificate request, PEM. Names it asks for are ignored: the server writes its own.
    pub csr_pem: String,
    /// What the host is.
    pub facts: NodeFacts,
}

/// The answer to [`Join`] and to `POST …/renew`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Joined {
    /// Who the node is now.
    pub node: NodeId,
    /// Under which enrolment.
    pub enrolment: EnrolmentId,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The authority's certificate, PEM.
    pub ca_pem: String,
    /// The keys that sign tasks: a JWK set, which also names those that were revoked.
    pub task_keys: Value,
    /// What the server calls itself: the `iss` of tasks.
    pub issuer: String,
}

/// `POST …/renew`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Renew {
    /// A certificate request, PEM.
    pub csr_pem: String,
}

/// `POST …/tasks/{task}/started`: an agent that was offered a task is about to begin it. The answer is [`Assignments`] with
/// the task as it is leased now; until then nothing is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StartReport {
    /// The attempt that was offered.
    pub fence: Fence,
}

/// The answer to `GET …/tasks/wait?boot=N&disk=N&quick=N&guest=N[&resync=true&held=task:epoch.attempt,…]`: tasks of any class,
/// of each no more than it says that slots are free. `DELETE …/tasks/wait` ends what waits, which is answered at once: an
/// agent that has a slot again in a class that was full says so by that, and by its next poll.
///
/// With `resync` the agent lists what it holds, and whatever the server has leased to it that is not in the list is
/// sent again under the same fence. An agent does so on its first poll and after one that failed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Assignments {
    /// Signed tasks: each a compact JWS over an [`Assignment`], or over several (`hostler_trust::task`).
    pub tasks: Vec<String>,
    /// Leases to stop and undo. A hint, so that nobody waits for a heartbeat, which says the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abort: Vec<TaskId>,
}

/// A task as an agent gets it: the claims of a signed envelope (JWT names where there are such).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// Who signed.
    pub iss: String,
    /// For which node.
    pub aud: NodeId,
    /// Which task.
    pub sub: TaskId,
    /// `task.attempt`: this delivery.
    pub jti: String,
    /// Signed at, in seconds.
    pub iat: i64,
    /// Not to be begun after, in seconds.
    pub exp: i64,
    /// The attempt.
    pub fence: Fence,
    /// The VM's epoch, for a task about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
    /// To do, or to stop and undo.
    pub intent: Intent,
    /// What.
    pub kind: KindName,
    /// To what.
    pub target: Target,
    /// With which parameters.
    pub params: Value,
    /// When the lease lapses unless renewed.
    pub lease_expires_at: Timestamp,
    /// When it must have ended.
    pub deadline: Timestamp,
}

/// `POST …/heartbeat`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// What the host is.
    pub facts: NodeFacts,
    /// The leases the agent works on: renewed.
    pub leases: Vec<HeldLease>,
    /// Everything it has. Heartbeats are sent one after another, each with what is there when it is sent.
    pub inventory: Inventory,
    /// The digest of the keys with which it knows tasks (`hostler_trust::task::KeySet`).
    #[serde(default)]
    pub keys: String,
    /// What it refused, where that is more than an answered heartbeat said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Counted>,
}

/// Machines on a host.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Whether this is everything: what it lacks is then absent.
    pub full: bool,
    /// Machines.
    pub vms: Vec<Observation>,
    /// Snapshots that are whole.
    #[serde(default)]
    pub snapshots: Vec<SnapshotId>,
    /// More about those machines of which the last answer said that the server does not know them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<Stranger>,
}

/// A lease an agent works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldLease {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
}

/// The answer to a [`Heartbeat`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// Leases to stop and undo.
    pub abort: Vec<TaskId>,
    /// Leases that are over, as the agent named them: another attempt is current, or the task has ended.
    pub over: Vec<HeldLease>,
    /// Machines here that the server does not know, or knows as deleted: reported, never deleted by themselves.
    pub orphans: Vec<VmId>,
    /// Snapshots here that the server does not know, or knows as deleted: likewise.
    #[serde(default)]
    pub orphan_snapshots: Vec<SnapshotId>,
    /// The keys that sign tasks, where they are others than the agent has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_keys: Option<Value>,
    /// How long until the next one, in milliseconds.
    pub next_ms: u64,
}

/// `POST …/tasks/{task}/progress`: also renews the lease.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProgressReport {
    /// The attempt.
    pub fence: Fence,
    /// When the handler began.
    pub started_at: Timestamp,
    /// How far it is.
    pub progress: Progress,
    /// Lines for people, each later than the one before.
    #[serde(default)]
    pub log: Vec<Said>,
}

/// The answer to a [`ProgressReport`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProgressAnswer {
    /// Whether to stop and undo.
    pub abort: bool,
    /// When the lease lapses now.
    pub lease_expires_at: Timestamp,
}

/// The answer to `GET …/tasks/{task}/secrets/{secret}?fence=epoch.attempt`: given to the node that holds the task's lease,
/// under its current fence only.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSecret {
    /// The text.
    pub text: String,
}

/// How an attempt ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
    /// How it ended.
    pub end: End,
    /// How long its phases took.
    #[serde(default)]
    pub phases: Vec<PhaseTiming>,
    /// The last lines for people, some of which may have come with progress already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<Said>,
    /// When the handler began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// `POST …/results`, `POST …/tasks/{task}/result` with the only one, and what an agent sends by the broker.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Reports {
    /// Results, answered one by one.
    pub results: Vec<Report>,
    /// Over how many of them, in their order, each signature is; the last may be over fewer.
    pub together: usize,
    /// The signatures (`hostler_trust::result`).
    pub signed: Vec<String>,
    /// The node's certificate, DER as base64.
    pub certificate: String,
}

/// What became of one result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Receipt {
    /// Written down now, or before: the agent may forget it.
    Settled,
    /// The attempt is not the current one: it changed nothing. The agent may forget it.
    Stale,
    /// No such task. The agent may forget it.
    Unknown,
}

/// The answer to [`Reports`], in the same order.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Receipts {
    /// One for each result.
    pub receipts: Vec<Receipt>,
}
