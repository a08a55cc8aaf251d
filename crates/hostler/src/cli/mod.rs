//! The client's verbs, one file for each family. A verb reads its flags, calls the server, waits where it is asked to,
//! prints. What they share is here: the flags of all of them, and a session with the server.

pub mod audit;
pub mod config;
pub mod context;
pub mod doctor;
pub mod event;
pub mod exec;
pub mod explain;
#[cfg(test)]
pub mod fixture;
mod host;
pub mod image;
pub mod key;
pub mod live;
pub mod login;
pub mod node;
pub mod quota;
pub mod read;
pub mod run;
mod schedule;
pub mod service_account;
pub mod snapshot;
pub mod task;
pub mod tenant;
pub mod token;
pub mod top;
pub mod vm;
mod wait;
pub mod whoami;

use std::collections::BTreeMap;

use hostler_client::Client;
use hostler_model::{
    Clock, NodeId, Timestamp,
    task::{Task, TaskState},
};
use serde::Serialize;

pub use self::{
    live::WatchArgs,
    schedule::ScheduleArgs,
    wait::{Answer, NoWaitArgs, WaitArgs, ask, goes_on},
};
use crate::{
    context::ServerArgs,
    exit::Failure,
    output::{self, Format, Human, OutputArgs, Style},
    watch::Tell,
};

/// The flags that every verb has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Globals {
    /// Where the server is.
    #[command(flatten)]
    pub server: ServerArgs,

    /// How results are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl Globals {
    /// A session with the server. Nothing is sent yet.
    pub fn session(&self) -> Result<Session, Failure> {
        let client = self.server.context()?.client()?.for_tenant(self.server.tenant.clone());
        Ok(Session { client, format: self.output.output, style: self.output.style(), clock: Clock::system() })
    }

    /// A failure with the names that may have been meant, if the server knows some.
    pub async fn explained(&self, failure: Failure) -> Failure {
        match self.session() {
            Ok(session) if failure.names_something_missing() => failure.explained(&session.client).await,
            Ok(_) | Err(_) => failure,
        }
    }
}

/// What a verb works with.
#[derive(Debug)]
pub struct Session {
    /// The server.
    pub client: Client,
    format: Format,
    style: Style,
    clock: Clock,
}

impl Session {
    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Prints a result: for programs, or as what was made for people.
    pub fn print<H: Human>(&self, value: &impl Serialize, human: impl FnOnce() -> H) -> Result<(), Failure> {
        if self.is_data() {
            return self.data(value);
        }
        self.text(&human())
    }

    /// Prints a result for programs.
    pub fn data(&self, value: &impl Serialize) -> Result<(), Failure> {
        Ok(output::text(&self.format.document(value)?)?)
    }

    /// Prints a result for people.
    pub fn text(&self, human: &impl Human) -> Result<(), Failure> {
        Ok(output::text(&human.text(&self.style))?)
    }

    /// One of many results for programs.
    pub fn record(&self, value: &impl Serialize) -> Result<String, Failure> {
        Ok(self.format.record(value)?)
    }

    /// Tells a failure that is not the last word.
    pub fn complain(&self, failure: &Failure) {
        failure.tell_as(self.format);
    }

    /// Whether results are for programs.
    pub fn is_data(&self) -> bool {
        self.format.is_data()
    }

    /// What is told while a task is waited for: nothing is drawn beside what a program reads.
    pub fn tell(&self) -> Tell {
        if self.is_data() { Tell::Lines } else { Tell::Live }
    }

    /// Nodes by id, for tables. Who may not see nodes sees their ids. Programs get ids, and need no names.
    pub async fn node_names(&self) -> NodeNames {
        if self.is_data() {
            return NodeNames::default();
        }
        let nodes = self.client.nodes().await.unwrap_or_default();
        NodeNames(nodes.into_iter().map(|node| (node.id, node.name.to_string())).collect())
    }
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
    use crate::exit::Exit;

    #[test]
    fn only_success_is_success() {
        assert!(succeeded(fixture::task("succeeded")).is_ok());
        for state in ["failed", "cancelled"] {
            assert_eq!(succeeded(fixture::task(state)).unwrap_err().exit, Exit::Failed);
        }
    }
}
