//! Where a task stands, what it waits for, why it is being stopped, and what became of it when it was given up.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Code;

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
    /// A node that has room for it.
    Capacity,
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
    pub(super) const fn end(self) -> (TaskState, Code) {
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
    pub(super) fn of(state: TaskState, code: Code, retryable: bool) -> Option<DeadLetter> {
        let given_up =
            retryable || matches!(code, Code::AttemptsExhausted | Code::DeadlineExceeded | Code::OutcomeUnknown);
        (state == TaskState::Failed && given_up).then_some(DeadLetter::Waiting)
    }
}
