//! Dead letters: letting them be. Doing them again is submitting; see `submit.rs`.

use hostler_db::Result;
use hostler_model::{
    Code, Refusal, TaskId,
    task::{DeadLetter, Task},
};
use serde_json::json;

use crate::{Answer, Cancel, work::Work};

/// Takes each off the list of dead letters. The task, its history and its log stay.
pub(crate) fn purge(work: &mut Work<'_>, items: &[Cancel]) -> Result<Vec<Answer<Task>>> {
    let ids: Vec<TaskId> = items.iter().map(|item| item.task).collect();
    work.read_task_rows(&ids)?;
    Ok(items.iter().map(|item| purge_one(work, item)).collect())
}

fn purge_one(work: &mut Work<'_>, item: &Cancel) -> Answer<Task> {
    let own = work.tasks.get(&item.task).filter(|row| row.task.tenant == item.tenant);
    let task = own.map(|row| &row.task).ok_or_else(|| not_found(item.task))?;
    match task.dead_letter {
        // Whoever asks once more, because the answer was lost say, has what it asked for.
        Some(DeadLetter::Purged) => return Ok(task.clone()),
        Some(DeadLetter::Waiting) => {}
        Some(DeadLetter::Retried) | None => return Err(no_letter(task)),
    }
    if let Some(row) = work.tasks.change(&item.task) {
        row.task.dead_letter = Some(DeadLetter::Purged);
    }
    work.event(Some(item.tenant), "task", "task.purged", item.task.0, json!({}));
    work.audit(&item.actor, Some(item.tenant), "task", "task.purge", item.task.0, json!({}));
    work.tasks.get(&item.task).map(|row| row.task.clone()).ok_or_else(|| not_found(item.task))
}

fn not_found(id: TaskId) -> Refusal {
    Refusal::new(Code::TaskNotFound, "there is no such task; `hostler task dead list` shows those that were given up")
        .with("task", id.to_string())
}

fn no_letter(task: &Task) -> Refusal {
    let detail = format!(
        "the task is {} and no dead letter that waits for a decision; `hostler task dead list` shows those",
        task.state
    );
    Refusal::new(Code::TaskStateConflict, detail).with("task", task.id.to_string()).with("state", task.state.as_str())
}
