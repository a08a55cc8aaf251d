//! The logs of tasks, read once or followed.

use std::time::Duration;

use hostler_model::{TaskId, task_log::TaskLog};

use super::{App, Result, caller::Call};

impl App {
    /// Lines of a task with a number above `after`: what is there, or else what comes within `up_to`. Nothing is an
    /// answer too.
    pub async fn task_log(
        &self,
        call: &Call,
        id: TaskId,
        after: i64,
        limit: usize,
        up_to: Duration,
    ) -> Result<TaskLog> {
        let until = tokio::time::Instant::now() + up_to;
        let on_task = self.bell.on_task(id);
        loop {
            // The task first: the lines of one that has ended are all there.
            let ended = self.task(call, id).await?.state.is_terminal();
            let lines = self.store.task_log(id, after, limit + 1).await?;
            if ended || !lines.is_empty() {
                return Ok(TaskLog::of(lines, after, limit, ended));
            }
            tokio::select! {
                () = on_task.wait() => {}
                () = tokio::time::sleep_until(until) => return Ok(TaskLog::of(lines, after, limit, false)),
                () = self.closing.cancelled() => return Ok(TaskLog::of(lines, after, limit, false)),
            }
        }
    }
}
