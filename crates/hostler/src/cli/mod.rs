//! The client's verbs, one file for each family. A verb reads its flags, calls the server, waits where it is asked to,
//! prints. What they share is here: the flags of all of them, and a session with the server.

pub mod doctor;
pub mod event;
pub mod exec;
#[cfg(test)]
pub mod fixture;
mod host;
pub mod image;
pub mod node;
pub mod read;
pub mod run;
pub mod task;
pub mod vm;

use std::{collections::BTreeMap, time::Duration};

use hostler_client::Client;
use hostler_model::{
    Clock, NodeId, Timestamp,
    task::{Task, TaskState},
};
use serde::Serialize;

use crate::{
    context::ServerArgs,
    exit::{Exit, Failure},
    interrupt::Interrupt,
    output::{self, Format},
    watch::{Tell, Watched, status, watch},
};

/// The flags that every verb has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Globals {
    /// Where the server is.
    #[command(flatten)]
    pub server: ServerArgs,

    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t, env = "HOSTLER_OUTPUT", value_name = "FORMAT")]
    pub output: Format,
}

impl Globals {
    /// A session with the server. Nothing is sent yet.
    pub fn session(&self) -> Result<Session, Failure> {
        Ok(Session { client: self.server.context()?.client()?, format: self.output, clock: Clock::system() })
    }
}

/// What a verb works with.
#[derive(Debug)]
pub struct Session {
    /// The server.
    pub client: Client,
    format: Format,
    clock: Clock,
}

/// How long to wait.
#[derive(Clone, Debug, clap::Args)]
pub struct WaitArgs {
    /// Do not wait for the end
    #[arg(long)]
    pub no_wait: bool,

    /// Wait no longer than this; the task goes on
    #[arg(long, value_name = "TIME", value_parser = read::duration, default_value = "10m", conflicts_with = "no_wait")]
    pub timeout: Duration,
}

impl Session {
    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Prints a result: as JSON, or as the text made for people.
    pub fn print(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => output::json(value)?,
            Format::Table => output::text(&text())?,
        }
        Ok(())
    }

    /// Whether results are for programs.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// The task once it ended, however it did.
    pub async fn ended(&self, task: Task, limit: Option<Duration>, tell: Tell) -> Result<Task, Failure> {
        let mut interrupt = Interrupt::listen()?;
        match watch(&self.client, task, limit, &mut interrupt, tell).await? {
            Watched::Ended(task) => Ok(task),
            Watched::TimedOut(task) => Err(goes_on(&task, Exit::TimedOut, "time is over")),
            Watched::Signalled(task, signal) => Err(goes_on(&task, Exit::Signalled(signal), "interrupted")),
        }
    }

    /// Nodes by id, for tables. Who may not see nodes sees their ids.
    pub async fn node_names(&self) -> NodeNames {
        let nodes = self.client.nodes().await.unwrap_or_default();
        NodeNames(nodes.into_iter().map(|node| (node.id, node.name.to_string())).collect())
    }
}

/// That a wait ended before its task did.
fn goes_on(task: &Task, exit: Exit, why: &str) -> Failure {
    let id = task.id;
    Failure::new(exit, format!("{why}; the task goes on: {} {id} ({})", task.kind, status(task)))
        .help(format!("`hostler task watch {id}` waits again, `hostler task cancel {id}` stops it"))
}

/// The task, if it did what it should.
pub fn succeeded(task: Task) -> Result<Task, Failure> {
    match task.state {
        TaskState::Succeeded => Ok(task),
        TaskState::Queued | TaskState::Running | TaskState::Aborting | TaskState::Failed | TaskState::Cancelled => {
            Err(Failure::of_task(&task))
        }
    }
}

/// The names of nodes.
#[derive(Debug, Default)]
pub struct NodeNames(pub BTreeMap<NodeId, String>);

impl NodeNames {
    /// A node's name; the end of its id where the name is not known, a dash where there is no node.
    pub fn of(&self, node: Option<NodeId>) -> String {
        match node {
            Some(id) => self.0.get(&id).cloned().unwrap_or_else(|| format!("…{}", id.short())),
            None => "-".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stops_waiting_is_told_how_to_go_on() {
        let failure = goes_on(&fixture::task("running"), Exit::Signalled(2), "interrupted");
        assert_eq!(failure.exit.code(), 130);
        let lines = failure.lines();
        assert!(lines[0].1.contains("the task goes on"), "{lines:?}");
        assert!(lines[1].1.contains("hostler task cancel 0190f1f0-0000-7000-8000-000000000001"), "{lines:?}");
    }

    #[test]
    fn only_success_is_success() {
        assert!(succeeded(fixture::task("succeeded")).is_ok());
        for state in ["failed", "cancelled"] {
            assert_eq!(succeeded(fixture::task(state)).unwrap_err().exit, Exit::Failed);
        }
    }
}
