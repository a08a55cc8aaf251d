//! What a submission does with the dead letter that it does again: of all who do one again, the first does.

use hostler_db::Result;
use hostler_model::{Code, Refusal, TaskId, task::DeadLetter};

use crate::{Answer, Submission, task, work::Work};

/// Refuses what is done again already, also by an earlier item of the batch, and names the task that does it.
pub(super) fn check(work: &mut Work<'_>, item: &Submission) -> Result<Answer<()>> {
    let Some(first) = item.retry_of.filter(|first| is(work, *first, DeadLetter::Retried)) else { return Ok(Ok(())) };
    let here = work.tasks.made().find(|row| row.task.retry_of == Some(first)).map(|row| row.task.id);
    let by = match here {
        Some(id) => Some(id),
        None => task::retry_of(work.tx, first)?,
    };
    Ok(Err(done_again(first, by)))
}

/// The letter no longer waits for anybody.
pub(super) fn accept(work: &mut Work<'_>, item: &Submission) {
    if let Some(first) = item.retry_of
        && is(work, first, DeadLetter::Waiting)
        && let Some(row) = work.tasks.change(&first)
    {
        row.task.dead_letter = Some(DeadLetter::Retried);
    }
}

fn is(work: &Work<'_>, id: TaskId, letter: DeadLetter) -> bool {
    work.tasks.get(&id).is_some_and(|row| row.task.dead_letter == Some(letter))
}

fn done_again(first: TaskId, by: Option<TaskId>) -> Refusal {
    let by = by.map(|id| id.to_string()).unwrap_or_default();
    let detail = format!("the task is done again already, by {by}; watch that one, and retry that one if it fails too");
    Refusal::new(Code::TaskStateConflict, detail).with("task", first.to_string()).with("retry", by)
}
