//! What a watch tells: each phase with its time, the lines that handlers wrote, and on a terminal what is under way.
//!
//! Lines that a handler wrote in a phase stand above that phase's time.

use std::time::Duration;

use hostler_client::Client;
use hostler_model::{
    task::{Progress, Task, TaskState, WaitingFor},
    task_log::{Author, Line as Said},
};
use tokio::time::Instant;

use crate::{
    line::Line,
    output::{millis, note, paint, plain, took},
};

/// How long a phase may take before it is named where there is no terminal.
const SLOW: Duration = Duration::from_secs(5);

/// What is told while we watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tell {
    /// Phases, lines, and what is under way where there is a terminal.
    Live,
    /// Phases and lines: a program reads the result.
    Lines,
    /// Nothing: a program's output is what counts.
    Nothing,
}

/// Where it is told.
pub(super) struct View {
    tell: Tell,
    phases: Phases,
    line: Line,
    /// The last line of the task's log that was told.
    told: i64,
}

impl View {
    pub(super) fn new(tell: Tell) -> View {
        View { tell, phases: Phases::default(), line: Line::new(tell == Tell::Live), told: 0 }
    }

    /// Tells what is new of the task. `said` is what [`View::heard`] got for it.
    pub(super) fn show(&mut self, task: &Task, said: Vec<Said>) {
        if self.tell == Tell::Nothing {
            return;
        }
        for line in &said {
            self.told = self.told.max(line.number);
            if is_news(line, task) {
                self.line.print(&paint::faint(&format!("  | {}", plain(&line.text))));
            }
        }
        let now = Instant::now();
        for step in self.phases.observe(task, now) {
            self.line.print(&step);
        }
        if task.state.is_terminal() {
            return;
        }
        if self.line.is_drawn() {
            let (words, percent) = under_way(task);
            self.line.say(&words, percent);
        } else {
            self.phases.slow(now).iter().for_each(note);
        }
    }

    /// What was written since the last time. Lines help a person: that there are none to be had ends no watch.
    pub(super) async fn heard(&self, client: &Client, task: &Task) -> Vec<Said> {
        let (mut said, mut after) = (Vec::new(), self.told);
        if self.tell == Tell::Nothing || task.fence.attempt == 0 {
            return said;
        }
        while let Ok(log) = client.task_log(task.id, after, Duration::ZERO).await {
            let over = log.lines.is_empty() || log.ended || !task.state.is_terminal();
            said.extend(log.lines);
            after = log.next;
            if over {
                break;
            }
        }
        said
    }

    pub(super) fn say(&mut self, words: &str) {
        self.line.say(words, None);
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.line.clear();
    }
}

/// Whether a line says what nothing else does: attempts are told with the phases, and how the task ended by its end.
fn is_news(line: &Said, task: &Task) -> bool {
    let is_mark = || line.text == format!("attempt {} of {}", line.attempt, task.max_attempts);
    match line.by {
        Author::Node => true,
        Author::Server => !is_mark() && (line.attempt < task.fence.attempt || !task.state.is_terminal()),
    }
}

/// What is under way, in a few words.
pub fn status(task: &Task) -> String {
    match under_way(task) {
        (words, Some(percent)) => format!("{words} {percent} %"),
        (words, None) => words,
    }
}

/// What is under way, in a few words, and how much of it is done where that is known.
fn under_way(task: &Task) -> (String, Option<u8>) {
    let words = match (task.state, task.waiting_for, &task.progress) {
        (TaskState::Queued, Some(WaitingFor::Time), _) => "queued: waits for its next attempt".to_owned(),
        (TaskState::Queued, Some(WaitingFor::Turn), _) => "queued: waits for another task on this machine".to_owned(),
        (TaskState::Queued, Some(WaitingFor::Capacity), _) => "queued: waits for a node with room".to_owned(),
        (TaskState::Queued, Some(WaitingFor::Node), _) => "queued: waits for its node".to_owned(),
        (TaskState::Queued, Some(WaitingFor::Paused), _) => "queued: its node's queue is paused".to_owned(),
        (TaskState::Running, _, Some(Progress { phase, percent, .. })) if !phase.is_empty() => {
            return (phase.clone(), *percent);
        }
        (TaskState::Aborting, ..) => "is being stopped and undone".to_owned(),
        (state, ..) => state.to_string(),
    };
    (words, None)
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
    fn what_a_queued_task_waits_for_is_said() {
        let mut task = fixture::task("queued");
        assert_eq!(status(&task), "queued");
        task.waiting_for = Some(WaitingFor::Node);
        assert_eq!(status(&task), "queued: waits for its node");
        let mut task = in_phase("image", 1);
        task.progress = Some(Progress { phase: "image".into(), percent: Some(40), done: Vec::new() });
        assert_eq!(status(&task), "image 40 %");
    }

    #[test]
    fn a_line_that_something_else_says_is_not_told_again() {
        let line = |by, attempt, text: &str| Said { number: 1, at: fixture::NOW, attempt, by, text: text.into() };
        let (mut running, mut failed) = (in_phase("boot", 2), fixture::failed_task());
        (running.max_attempts, failed.fence.attempt) = (3, 2);
        assert!(is_news(&line(Author::Node, 2, "attempt 2 of 3"), &running));
        assert!(!is_news(&line(Author::Server, 2, "attempt 2 of 3"), &running));
        let again = line(Author::Server, 1, "failed: no answer; again in 5 s");
        assert!(is_news(&again, &running) && is_news(&again, &failed));
        assert!(!is_news(&line(Author::Server, 2, "failed: no answer"), &failed), "its end says so");
    }
}
