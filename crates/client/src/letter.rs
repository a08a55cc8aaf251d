//! Dead letters and batches: `/api/v1/tasks/dead`, `/api/v1/tasks/batch`.

use hostler_model::{
    api::{Answers, Letters, NewTask},
    task::Task,
};
use serde_json::json;

use crate::{Client, ClientError, TaskQuery, call::Call};

impl Client {
    /// The newest `most` dead letters, or all of them. The state of the query does not matter.
    pub async fn dead_tasks(&self, which: &TaskQuery, most: Option<usize>) -> Result<Vec<Task>, ClientError> {
        let call =
            Call::get("/api/v1/tasks/dead").query("kind", which.kind).query("vm", which.vm).query("code", which.code);
        self.every(call, most).await
    }

    /// Does dead letters again, each as a new task. One that no longer waits is refused in its answer.
    pub async fn retry_dead(&self, which: &Letters) -> Result<Answers, ClientError> {
        self.call(Call::post("/api/v1/tasks/dead/retry").json(which)?).await
    }

    /// Lets dead letters be.
    pub async fn purge_dead(&self, which: &Letters) -> Result<Answers, ClientError> {
        self.call(Call::post("/api/v1/tasks/dead/purge").json(which)?).await
    }

    /// Submits up to 1,000 tasks, each answered in its order, under a key of their own: it takes effect once however
    /// often it is sent.
    pub async fn submit_tasks(&self, tasks: &[NewTask]) -> Result<Answers, ClientError> {
        let key = self.fresh_key();
        self.call(Call::post("/api/v1/tasks/batch").json(&json!({"tasks": tasks}))?.header("idempotency-key", &key)?)
            .await
    }
}
