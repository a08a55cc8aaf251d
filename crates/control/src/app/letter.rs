//! Dead letters: listed, done again, let be.

use hostler_model::{
    Code, Refusal, TaskId,
    api::{Answered, Letters},
    task::{DeadLetter, Task},
};
use hostler_store::{Answer, Cancel, TaskFilter};

use super::{App, Error, Result, caller::Call, submit::Terms};

/// How many letters one call decides about.
pub const AT_ONCE: usize = 500;

impl App {
    /// The letters that are meant, and whether there are more.
    async fn letters(&self, call: &Call, which: &Letters) -> Result<(Vec<TaskId>, bool)> {
        if let Some(ids) = &which.tasks {
            return Ok((ids.clone(), false));
        }
        let filter =
            TaskFilter { kind: which.kind, code: which.code, vm: which.vm, dead: true, ..TaskFilter::default() };
        let mut tasks = self.tasks(call, filter, None, AT_ONCE + 1).await?;
        let more = tasks.len() > AT_ONCE;
        tasks.truncate(AT_ONCE);
        Ok((tasks.into_iter().map(|task| task.id).collect(), more))
    }

    /// Does letters again, each as a task of its own. One that no longer waits is refused.
    pub async fn retry_letters(&self, call: &Call, which: &Letters) -> Result<(Vec<Answered>, bool)> {
        check(which)?;
        let (ids, more) = self.letters(call, which).await?;
        let mut answers = Vec::with_capacity(ids.len());
        for id in ids {
            answers.push(answered(self.retry_letter(call, id).await)?);
        }
        Ok((answers, more))
    }

    async fn retry_letter(&self, call: &Call, id: TaskId) -> Result<Answered> {
        let task = self.task(call, id).await?;
        // Of those that are done again already, the store's step says by whom.
        if !matches!(task.dead_letter, Some(DeadLetter::Waiting | DeadLetter::Retried)) {
            let detail = "this is no dead letter that waits for a decision; `hostler task dead list` shows those";
            return Err(Refusal::new(Code::TaskStateConflict, detail).with("task", id.to_string()).into());
        }
        let accepted = self.retry(call, id, Terms::default()).await?;
        Ok(Answered::accepted(accepted.task, accepted.vm))
    }

    /// Lets letters be: they leave the list, their history and their logs stay.
    pub async fn purge_letters(&self, call: &Call, which: &Letters) -> Result<(Vec<Answered>, bool)> {
        check(which)?;
        let (ids, more) = self.letters(call, which).await?;
        let mut items = Vec::with_capacity(ids.len());
        let mut answers = Vec::with_capacity(ids.len());
        for id in ids {
            answers.push(match self.purgeable(call, id).await {
                Ok(item) => {
                    items.push(item);
                    None
                }
                Err(error) => Some(answered(Err(error))?),
            });
        }
        let done: Vec<Answer<Task>> = if items.is_empty() { Vec::new() } else { self.store.purge(items).await? };
        let mut done = done.into_iter().map(|answer| answer.map_or_else(Answered::refused, Answered::done));
        let answers: Option<Vec<Answered>> = answers.into_iter().map(|answer| answer.or_else(|| done.next())).collect();
        Ok((answers.ok_or(Error::Fault("the store answered fewer items than it was asked"))?, more))
    }

    /// Whoever may not ask for a task may not let it be either.
    async fn purgeable(&self, call: &Call, id: TaskId) -> Result<Cancel> {
        let task = self.task(call, id).await?;
        call.require(task.kind.spec().access())?;
        Ok(Cancel { task: id, tenant: task.tenant, actor: call.actor() })
    }
}

/// Nobody decides about everything by saying nothing.
fn check(which: &Letters) -> Result<()> {
    let narrowed = which.tasks.is_some() || which.kind.is_some() || which.code.is_some() || which.vm.is_some();
    match (narrowed, which.all) {
        (true, false) | (false, true) => {}
        (true, true) => return Err(Refusal::field("all", "it goes with no other field; leave it out").into()),
        (false, false) => {
            let detail = "say which: `tasks`, a filter (`kind`, `code`, `vm`), or `all: true`";
            return Err(Refusal::field("tasks", detail).into());
        }
    }
    let filtered = which.kind.is_some() || which.code.is_some() || which.vm.is_some();
    match &which.tasks {
        Some(_) if filtered => Err(Refusal::field("tasks", "name tasks, or filter, not both").into()),
        Some(ids) if ids.len() > AT_ONCE => Err(Refusal::field("tasks", format!("at most {AT_ONCE} at once")).into()),
        Some(_) | None => Ok(()),
    }
}

/// A refusal is an answer; a fault is not.
pub(super) fn answered(result: Result<Answered>) -> Result<Answered> {
    match result {
        Err(Error::Refused(refusal)) => Ok(Answered::refused(refusal)),
        other => other,
    }
}
