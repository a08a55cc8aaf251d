//! How the program ends: exit codes, and errors that say what happened and what to do next.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the task failed, or `doctor` found a fault |
//! | 2 | the command line makes no sense |
//! | 3 | the server refused |
//! | 4 | the server cannot be reached, or cannot answer |
//! | 5 | timed out |
//! | 128 + n | ended by signal n: 130 after Ctrl-C |
//!
//! `vm exec` and `run` end with the guest's own code instead.
//!
//! An error goes to stderr: in words, or with `-o json` and `-o yaml` as a document for each.

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
};

use anstream::stderr;
use clap::builder::styling::{AnsiColor, Style};
use hostler_client::{Client, ClientError};
use hostler_model::{
    Code, Refusal,
    api::Problem,
    id::RequestId,
    name::Name,
    task::{Task, TaskState},
};
use serde_json::{Value, json};

use crate::{
    nearest::Missing,
    output::{Format, note, plain},
};

/// How the program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// As it should.
    Done,
    /// A task did not succeed, or something else did not.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// The server said no.
    Refused,
    /// No answer from the server.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// By this signal.
    Signalled(i32),
    /// As the program in the guest did.
    Guest(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Unreachable => 4,
            Exit::TimedOut => 5,
            Exit::Signalled(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Exit::Guest(code) => code,
        }
    }

    fn of_problem(problem: &Problem) -> Exit {
        match problem.status {
            504 => Exit::TimedOut,
            500.. => Exit::Unreachable,
            _ => Exit::Refused,
        }
    }

    /// How a task that ended unsuccessfully ends the program.
    fn of_task(task: &Task) -> Exit {
        match &task.error {
            Some(error) if error.code == Code::DeadlineExceeded => Exit::TimedOut,
            Some(_) | None => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why the program does not end well, for a person.
#[derive(Clone, PartialEq, Debug)]
pub struct Failure {
    /// How it ends.
    pub exit: Exit,
    message: String,
    help: Option<String>,
    code: Option<String>,
    request: Option<RequestId>,
    missing: Option<Box<Missing>>,
}

impl Failure {
    /// What happened, to what, why.
    pub fn new(exit: Exit, message: impl Display) -> Failure {
        Failure { exit, message: message.to_string(), help: None, code: None, request: None, missing: None }
    }

    /// What happened, without what to do about it.
    pub fn said(&self) -> &str {
        &self.message
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Display) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// What to do next.
    #[must_use]
    pub fn help(mut self, help: impl Display) -> Failure {
        self.help = Some(help.to_string());
        self
    }

    /// With the names that may have been meant, where something that was named is not there.
    pub async fn explained(self, client: &Client) -> Failure {
        let Some(missing) = &self.missing else { return self };
        match missing.meant(client).await {
            Some(meant) => self.help(meant),
            None => self,
        }
    }

    /// Whether [`Failure::explained`] could have more to say.
    pub fn names_something_missing(&self) -> bool {
        self.missing.is_some()
    }

    /// The reader of our output went away: that is how `| head` ends, and nothing to talk about.
    fn silent() -> Failure {
        Failure::new(Exit::Done, "")
    }

    /// A task that did not succeed.
    pub fn of_task(task: &Task) -> Failure {
        let (id, kind) = (task.id, task.kind);
        let how = match task.state {
            TaskState::Cancelled => "was cancelled".to_owned(),
            TaskState::Queued | TaskState::Running | TaskState::Aborting | TaskState::Succeeded | TaskState::Failed => {
                format!("{}: {}", task.state, task.error.as_ref().map_or("no reason was given", |error| &error.detail))
            }
        };
        Failure {
            code: task.error.as_ref().map(|error| error.code.to_string()),
            ..Failure::new(Exit::of_task(task), format!("{kind} {how}"))
        }
        .help(format!("`hostler task show {id}` tells more, `hostler task retry {id}` tries again"))
    }

    /// A machine that was made and runs, and is not what it was to become.
    pub fn not_ready(name: &Name, why: &str) -> Failure {
        Failure {
            code: Some(Code::GuestNotReady.to_string()),
            ..Failure::new(Exit::Failed, format!("{name} runs, and is not ready: {why}"))
        }
        .help(format!(
            "`hostler vm exec {name} -- tail /var/log/cloud-init-output.log` shows what was written at its first boot; \
             a machine gets only one: mend what it is told, `hostler vm delete {name}`, and create it again"
        ))
    }

    /// As it is told, in one or two lines.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        if self.message.is_empty() {
            return Vec::new();
        }
        let request = self.request.map(|id| format!("request {id}"));
        let marks: Vec<String> = self.code.clone().into_iter().chain(request).collect();
        let marks = if marks.is_empty() { String::new() } else { format!(" [{}]", marks.join(", ")) };
        let mut lines = vec![("error", plain(&format!("{}{marks}", self.message)))];
        lines.extend(self.help.as_deref().map(|help| ("help", plain(help))));
        lines
    }

    /// As a program reads it; an empty one says nothing.
    pub fn document(&self) -> Option<Value> {
        if self.message.is_empty() {
            return None;
        }
        let mut document = json!({"error": self.message, "exit_code": self.exit.code()});
        let said = [
            ("code", self.code.clone()),
            ("help", self.help.clone()),
            ("request_id", self.request.map(|id| id.to_string())),
        ];
        for (name, value) in said {
            document[name] = value.into();
        }
        Some(document)
    }

    /// Tells it on stderr, as results are told on stdout.
    pub fn tell_as(&self, format: Format) {
        match (format.is_data(), self.document()) {
            // What cannot be written as a document is told in words.
            (true, Some(document)) => format.record(&document).map_or_else(|_| self.tell(), note),
            (true, None) | (false, _) => self.tell(),
        }
    }

    /// Tells it on stderr.
    pub fn tell(&self) {
        for (word, text) in self.lines() {
            let colour = if word == "error" { AnsiColor::Red } else { AnsiColor::Cyan };
            let style = Style::new().bold().fg_color(Some(colour.into()));
            // Who has closed stderr does not want to know.
            let _ = writeln!(stderr(), "{style}{word}:{style:#} {text}");
        }
    }
}

