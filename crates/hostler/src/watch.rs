//! Watching a task until it ends, with its phases as they happen.
//!
//! Events are hints: each makes us look at the task itself, and so does a pulse that slows down, so that nothing depends
//! on a hint. The server may be away for a while (a restart): the watch goes on.
//!
//! Each phase stands on a line with its time as soon as the node has said so. On a terminal one more line shows what is
//! under way; elsewhere a phase that takes long is named once. All of it goes to stderr.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use hostler_client::{Client, ClientError, EventQuery};
use hostler_model::{
    Fence, TaskId,
    event::Entry,
    task::{Progress, Task, TaskState, WaitingFor},
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    interrupt::Interrupt,
    output::{millis, note, paint, plain, took},
};

/// The first look comes soon: an exec takes 40 ms.
const FIRST_PULSE: Duration = Duration::from_millis(25);
/// Without hints a change is seen this late at most.
const LAST_PULSE: Duration = Duration::from_secs(1);
/// How long a server may be away while we watch: a restart takes a few seconds.
const AWAY: Duration = Duration::from_secs(30);

/// How long a phase may take before it is named where there is no terminal.
const SLOW: Duration = Duration::from_secs(5);

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

/// What is told while we watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tell {
    /// Each phase.
    Phases,
    /// Nothing: a program's output is what counts.
    Nothing,
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
    loop {
        view.show(&task);
        if task.state.is_terminal() {
            return Ok(Watched::Ended(task));
        }
        let looked = tokio::select! {
            biased;
            signal = interrupt.caught() => return Ok(Watched::Signalled(task, signal)),
            () = over(end) => return Ok(Watched::TimedOut(task)),
            looked = wakes.look(client, &task) => looked,
        };
        match looked {
            Ok((seen, log)) => {
                view.log(&log);
                (task, last_answer) = (seen, Instant::now());
            }
            Err(error) if error.is_unreachable() && last_answer.elapsed() < AWAY => view.say("the server is away"),
            Err(error) => return Err(error),
        }
    }
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

    /// The task as it is after the next wake, and what was said meanwhile.
    async fn look(&mut self, client: &Client, task: &Task) -> Result<(Task, Vec<String>), ClientError> {
        let hint = tokio::select! {
            Some(hint) = self.hints.recv() => hint,
            () = sleep(self.pulse) => {
                self.pulse = (self.pulse * 2).min(LAST_PULSE);
                None
            }
        };
        match hint {
            Some(Told { fence, progress, log }) if fence >= task.fence => {
                let state = if task.state == TaskState::Queued { TaskState::Running } else { task.state };
                Ok((Task { state, waiting_for: None, fence, progress: Some(progress), ..task.clone() }, log))
            }
            Some(_) | None => Ok((client.task(task.id).await?, Vec::new())),
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
    #[serde(default)]
    log: Vec<String>,
}

/// What an event says, if it is one of those.
fn told(entry: &Entry) -> Option<Told> {
    let named = entry.kind == "task.progress";
    named.then(|| serde_json::from_value(entry.data.clone()).ok()).flatten()
}

/// Where it is shown.
struct View {
    tell: Tell,
    phases: Phases,
    line: Option<ProgressBar>,
}

impl View {
    fn new(tell: Tell) -> View {
        let line = (tell == Tell::Phases && stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}");
            let line =
                ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            line.enable_steady_tick(Duration::from_millis(100));
            line
        });
        View { tell, phases: Phases::default(), line }
    }

    fn show(&mut self, task: &Task) {
        if self.tell == Tell::Nothing {
            return;
        }
        let now = Instant::now();
        for step in self.phases.observe(task, now) {
            self.line(&step);
        }
        match self.line {
            Some(_) => self.say(&status(task)),
            None => self.phases.slow(now).iter().for_each(note),
        }
    }

    /// Lines that the node wrote for people. Where there is no terminal they would hide the phases.
    fn log(&self, lines: &[String]) {
        if let Some(line) = &self.line {
            lines.iter().for_each(|said| line.println(paint::faint(&format!("  | {}", plain(said)))));
        }
    }

    fn line(&self, text: &str) {
        match &self.line {
            Some(line) => line.println(text),
            None => note(text),
        }
    }

    fn say(&self, words: &str) {
        if let Some(line) = &self.line
            && line.message() != words
        {
            line.set_message(words.to_owned());
            line.reset_elapsed();
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}

/// What is under way, in a few words.
pub fn status(task: &Task) -> String {
    match (task.state, task.waiting_for, &task.progress) {
        (TaskState::Queued, Some(WaitingFor::Time), _) => "queued: waits for its next attempt".to_owned(),
        (TaskState::Queued, Some(WaitingFor::Turn), _) => "queued: waits for another task on this machine".to_owned(),
        (TaskState::Queued, Some(WaitingFor::Node), _) => "queued: waits for its node".to_owned(),
        (TaskState::Queued, Some(WaitingFor::Paused), _) => "queued: its node's queue is paused".to_owned(),
        (TaskState::Running, _, Some(Progress { phase, percent: Some(percent), .. })) => format!("{phase} {percent} %"),
        (TaskState::Running, _, Some(Progress { phase, percent: None, .. })) if !phase.is_empty() => phase.clone(),
        (TaskState::Aborting, ..) => "is being stopped and undone".to_owned(),
        (state, ..) => state.to_string(),
    }
}

/// What there is to say about phases. How long each took is the node's word: many are too short to be seen from here.
#[derive(Default)]
struct Phases {
    attempt: u32,
    said: usize,
    under_way: Option<(String, Instant)>,
    slow: Option<String>,
}

impl Phases {
    /// Lines to say, once each.
    fn observe(&mut self, task: &Task, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        let attempt = task.fence.attempt;
        if attempt > self.attempt {
            if self.attempt > 0 {
                lines.push(format!("  attempt {attempt} of {}", task.max_attempts));
            }
            (self.attempt, self.said) = (attempt, 0);
        }
        let done = match &task.progress {
            Some(progress) if !task.state.is_terminal() => &progress.done,
            Some(_) | None => &task.phases,
        };
        let new = done.iter().skip(self.said);
        lines.extend(new.map(|timing| phase_line(&timing.phase, millis(timing.ms))));
        self.said = self.said.max(done.len());
        if let Some(progress) = &task.progress
            && self.under_way.as_ref().is_none_or(|(phase, _)| *phase != progress.phase)
        {
            self.under_way = Some((progress.phase.clone(), now));
        }
        lines
    }

    /// The phase under way, once it has taken long: who sees only lines knows then that something happens.
    fn slow(&mut self, now: Instant) -> Option<String> {
        let (phase, begun) = self.under_way.as_ref()?;
        if phase.is_empty() || now - *begun < SLOW || self.slow.as_ref() == Some(phase) {
            return None;
        }
        self.slow = Some(phase.clone());
        Some(format!("  {phase} …"))
    }
}

fn phase_line(phase: &str, time: Duration) -> String {
    format!("  {phase:<12} {:>9}", took(time))
}

#[cfg(test)]
mod tests {
    use hostler_model::task::PhaseTiming;

    use super::*;
    use crate::cli::fixture;

    fn in_phase(phase: &str, attempt: u32) -> Task {
        let mut task = fixture::task("running");
        task.fence.attempt = attempt;
        task.progress = Some(Progress { phase: phase.to_owned(), ..Progress::default() });
        task
    }

    fn ended(phases: &[(&str, f64)]) -> Task {
        let mut task = fixture::task("succeeded");
        task.fence.attempt = 1;
        task.phases = phases.iter().map(|(phase, ms)| PhaseTiming { phase: (*phase).to_owned(), ms: *ms }).collect();
        task
    }

    #[test]
    fn each_phase_is_told_once_in_its_order_as_soon_as_it_is_known() {
        let (mut phases, t) = (Phases::default(), Instant::now());
        assert!(phases.observe(&fixture::task("queued"), t).is_empty());
        let mut booting = in_phase("boot", 1);
        booting.progress.as_mut().unwrap().done = ended(&[("image", 11.0), ("disk", 3.2)]).phases;
        let lines = phases.observe(&booting, t);
        assert_eq!(lines, ["  image            11 ms", "  disk              3 ms"]);
        assert!(phases.observe(&booting, t).is_empty());
        let lines = phases.observe(&ended(&[("image", 11.0), ("disk", 3.2), ("boot", 3012.0)]), t);
        assert_eq!(lines, ["  boot             3.0 s"]);
    }

    #[test]
    fn a_phase_that_takes_long_is_told_while_it_does() {
        let (mut phases, t) = (Phases::default(), Instant::now());
        phases.observe(&in_phase("image", 1), t);
        assert_eq!(phases.slow(t + SLOW / 2), None);
        assert_eq!(phases.slow(t + SLOW).as_deref(), Some("  image …"));
        assert_eq!(phases.slow(t + SLOW * 2), None);
        phases.observe(&in_phase("boot", 1), t + SLOW * 2);
        assert_eq!(phases.slow(t + SLOW * 2), None);
    }

    #[test]
    fn another_attempt_is_said() {
        let (mut phases, t) = (Phases::default(), Instant::now());
        assert!(phases.observe(&in_phase("image", 1), t).is_empty());
        assert_eq!(phases.observe(&in_phase("image", 2), t), ["  attempt 2 of 3"]);
    }

    #[test]
    fn an_event_about_progress_says_how_far_the_task_is() {
        let mut entry = fixture::entry();
        assert!(told(&entry).is_none());
        entry.kind = "task.progress".into();
        entry.data = serde_json::json!({
            "fence": {"store_epoch": 1, "attempt": 2}, "phase": "boot", "percent": null, "log": ["started"],
        });
        let told = told(&entry).unwrap();
        assert_eq!((told.fence.attempt, told.progress.phase.as_str(), told.log.len()), (2, "boot", 1));
    }

    #[test]
    fn what_a_queued_task_waits_for_is_said() {
        let mut task = fixture::task("queued");
        assert_eq!(status(&task), "queued");
        task.waiting_for = Some(WaitingFor::Node);
        assert_eq!(status(&task), "queued: waits for its node");
        let mut task = in_phase("image", 1);
        task.progress = Some(Progress { phase: "image".into(), percent: Some(40), done: Vec::new() });
        assert_eq!(status(&task), "image 40 %");
    }
}
