//! The logs of tasks, read once or followed.

use std::{sync::Arc, time::Duration};

use hostler_model::{
    TaskId,
    task::TaskState,
    task_log::{Line, TaskLog},
};
use tokio::sync::mpsc;

use super::{App, Result, caller::Call};

/// How many lines are read at once.
const PAGE: usize = 200;
/// How many wait for a slow follower.
const AHEAD: usize = 64;
/// How long a follower may take none before it is let go.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one look waits for more.
const WAIT: Duration = Duration::from_secs(60);

/// What a follower gets.
#[derive(Debug)]
pub enum Followed {
    /// A line.
    Line(Line),
    /// The task ended like this: there will be no more lines.
    End(TaskState),
}

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
                biased;
                () = on_task.wait() => {}
                () = tokio::time::sleep_until(until) => return Ok(TaskLog::of(lines, after, limit, false)),
                () = self.closing.cancelled() => return Ok(TaskLog::of(lines, after, limit, false)),
            }
        }
    }

    /// Lines with a number above `after` as they come, and the end. The stream also ends with the credential, and when the
    /// server goes away, the store fails, or the follower is too slow.
    pub async fn follow_task_log(
        self: &Arc<Self>,
        call: &Call,
        id: TaskId,
        after: i64,
    ) -> Result<mpsc::Receiver<Followed>> {
        self.task(call, id).await?;
        let (to, followed) = mpsc::channel(AHEAD);
        let (app, call) = (self.clone(), call.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = app.no_longer(&call.caller) => {}
                // Whoever has gone, or whoever the store fails, comes back with the last number that it saw.
                _ = app.feed_task_log(&call, id, after, &to) => {}
            }
        });
        Ok(followed)
    }

    /// Nothing when the follower is gone.
    async fn feed_task_log(&self, call: &Call, id: TaskId, mut after: i64, to: &mpsc::Sender<Followed>) -> Option<()> {
        while !self.closing.is_cancelled() {
            let log = tokio::select! {
                biased;
                log = self.task_log(call, id, after, PAGE, WAIT) => log.ok()?,
                () = to.closed() => return None,
            };
            after = log.next;
            for line in log.lines {
                to.send_timeout(Followed::Line(line), PATIENCE).await.ok()?;
            }
            if log.ended {
                let state = self.task(call, id).await.ok()?.state;
                return to.send_timeout(Followed::End(state), PATIENCE).await.ok();
            }
        }
        None
    }
}
