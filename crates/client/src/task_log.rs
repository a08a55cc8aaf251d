//! The logs of tasks: `/api/v1/tasks/{task}/log`.

use std::time::Duration;

use hostler_model::{TaskId, task_log::TaskLog};

use crate::{Client, ClientError, call::Call};

impl Client {
    /// Lines of a task with a number above `after`, oldest first. Where there is nothing yet, the server waits this long
    /// for more, 60 s at most. To follow a task, ask again after `next` until `ended`.
    pub async fn task_log(&self, id: TaskId, after: i64, wait: Duration) -> Result<TaskLog, ClientError> {
        let wait = wait.min(Duration::from_secs(60));
        let call = Call::get(format!("/api/v1/tasks/{id}/log")).query("after", Some(after));
        self.call(call.query("wait", Some(wait.as_secs())).patient(wait)).await
    }
}
