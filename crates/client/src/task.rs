//! Tasks: `/api/v1/tasks`.

use hostler_model::{
    Code, TaskId, VmId,
    api::{NewTask, Page, Submitted},
    kind::{KindInfo, KindName},
    proof::TaskProof,
    task::{Task, TaskState},
};

use crate::{Client, ClientError, Paging, Submit, call::Call};

/// Which tasks to list. Everything left out does not matter.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TaskQuery {
    /// Only in this state.
    pub state: Option<TaskState>,
    /// Only of this kind.
    pub kind: Option<KindName>,
    /// Only about this VM.
    pub vm: Option<VmId>,
    /// Only failed with this code: `ATTEMPTS_EXHAUSTED` is the dead-letter list.
    pub code: Option<Code>,
}

impl TaskQuery {
    fn call(&self) -> Call {
        Call::get("/api/v1/tasks")
            .query("state", self.state)
            .query("kind", self.kind)
            .query("vm", self.vm)
            .query("code", self.code)
    }
}

impl Client {
    /// Submits a task of any kind.
    pub async fn submit_task(&self, task: &NewTask, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post("/api/v1/tasks").json(task)?, how).await
    }

    /// One task.
    pub async fn task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.call(Call::get(format!("/api/v1/tasks/{id}"))).await
    }

    /// What a task's node last reported of it, signed by that node.
    pub async fn task_proof(&self, id: TaskId) -> Result<TaskProof, ClientError> {
        self.call(Call::get(format!("/api/v1/tasks/{id}/proof"))).await
    }

    /// A page of tasks, newest first.
    pub async fn tasks_page(&self, which: &TaskQuery, paging: &Paging) -> Result<Page<Task>, ClientError> {
        self.page(which.call(), paging).await
    }

    /// The newest `most` tasks, or all of them.
    pub async fn tasks(&self, which: &TaskQuery, most: Option<usize>) -> Result<Vec<Task>, ClientError> {
        self.every(which.call(), most).await
    }

    /// The kinds there are, and what holds for each where nothing else is asked for.
    pub async fn task_kinds(&self) -> Result<Vec<KindInfo>, ClientError> {
        let page: Page<KindInfo> = self.call(Call::get("/api/v1/tasks/kinds")).await?;
        Ok(page.items)
    }

    /// Asks for a task to be stopped and undone, and answers how it is now: it ends when its node says so. Asking again
    /// changes nothing.
    pub async fn cancel_task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.call(Call::post(format!("/api/v1/tasks/{id}/cancel"))).await
    }

    /// Ends a task that is being stopped, without waiting for its node's word, and answers how it ended. Only for a node
    /// that will not come back: nothing is undone there. For platform administrators.
    pub async fn force_task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.call(Call::post(format!("/api/v1/tasks/{id}/force"))).await
    }

    /// Submits a new task that does what a failed or cancelled one should have done.
    pub async fn retry_task(&self, id: TaskId, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post(format!("/api/v1/tasks/{id}/retry")), how).await
    }
}
