//! A task: one durable, typed, idempotent, cancellable unit of work, and every way its state can change.
//!
//! ```text
//! queued ──lease──► running ──► succeeded | failed | cancelled
//!   ▲                 │   │
//!   │                 │   └─► aborting ── the node's report, or an audited force ──► failed | cancelled
//!   └── lapse, or a retryable failure that was undone: attempt+1, after backoff
//! ```
//!
//! A task once leased ends unsuccessfully only by evidence. `clean` says whether there is any: never leased, or the
//! last attempt reported that it undid what it did. The functions here never look at a clock and never do IO.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    clock::Timestamp,
    error::Code,
    fence::Fence,
    id::{EnrolmentId, NodeId, PrincipalId, TaskId, TenantId, VmId},
    kind::KindName,
    retry::RetryPolicy,
    schedule::Schedule,
};

/// Where a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for its turn, its time or its node.
    Queued,
    /// Leased to a node.
    Running,
    /// To be stopped and undone; ends by evidence only.
    Aborting,
    /// Done.
    Succeeded,
    /// Ended without effect, or with the effects that `error` names.
    Failed,
    /// Stopped because somebody asked.
    Cancelled,
}

impl TaskState {
    /// Every state.
    pub const ALL: [TaskState; 6] = [
        TaskState::Queued,
        TaskState::Running,
        TaskState::Aborting,
        TaskState::Succeeded,
        TaskState::Failed,
        TaskState::Cancelled,
    ];

    /// Terminal is terminal.
    pub const fn is_terminal(self) -> bool {
        match self {
            TaskState::Queued | TaskState::Running | TaskState::Aborting => false,
            TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => true,
        }
    }

    /// The state as the store and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TaskState::Queued => "queued",
            TaskState::Running => "running",
            TaskState::Aborting => "aborting",
            TaskState::Succeeded => "succeeded",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a queued task is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// Its backoff, or `not_before`.
    Time,
    /// An earlier task on the same VM.
    Turn,
    /// Its node to fetch it.
    Node,
    /// An operator to resume its node's queue.
    Paused,
}

/// Why a task is aborting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbortReason {
    /// Somebody asked.
    Cancel,
    /// Its time is used up.
    Deadline,
    /// Its attempts are used up.
    Attempts,
}

impl AbortReason {
    /// How a task that was aborted for this reason ends.
    const fn end(self) -> (TaskState, Code) {
        match self {
            AbortReason::Cancel => (TaskState::Cancelled, Code::Cancelled),
            AbortReason::Deadline => (TaskState::Failed, Code::DeadlineExceeded),
            AbortReason::Attempts => (TaskState::Failed, Code::AttemptsExhausted),
        }
    }
}

/// Whether an agent is to do a task or to stop and undo it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Do it.
    Run,
    /// Stop it and undo what it did.
    Abort,
}

/// What became of a task that was given up.
///
/// A dead letter is a task that failed although another try may help, or of which nobody knows what it did: its attempts
/// are used up, its time is, or its outcome is unknown. A person decides. What failed for good (a refusal, a fault in
/// what was asked) and what was cancelled is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetter {
    /// It waits for a person to decide.
    Waiting,
    /// Another task does it again.
    Retried,
    /// Somebody let it be.
    Purged,
}

impl DeadLetter {
    /// Whether an unsuccessful end is one: by how it ended, and whether another attempt might have helped.
    fn of(state: TaskState, code: Code, retryable: bool) -> Option<DeadLetter> {
        let given_up =
            retryable || matches!(code, Code::AttemptsExhausted | Code::DeadlineExceeded | Code::OutcomeUnknown);
        (state == TaskState::Failed && given_up).then_some(DeadLetter::Waiting)
    }
}

/// A node's hold on an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The enrolment that holds it: a renewed certificate keeps it, a rejoin does not.
    pub enrolment: EnrolmentId,
    /// When it lapses.
    pub expires_at: Timestamp,
}

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
}

/// The part of a task that transitions read and change.
#[derive(Clone, PartialEq, Debug)]
pub struct Life {
    /// Where it stands.
    pub state: TaskState,
    /// The current fence.
    pub fence: Fence,
    /// Whether it is known that no effect of it is left.
    pub clean: bool,
    /// The lease, while one is out.
    pub lease: Option<Lease>,
    /// Why it is aborting.
    pub abort_reason: Option<AbortReason>,
    /// Not leased before this.
    pub not_before: Timestamp,
    /// To be ended by this; set by the first lease.
    pub deadline: Option<Timestamp>,
    /// Whether it was given up.
    pub dead_letter: Option<DeadLetter>,
}

