//! A task: one durable, typed, idempotent, cancellable unit of work, and every way its state can change.
//!
//! ```text
//! queued ──lease──► running ──► succeeded | failed | cancelled
//!   ▲                 │   │
//!   │                 │   └─► aborting ── the node's report, or an audited force ──► failed | cancelled
//!   └── lapse, or a retryable failure that was undone, or from which its kind goes on: attempt+1, after backoff
//! ```
//!
//! A task once leased ends unsuccessfully only by evidence. `left` says whether there is any: never leased, or the
//! last attempt reported that it undid what it did. The functions here never look at a clock and never do IO.

mod life;
mod state;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    life::{Denial, Event, Lease, Left, Life, Outcome, Rules, Verdict, apply},
    state::{AbortReason, DeadLetter, Intent, TaskState, WaitingFor},
};
use crate::{
    clock::Timestamp,
    error::Code,
    fence::Fence,
    id::{NodeId, PrincipalId, TaskId, TenantId, VmId},
    kind::KindName,
    schedule::Schedule,
};

/// What remains of a failed or cancelled attempt on its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effects {
    /// Nothing: whatever was done was undone. This is the evidence that gives room and quota back.
    Undone,
    /// Something, or it cannot be known.
    Remain,
}

/// How an attempt ended, as the agent reports it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum End {
    /// It is done.
    Succeeded {
        /// The kind's output.
        output: Value,
    },
    /// It failed.
    Failed {
        /// Why, by code.
        code: Code,
        /// Why, in words.
        detail: String,
        /// Whether another attempt may help.
        retryable: bool,
        /// What is left behind.
        effects: Effects,
    },
    /// It was stopped because the server said so.
    Cancelled {
        /// What is left behind.
        effects: Effects,
    },
}

/// Why a task did not succeed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskError {
    /// By code.
    pub code: Code,
    /// In words.
    pub detail: String,
}

/// How long one phase of a handler took.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PhaseTiming {
    /// The phase.
    pub phase: String,
    /// Its length, in milliseconds.
    pub ms: f64,
}

/// How far an attempt has come.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    /// The phase under way.
    pub phase: String,
    /// Percent of that phase, where it can be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// The phases before it, and how long they took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<PhaseTiming>,
}

/// What a task works on.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Target {
    /// A VM, by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// A node, by id: for kinds that work on the host itself, or to name where a VM is to be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
}

/// A task as people see it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it does.
    #[schema(value_type = String)]
    pub kind: KindName,
    /// To what.
    pub target: Target,
    /// With which parameters, defaults filled in.
    #[schema(value_type = Object)]
    pub params: Value,
    /// Where it stands.
    pub state: TaskState,
    /// What it waits for, while queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The current fence; attempt 0 was never leased.
    pub fence: Fence,
    /// How many attempts it may have.
    pub max_attempts: u32,
    /// When it is leased, and how long it may take.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Why it is being aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_reason: Option<AbortReason>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How long its phases took, once it ended.
    #[serde(default)]
    pub phases: Vec<PhaseTiming>,
    /// What came out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub output: Option<Value>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// What became of it when it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// The task of which this is an operator's retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    /// Who asked.
    pub created_by: PrincipalId,
    /// When it was written down.
    pub created_at: Timestamp,
    /// Not leased before this.
    pub not_before: Timestamp,
    /// Not leased after this.
    pub queue_deadline: Timestamp,
    /// To be ended by this, once leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// When the handler began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Whether what its node last reported is kept with that node's signature: `GET /api/v1/tasks/{task}/proof`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub signed: bool,
}

impl Task {
    /// What its transitions need to know.
    pub fn rules(&self) -> Rules {
        self.schedule.rules(self.kind.spec())
    }
}
