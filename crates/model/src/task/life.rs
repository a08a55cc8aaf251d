//! The life of a task: the part of it that transitions read and change, what may happen to it, and the one function that
//! says what becomes of it then.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AbortReason, DeadLetter, Effects, End, Intent, TaskError, TaskState};
use crate::{clock::Timestamp, error::Code, fence::Fence, id::EnrolmentId, kind::OnRemains, retry::RetryPolicy};

/// A node's hold on an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The enrolment that holds it: a renewed certificate keeps it, a rejoin does not.
    pub enrolment: EnrolmentId,
    /// When it lapses.
    pub expires_at: Timestamp,
}

/// What is left of a task's attempts on its node, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Nothing: it was never leased, or its last attempt said that it undid what it did.
    Nothing,
    /// Nobody knows: an attempt is under way, or was lost.
    Unknown,
    /// Something: its last attempt said so, and another is to go on from it.
    Something,
}

/// The part of a task that transitions read and change.
#[derive(Clone, PartialEq, Debug)]
pub struct Life {
    /// Where it stands.
    pub state: TaskState,
    /// The current fence.
    pub fence: Fence,
    /// What is left of it.
    pub left: Left,
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
            left: Left::Nothing,
            lease: None,
            abort_reason: None,
            not_before,
            deadline: None,
            dead_letter: None,
        }
    }

    /// Whether the end of the attempt under `fence` is written down already: one more report of it is a repeat.
    pub fn reported(&self, fence: Fence) -> bool {
        fence == self.fence && fence.attempt > 0 && (self.state.is_terminal() || self.left != Left::Unknown)
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
    /// What follows a failure of which something is left.
    pub on_remains: OnRemains,
    /// From the first lease to the end.
    pub timeout: Duration,
}

impl Rules {
    /// What a failed attempt leaves to another; `None` where none may follow it.
    fn left_to_another(&self, effects: Effects) -> Option<Left> {
        match (effects, self.on_remains) {
            (Effects::Undone, OnRemains::End | OnRemains::GoOn) => Some(Left::Nothing),
            (Effects::Remain, OnRemains::GoOn) => Some(Left::Something),
            (Effects::Remain, OnRemains::End) => None,
        }
    }
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
    life.left = Left::Unknown;
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
            let again = retryable && life.abort_reason.is_none() && rules.retry.allows(life.fence.attempt);
            let left = again.then(|| rules.left_to_another(effects)).flatten();
            let Some(left) = left else { return Ok(conclude(life, &detail, code, effects, retryable)) };
            life.state = TaskState::Queued;
            life.left = left;
            life.not_before = now.plus(rules.retry.delay(life.fence.attempt, jitter));
            Ok(Outcome::Alive)
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
    if life.left == Left::Nothing && life.lease.is_none() {
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
    match (life.left, life.lease) {
        (Left::Nothing, None) => Ok(end(life)),
        (Left::Nothing, Some(_)) | (Left::Unknown | Left::Something, Some(_) | None) => Err(Denial::WrongState),
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
