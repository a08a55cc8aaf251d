//! Watching a task until it ends, with its phases and what its handlers write as it happens.
//!
//! Events are hints: each makes us look at the task itself, and so does a pulse that slows down, so that nothing depends
//! on a hint. The server may be away for a while (a restart): the watch goes on.
//!
//! What is told of it is [`view`]'s. All of it goes to stderr.

mod view;

use std::time::Duration;

use hostler_client::{Client, ClientError, EventQuery};
use hostler_model::{
    Fence, TaskId,
    event::Entry,
    task::{Progress, Task, TaskState},
    task_log::Line,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use self::view::View;
pub use self::view::{Tell, status};
use crate::interrupt::Interrupt;

/// The first look comes soon: an exec takes 40 ms.
const FIRST_PULSE: Duration = Duration::from_millis(25);
/// Without hints a change is seen this late at most.
const LAST_PULSE: Duration = Duration::from_secs(1);
/// How long a server may be away while we watch: a restart takes a few seconds.
const AWAY: Duration = Duration::from_secs(30);

/// How a watch ended.
#[derive(Debug)]
pub enum Watched {
    /// With the task.
    Ended(Task),
    /// The task goes on, but our time is over.
    TimedOut(Task),
    /// The task goes on, but this signal came.
    Signalled(Task, i32),
}

/// Watches a task until it ends, time is over, or a signal comes.
pub async fn watch(
    client: &Client,
    mut task: Task,
    limit: Option<Duration>,
    interrupt: &mut Interrupt,
    tell: Tell,
) -> Result<Watched, ClientError> {
    let mut view = View::new(tell);
    let mut wakes = Wakes::about(client, task.id);
    let end = limit.map(|limit| Instant::now() + limit);
    let mut last_answer = Instant::now();
    let mut said = view.heard(client, &task).await;
    loop {
        view.show(&task, said);
        if task.state.is_terminal() {
            return Ok(Watched::Ended(task));
        }
        let looked = tokio::select! {
            biased;
            signal = interrupt.caught() => return Ok(Watched::Signalled(task, signal)),
            () = over(end) => return Ok(Watched::TimedOut(task)),
            looked = look(client, &task, &mut wakes, &view) => looked,
        };
        said = Vec::new();
        match looked {
            Ok((seen, heard)) => (task, said, last_answer) = (seen, heard, Instant::now()),
            Err(error) if error.is_unreachable() && last_answer.elapsed() < AWAY => {
                view.say("the server is away");
                continue;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The task as it is after the next wake, and what was written meanwhile.
async fn look(client: &Client, task: &Task, wakes: &mut Wakes, view: &View) -> Result<(Task, Vec<Line>), ClientError> {
    let seen = wakes.look(client, task).await?;
    let heard = view.heard(client, &seen).await;
    Ok((seen, heard))
}

async fn over(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// What makes us look: events, and a pulse.
struct Wakes {
    hints: mpsc::Receiver<Option<Told>>,
    stream: JoinHandle<()>,
    pulse: Duration,
}

impl Wakes {
    fn about(client: &Client, task: TaskId) -> Wakes {
        let mut events = client.events(EventQuery { after: None, subject: Some(task.0) });
        let (send, hints) = mpsc::channel(16);
        // A task of its own, because a connection that is being made must not be dropped with each pulse.
        let stream = tokio::spawn(async move {
            let mut hint = events.connect().await.map(|()| None);
            while let Ok(what) = hint {
                if send.send(what).await.is_err() {
                    return;
                }
                hint = events.next().await.map(|entry| told(&entry));
            }
        });
        Wakes { hints, stream, pulse: FIRST_PULSE }
    }

    /// The task as it is after the next wake.
    async fn look(&mut self, client: &Client, task: &Task) -> Result<Task, ClientError> {
        let hint = tokio::select! {
            Some(hint) = self.hints.recv() => hint,
            () = sleep(self.pulse) => {
                self.pulse = (self.pulse * 2).min(LAST_PULSE);
                None
            }
        };
        match hint {
            Some(Told { fence, progress }) if fence >= task.fence => {
                let state = if task.state == TaskState::Queued { TaskState::Running } else { task.state };
                Ok(Task { state, waiting_for: None, fence, progress: Some(progress), ..task.clone() })
            }
            Some(_) | None => client.task(task.id).await,
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.stream.abort();
    }
}

/// What an event says about how far the task is: it spares a look at the task.
#[derive(Debug, serde::Deserialize)]
struct Told {
    fence: Fence,
    #[serde(flatten)]
    progress: Progress,
}

/// What an event says, if it is one of those.
fn told(entry: &Entry) -> Option<Told> {
    let named = entry.kind == "task.progress";
    named.then(|| serde_json::from_value(entry.data.clone()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn an_event_about_progress_says_how_far_the_task_is() {
        let mut entry = fixture::entry();
        assert!(told(&entry).is_none());
        entry.kind = "task.progress".into();
        entry.data = serde_json::json!({
            "fence": {"store_epoch": 1, "attempt": 2}, "phase": "boot", "percent": null,
        });
        let told = told(&entry).unwrap();
        assert_eq!((told.fence.attempt, told.progress.phase.as_str()), (2, "boot"));
    }
}
