//! Tasks: read, listed, waited for, cancelled, retried. How one comes to be is in `submit.rs`.

use std::time::Duration;

use hostler_model::{
    Code, Refusal, TaskId,
    api::{NewTask, TargetRef},
    kind::Aim,
    proof::TaskProof,
    task::{Task, TaskState},
    vm::Vm,
};
use hostler_store::{Accepted, Cancel, TaskFilter};

use super::{
    App, Result,
    caller::Call,
    only,
    submit::{Place, Terms},
};

impl App {
    /// A task that this caller may see.
    pub async fn task(&self, call: &Call, id: TaskId) -> Result<Task> {
        let task = self.store.task(id).await?.filter(|task| call.may_see(task.tenant));
        task.ok_or_else(|| self.unknown(id).into())
    }

    /// What proves what was last reported of a task.
    pub async fn task_proof(&self, call: &Call, id: TaskId) -> Result<TaskProof> {
        let task = self.task(call, id).await?;
        let detail = || {
            let state = task.state;
            format!("the task {id} is {state}, and no result of it is kept that a node of this control plane signed")
        };
        Ok(self.store.task_proof(id).await?.ok_or_else(|| Refusal::new(Code::NotFound, detail()))?)
    }

    /// The caller's tasks, newest first.
    pub async fn tasks(
        &self,
        call: &Call,
        filter: TaskFilter,
        before: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<Task>> {
        let filter = TaskFilter { tenant: Some(call.tenant()?), ..filter };
        Ok(self.store.tasks(filter, before, limit).await?)
    }

    /// A task once it has ended; `None` when the time is up before, or the server goes away.
    pub async fn ended(&self, id: TaskId, up_to: Duration) -> Result<Option<Task>> {
        let until = tokio::time::Instant::now() + up_to;
        let on_task = self.bell.on_task(id);
        loop {
            let task = self.store.task(id).await?.ok_or_else(|| self.unknown(id))?;
            if task.state.is_terminal() {
                return Ok(Some(task));
            }
            tokio::select! {
                biased;
                () = on_task.wait() => {}
                () = tokio::time::sleep_until(until) => return Ok(None),
                () = self.closing.cancelled() => return Ok(None),
            }
        }
    }

    /// The machine that a task is about, as it is now.
    pub async fn machine_of(&self, task: &Task) -> Result<Option<Vm>> {
        match task.target.vm {
            Some(id) => Ok(self.store.vm(id).await?),
            None => Ok(None),
        }
    }

    /// Asks that a task be stopped. Asked again, the answer is the task as it is; one that has ended is refused.
    pub async fn cancel(&self, call: &Call, id: TaskId) -> Result<Task> {
        let task = self.task(call, id).await?;
        call.require(task.kind.spec().access())?;
        let cancel = Cancel { task: id, tenant: task.tenant, actor: call.actor() };
        only(self.store.cancel(vec![cancel]).await?)
    }

    /// Ends an aborting task without its node's word, which is only right when the node will not come back.
    pub async fn force(&self, call: &Call, id: TaskId) -> Result<Task> {
        let task = self.task(call, id).await?;
        let force = Cancel { task: id, tenant: task.tenant, actor: call.actor() };
        only(self.store.force(vec![force]).await?)
    }

    /// A new task like one that ended without success, in the same tenant whoever asks, with its own placement and quota.
    pub async fn retry(&self, call: &Call, id: TaskId, terms: Terms) -> Result<Accepted> {
        let task = self.task(call, id).await?;
        match task.state {
            TaskState::Failed | TaskState::Cancelled => {}
            TaskState::Queued | TaskState::Running | TaskState::Aborting | TaskState::Succeeded => {
                return Err(not_retryable(&task).into());
            }
        }
        let params = self.whole_params(&task).await?;
        let mut target: TargetRef = task.target.into();
        if task.kind.spec().aim == Aim::NewVm {
            target.vm = None;
        }
        let again = NewTask::again(task.kind, target, params, &task.schedule);
        let place = Place { tenant: task.tenant, retry_of: Some(id) };
        self.submit_in(call, place, again, terms).await
    }

    fn unknown(&self, id: TaskId) -> Refusal {
        let mut refusal = super::not_found(Code::TaskNotFound, "task", &id.to_string());
        if let Some(kept) = self.store.history() {
            let kept = in_words(kept);
            refusal.detail.push_str(&format!("; what ended longer ago than {kept} is removed"));
        }
        refusal
    }
}

/// As people count it.
fn in_words(kept: Duration) -> String {
    match kept.as_secs() / (24 * 60 * 60) {
        0 => format!("{} s", kept.as_secs()),
        1 => "a day".to_owned(),
        days => format!("{days} days"),
    }
}

fn not_retryable(task: &Task) -> Refusal {
    let detail = format!("the task is {}; only a failed or cancelled one can be retried", task.state);
    Refusal::new(Code::TaskStateConflict, detail).with("state", task.state.as_str())
}
