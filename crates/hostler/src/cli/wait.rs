//! Waiting for a task's end, for every verb that makes one; and what becomes of the task when Ctrl-C ends the waiting.
//!
//! ```text
//! Ctrl-C ─► on a terminal: cancel or leave? ─ c ─► cancelled, and waited for ─ Ctrl-C ─► left
//!        │                                  ├ l, Enter, Ctrl-C ─► left
//!        │                                  └ it ends by itself ─► its end
//!        └► elsewhere: left, with its id and how to go on
//! ```

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use clap::builder::FalseyValueParser;
use hostler_model::{Code, task::Task};

use super::{Session, read};
use crate::{
    exit::{Exit, Failure},
    interrupt::{INTERRUPT, Interrupt},
    output::note,
    terminal::Keys,
    watch::{Tell, Watched, status, watch},
};

/// Whether to wait.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct NoWaitArgs {
    /// Do not wait for the end
    #[arg(long, env = "HOSTLER_NO_WAIT", value_parser = FalseyValueParser::new(), overrides_with = "wait")]
    no_wait: bool,

    /// Wait for the end, as without any flag: for when HOSTLER_NO_WAIT is set
    #[arg(long, env = "HOSTLER_WAIT", value_parser = FalseyValueParser::new())]
    wait: bool,
}

impl NoWaitArgs {
    /// Whether to come back at once.
    pub fn no_wait(self) -> bool {
        self.no_wait && !self.wait
    }
}

/// How long to wait.
#[derive(Clone, Debug, clap::Args)]
pub struct WaitArgs {
    #[command(flatten)]
    whether: NoWaitArgs,

    /// Wait no longer than this; the task goes on
    #[arg(long, env = "HOSTLER_TIMEOUT", value_name = "TIME", value_parser = read::duration, default_value = "10m")]
    pub timeout: Duration,
}

impl WaitArgs {
    /// Whether to come back at once.
    pub fn no_wait(&self) -> bool {
        self.whether.no_wait()
    }
}

impl Session {
    /// The task once it ended, however it did.
    pub async fn ended(&self, task: Task, limit: Option<Duration>, tell: Tell) -> Result<Task, Failure> {
        let mut interrupt = Interrupt::listen()?;
        match watch(&self.client, task, limit, &mut interrupt, tell).await? {
            Watched::Ended(task) => Ok(task),
            Watched::TimedOut(task) => Err(goes_on(&task, Exit::TimedOut, "time is over")),
            Watched::Signalled(task, INTERRUPT) => self.interrupted(task, &mut interrupt, tell).await,
            Watched::Signalled(task, signal) => Err(goes_on(&task, Exit::Signalled(signal), "interrupted")),
        }
    }

    /// After Ctrl-C: cancels the task and waits for its end, or leaves it.
    async fn interrupted(&self, task: Task, interrupt: &mut Interrupt, tell: Tell) -> Result<Task, Failure> {
        let left = |task: &Task| Err(goes_on(task, Exit::Signalled(INTERRUPT), "interrupted"));
        let what = format!("{} {}", task.kind, task.id);
        let answer = tokio::select! {
            biased;
            answer = ask(&what, interrupt) => answer,
            ended = self.ended_by_itself(task.clone()) => return Ok(ended),
        };
        if answer == Answer::Leave {
            return left(&task);
        }
        let task = match self.client.cancel_task(task.id).await {
            // It ended before the key: that end is what there is to show.
            Err(error) if error.problem().is_some_and(|problem| problem.code == Code::TaskStateConflict) => {
                self.client.task(task.id).await?
            }
            answer => answer?,
        };
        match watch(&self.client, task, None, interrupt, tell).await? {
            Watched::Ended(task) => Ok(task),
            Watched::TimedOut(task) | Watched::Signalled(task, _) => left(&task),
        }
    }

    /// The task once it ended, while somebody is asked what is to become of it. What goes wrong with this look is said
    /// by the next one.
    async fn ended_by_itself(&self, task: Task) -> Task {
        if let Ok(mut own) = Interrupt::listen()
            && let Ok(Watched::Ended(task)) = watch(&self.client, task, None, &mut own, Tell::Nothing).await
        {
            return task;
        }
        std::future::pending().await
    }
}

/// What becomes of what was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is stopped.
    Cancel,
    /// It goes on.
    Leave,
}

/// What is to become of it, after Ctrl-C. Where nobody can be asked, it is left.
pub async fn ask(what: &str, interrupt: &mut Interrupt) -> Answer {
    let keys = if stderr().is_terminal() { Keys::open() } else { None };
    let Some(mut keys) = keys else { return Answer::Leave };
    note(format_args!("{what} goes on by itself. (c)ancel it, or (l)eave it? [l]"));
    loop {
        let key = tokio::select! {
            _ = interrupt.caught() => return Answer::Leave,
            key = keys.next() => key,
        };
        match key {
            'c' => return Answer::Cancel,
            'l' | '\n' | '\r' => return Answer::Leave,
            _ => {}
        }
    }
}

/// That a wait ended before its task did.
pub fn goes_on(task: &Task, exit: Exit, why: &str) -> Failure {
    let id = task.id;
    Failure::new(exit, format!("{why}; the task goes on: {} {id} ({})", task.kind, status(task)))
        .help(format!("`hostler task watch {id}` waits again, `hostler task cancel {id}` stops it"))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;
    use crate::cli::fixture;

    fn args(line: &str) -> WaitArgs {
        let command = WaitArgs::augment_args(clap::Command::new("x"));
        WaitArgs::from_arg_matches(&command.get_matches_from(line.split(' '))).unwrap()
    }

    #[test]
    fn waiting_is_what_happens_unless_it_is_not_wanted() {
        assert!(!args("x").no_wait() && !args("x --wait").no_wait());
        assert!(args("x --no-wait").no_wait() && args("x --no-wait --timeout 5s").no_wait());
        assert!(!args("x --no-wait --wait").no_wait());
    }

    #[test]
    fn who_stops_waiting_is_told_how_to_go_on() {
        let failure = goes_on(&fixture::task("running"), Exit::Signalled(2), "interrupted");
        assert_eq!(failure.exit.code(), 130);
        let lines = failure.lines();
        assert!(lines[0].1.contains("the task goes on"), "{lines:?}");
        assert!(lines[1].1.contains("hostler task cancel 0190f1f0-0000-7000-8000-000000000001"), "{lines:?}");
    }
}