/// What to do about a refusal whose own sentence does not say it.
fn advice(problem: &Problem) -> Option<&'static str> {
    match problem.code {
        _ if problem.detail.contains('`') => None,
        Code::Unauthenticated => Some(
            "the token is missing or not known to this server: see --token-file, HOSTLER_TOKEN and `hostler doctor`",
        ),
        Code::Forbidden => Some("ask for a token with the role that this needs"),
        Code::VmNotFound => Some("`hostler vm list` shows those there are"),
        Code::TaskNotFound => Some("`hostler task list` shows those there are"),
        Code::NodeNotFound => Some("`hostler node list` shows those there are"),
        Code::ImageNotFound => Some("`hostler image list` shows those there are"),
        Code::NoCapacity => Some("`hostler node list` shows how much room there is, and where"),
        Code::CursorExpired => Some("leave --after out to begin with what is kept"),
        Code::Overloaded | Code::Unavailable => Some("try again in a moment; `hostler doctor` tells more"),
        Code::StorageFull => Some("free some space in the server's data folder"),
        Code::Internal => Some("this is the server's fault; its log has more under the request's id"),
        _ => None,
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let request = error.request_id();
        match error {
            ClientError::Refused(problem) => Failure {
                help: advice(&problem).map(str::to_owned),
                code: Some(problem.code.to_string()),
                request,
                missing: Missing::of(&problem).map(Box::new),
                ..Failure::new(Exit::of_problem(&problem), &problem.detail)
            },
            ClientError::Unreachable { .. } => Failure::new(Exit::Unreachable, error)
                .help("`hostler dev` starts a server here; `hostler doctor` looks closer"),
            ClientError::Unreadable { .. } => {
                let exit =
                    if (400..500).contains(&error.status().unwrap_or(0)) { Exit::Refused } else { Exit::Unreachable };
                Failure::new(exit, error)
                    .help("is it a hostler of this version that answers there? `hostler doctor` looks closer")
            }
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure { code: Some(refusal.code.to_string()), ..Failure::new(Exit::Refused, refusal.detail) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::silent(),
            _ => Failure::new(Exit::Failed, format!("the output cannot be written: {error}")),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::new(Exit::Failed, format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, detail: &str) -> Failure {
        let request = "0190f1f0-0000-7000-8000-000000000001".parse().unwrap();
        ClientError::Refused(Box::new(Problem::of(Refusal::new(code, detail), Some(request)))).into()
    }

    #[test]
    fn every_way_to_end_has_its_number() {
        let ends = [
            (Exit::Done, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::Refused, 3),
            (Exit::Unreachable, 4),
            (Exit::TimedOut, 5),
            (Exit::Signalled(2), 130),
            (Exit::Signalled(15), 143),
            (Exit::Guest(7), 7),
        ];
        for (exit, code) in ends {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn a_no_is_3_and_no_answer_is_4() {
        for code in [Code::VmNotFound, Code::QuotaExceeded, Code::Unauthenticated, Code::ValidationError] {
            assert_eq!(refused(code, "no").exit, Exit::Refused, "{code}");
        }
        for code in [Code::Overloaded, Code::Unavailable, Code::Internal] {
            assert_eq!(refused(code, "no").exit, Exit::Unreachable, "{code}");
        }
        let source = hostler_link::LinkError::TimedOut { after: std::time::Duration::from_secs(1) };
        let gone = ClientError::Unreachable { call: "GET /x".into(), source };
        assert_eq!(Failure::from(gone).exit, Exit::Unreachable);
    }

    #[test]
    fn a_refusal_is_told_with_its_request_and_what_to_do() {
        assert_eq!(
            refused(Code::VmNotFound, "there is no VM \"x\"").lines(),
            [
                (
                    "error",
                    "there is no VM \"x\" [VM_NOT_FOUND, request 0190f1f0-0000-7000-8000-000000000001]".to_owned()
                ),
                ("help", "`hostler vm list` shows those there are".to_owned()),
            ]
        );
        // The server's own advice is enough.
        assert_eq!(refused(Code::ImageNotFound, "no image; `hostler image list` shows them").lines().len(), 1);
    }

    #[test]
    fn a_program_reads_the_code_and_what_to_do() {
        let document = refused(Code::VmNotFound, "there is no VM").document().unwrap();
        assert_eq!(document["code"], "VM_NOT_FOUND");
        assert_eq!(document["exit_code"], 3);
        assert_eq!(document["request_id"], "0190f1f0-0000-7000-8000-000000000001");
        assert!(document["help"].as_str().unwrap().contains("hostler vm list"));
        assert_eq!(Failure::usage("no").document().unwrap()["code"], Value::Null);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.lines()), (Exit::Done, vec![]));
    }
}