impl Life {
    /// A task as it is written down first.
    pub fn new(store_epoch: u32, not_before: Timestamp) -> Life {
        Life {
            state: TaskState::Queued,
            fence: Fence { store_epoch, attempt: 0 },
            clean: true,
            lease: None,
            abort_reason: None,
            not_before,
            deadline: None,
            dead_letter: None,
        }
    }

    /// Whether the end of the attempt under `fence` is written down already: one more report of it is a repeat.
    pub fn reported(&self, fence: Fence) -> bool {
        fence == self.fence && fence.attempt > 0 && (self.state.is_terminal() || self.clean)
    }

    /// What a lease given now would ask of the agent.
    pub fn intent(&self) -> Intent {
        match self.state {
            TaskState::Aborting => Intent::Abort,
            TaskState::Queued
            | TaskState::Running
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Cancelled => Intent::Run,
        }
    }
}

/// What happens to a task.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A node takes it.
    Lease(Lease),
    /// The node still works on it.
    Renew {
        /// Under this fence.
        fence: Fence,
        /// Until then.
        expires_at: Timestamp,
    },
    /// The node says how the attempt ended.
    Report {
        /// Under this fence.
        fence: Fence,
        /// How.
        end: End,
    },
    /// Its lease ran out.
    Lapse,
    /// Somebody wants it stopped.
    Cancel,
    /// Nobody leased it in time.
    MissQueueDeadline,
    /// It ran too long.
    MissDeadline,
    /// It cannot be done any more, and was refused before any effect (its VM is gone, say).
    Refuse {
        /// Why, by code.
        code: Code,
        /// Why, in words.
        detail: String,
    },
    /// Nothing needs to be done (the VM that is to be deleted is gone).
    Moot {
        /// The kind's output.
        output: Value,
    },
    /// An operator, or proof that the node is fenced, ends it without the node's word.
    Force,
}

/// Rules of a kind that transitions need.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rules {
    /// Attempts and backoff.
    pub retry: RetryPolicy,
    /// From the first lease to the end.
    pub timeout: Duration,
}

/// What a transition did.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It is queued (again), leased, aborting, or leased a little longer.
    Alive,
    /// It ended; this is what it came to.
    Ended(Verdict),
}

/// How a task ended, for the VM, the books and the caller.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// Done.
    Succeeded {
        /// The kind's output.
        output: Value,
    },
    /// Failed or cancelled.
    Unsuccessful {
        /// Why.
        error: TaskError,
        /// What is left of it.
        effects: Effects,
    },
}

/// Why an event does not apply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denial {
    /// Terminal is terminal.
    #[error("the task has ended")]
    Ended,
    /// The report or renewal is of an attempt that is not the current one.
    #[error("this attempt is over")]
    StaleFence,
    /// It is leased already, or not yet.
    #[error("the task is not in a state for this")]
    WrongState,
}

/// The one way a task changes. `jitter` is a number in `0.0..1.0` for the backoff.
pub fn apply(life: &mut Life, event: Event, rules: &Rules, now: Timestamp, jitter: f64) -> Result<Outcome, Denial> {
    if life.state.is_terminal() {
        return Err(Denial::Ended);
    }
    match event {
        Event::Lease(lease) => grant(life, lease, rules, now),
        Event::Renew { fence, expires_at } => renew(life, fence, expires_at),
        Event::Report { fence, end } => report(life, fence, end, rules, now, jitter),
        Event::Lapse => lapse(life, rules, now, jitter),
        Event::Cancel => Ok(stop(life, AbortReason::Cancel)),
        Event::MissQueueDeadline => match life.state {
            TaskState::Queued => Ok(stop(life, AbortReason::Deadline)),
            TaskState::Running | TaskState::Aborting => Err(Denial::WrongState),
            TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => Err(Denial::Ended),
        },
        Event::MissDeadline => Ok(stop(life, AbortReason::Deadline)),
        Event::Refuse { code, detail } => {
            let error = TaskError { code, detail };
            before_any_effect(life, |life| finish(life, TaskState::Failed, error, Effects::Undone, false))
        }
        Event::Moot { output } => before_any_effect(life, |life| succeed(life, output)),
        Event::Force => {
            let (state, code) = life.abort_reason.unwrap_or(AbortReason::Cancel).end();
            let detail = "ended by force, without the node's word".to_owned();
            Ok(finish(life, state, TaskError { code, detail }, Effects::Remain, false))
        }
    }
}

