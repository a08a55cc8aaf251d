//! Cancelling, and ending by force.

use hostler_db::Result;
use hostler_model::{
    Code, Refusal, TaskId,
    task::{Event, Task, TaskState},
};
use serde_json::json;

use crate::{
    Answer, Cancel,
    task::{Held, waiting_for},
    work::Work,
};

/// Asks for each task to be stopped: what provably left nothing ends at once, the rest begins to abort.
pub(crate) fn cancel(work: &mut Work<'_>, items: &[Cancel]) -> Result<Vec<Answer<Task>>> {
    read(work, items)?;
    items.iter().map(|item| cancel_one(work, item)).collect()
}

/// Ends aborting tasks without their node's word.
pub(crate) fn force(work: &mut Work<'_>, items: &[Cancel]) -> Result<Vec<Answer<Task>>> {
    read(work, items)?;
    items.iter().map(|item| force_one(work, item)).collect()
}

fn read(work: &mut Work<'_>, items: &[Cancel]) -> Result<()> {
    let ids: Vec<TaskId> = items.iter().map(|item| item.task).collect();
    work.read_tasks(&ids)
}

fn cancel_one(work: &mut Work<'_>, item: &Cancel) -> Result<Answer<Task>> {
    let state = match own(work, item) {
        Ok(state) => state,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if state == TaskState::Cancelled {
        // Whoever asks once more, because the answer was lost say, has what it asked for.
        return shown(work, item);
    }
    if state.is_terminal() {
        return Ok(Err(conflict(item, state, "it has ended; there is nothing to cancel")));
    }
    work.cancel(item.task, &item.actor)?;
    shown(work, item)
}

fn force_one(work: &mut Work<'_>, item: &Cancel) -> Result<Answer<Task>> {
    let (state, tenant) = match own(work, item) {
        Ok(state) => (state, item.tenant),
        Err(refusal) => return Ok(Err(refusal)),
    };
    if state != TaskState::Aborting {
        return Ok(Err(conflict(item, state, "only a task that is aborting can be ended by force; cancel it first")));
    }
    if work.apply(item.task, Event::Force)?.is_ok() {
        work.audit(&item.actor, Some(tenant), "task", "task.force", item.task.0, json!({}));
    }
    shown(work, item)
}

fn own(work: &Work<'_>, item: &Cancel) -> Answer<TaskState> {
    match work.tasks.get(&item.task) {
        Some(row) if row.task.tenant == item.tenant => Ok(row.task.state),
        Some(_) | None => Err(not_found(item.task)),
    }
}

fn shown(work: &mut Work<'_>, item: &Cancel) -> Result<Answer<Task>> {
    let Some(row) = work.tasks.get(&item.task) else { return Ok(Err(not_found(item.task))) };
    let mut task = row.task.clone();
    task.waiting_for = waiting_for(&task, Held::default(), work.now);
    Ok(Ok(task))
}

fn not_found(id: TaskId) -> Refusal {
    Refusal::new(Code::TaskNotFound, "there is no such task; `hostler task list` shows those there are")
        .with("task", id.to_string())
}

fn conflict(item: &Cancel, state: TaskState, why: &str) -> Refusal {
    Refusal::new(Code::TaskStateConflict, format!("the task is {state}: {why}"))
        .with("task", item.task.to_string())
        .with("state", state.as_str())
}