fn grant(life: &mut Life, lease: Lease, rules: &Rules, now: Timestamp) -> Result<Outcome, Denial> {
    if life.lease.is_some() {
        return Err(Denial::WrongState);
    }
    match life.state {
        TaskState::Queued => {
            life.state = TaskState::Running;
            life.deadline.get_or_insert(now.plus(rules.timeout));
        }
        TaskState::Aborting => {}
        TaskState::Running | TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => {
            return Err(Denial::WrongState);
        }
    }
    life.fence = life.fence.next();
    life.lease = Some(lease);
    life.clean = false;
    Ok(Outcome::Alive)
}

fn renew(life: &mut Life, fence: Fence, expires_at: Timestamp) -> Result<Outcome, Denial> {
    if fence != life.fence {
        return Err(Denial::StaleFence);
    }
    // A lease that lapsed cannot be renewed: the attempt may still report, or adopt the next fence.
    let lease = life.lease.as_mut().ok_or(Denial::StaleFence)?;
    lease.expires_at = lease.expires_at.max(expires_at);
    Ok(Outcome::Alive)
}

fn report(
    life: &mut Life,
    fence: Fence,
    end: End,
    rules: &Rules,
    now: Timestamp,
    jitter: f64,
) -> Result<Outcome, Denial> {
    if fence != life.fence || fence.attempt == 0 {
        return Err(Denial::StaleFence);
    }
    life.lease = None;
    match end {
        End::Succeeded { output } => Ok(succeed(life, output)),
        End::Cancelled { effects } => Ok(conclude(life, "the task was stopped", Code::Cancelled, effects, false)),
        End::Failed { code, detail, retryable, effects } => {
            let again = retryable
                && life.abort_reason.is_none()
                && effects == Effects::Undone
                && rules.retry.allows(life.fence.attempt);
            if again {
                life.state = TaskState::Queued;
                life.clean = true;
                life.not_before = now.plus(rules.retry.delay(life.fence.attempt, jitter));
                return Ok(Outcome::Alive);
            }
            Ok(conclude(life, &detail, code, effects, retryable))
        }
    }
}

fn lapse(life: &mut Life, rules: &Rules, now: Timestamp, jitter: f64) -> Result<Outcome, Denial> {
    if life.lease.take().is_none() {
        return Err(Denial::WrongState);
    }
    life.not_before = now.plus(rules.retry.delay(life.fence.attempt, jitter));
    if life.state == TaskState::Running {
        if rules.retry.allows(life.fence.attempt) {
            life.state = TaskState::Queued;
        } else {
            life.state = TaskState::Aborting;
            life.abort_reason = Some(AbortReason::Attempts);
        }
    }
    Ok(Outcome::Alive)
}

/// Ends at once what provably left nothing behind; everything else begins to abort. Somebody's word outranks a deadline.
fn stop(life: &mut Life, reason: AbortReason) -> Outcome {
    if life.clean && life.lease.is_none() {
        let (state, code) = reason.end();
        let detail = match reason {
            AbortReason::Cancel => "cancelled before any node took it",
            AbortReason::Deadline => "no node took it in time",
            AbortReason::Attempts => "its attempts are used up",
        };
        return finish(life, state, TaskError { code, detail: detail.to_owned() }, Effects::Undone, false);
    }
    life.state = TaskState::Aborting;
    if reason == AbortReason::Cancel {
        life.abort_reason = Some(reason);
    } else {
        life.abort_reason.get_or_insert(reason);
    }
    Outcome::Alive
}

fn before_any_effect(life: &mut Life, end: impl FnOnce(&mut Life) -> Outcome) -> Result<Outcome, Denial> {
    match (life.clean, life.lease) {
        (true, None) => Ok(end(life)),
        (true, Some(_)) | (false, Some(_) | None) => Err(Denial::WrongState),
    }
}

fn succeed(life: &mut Life, output: Value) -> Outcome {
    life.state = TaskState::Succeeded;
    life.lease = None;
    life.abort_reason = None;
    Outcome::Ended(Verdict::Succeeded { output })
}

/// An unsuccessful report: the reason to abort, where there is one, decides the state.
fn conclude(life: &mut Life, detail: &str, code: Code, effects: Effects, retryable: bool) -> Outcome {
    let (state, code) = match life.abort_reason {
        Some(reason) => reason.end(),
        None if code == Code::Cancelled => (TaskState::Cancelled, code),
        None => (TaskState::Failed, code),
    };
    finish(life, state, TaskError { code, detail: detail.to_owned() }, effects, retryable)
}

fn finish(life: &mut Life, state: TaskState, error: TaskError, effects: Effects, retryable: bool) -> Outcome {
    life.state = state;
    life.dead_letter = DeadLetter::of(state, error.code, retryable);
    life.lease = None;
    Outcome::Ended(Verdict::Unsuccessful { error, effects })
}

#[cfg(test)]
mod tests;
