//! A client of QMP, QEMU's control socket: a greeting, then one JSON object per line each way, and events in between.
//!
//! ```text
//! connected ──greeting──► qmp_capabilities ──answered──► open: commands matched by id, events noted
//!                                                          └──end of file, rubbish──► closed: whoever waits is told
//! ```
//!
//! One task owns the connection; it ends when the client is dropped. QEMU serves one client at a time.

pub(super) mod edit;
mod job;
mod state;

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};

pub(super) use self::{job::Job, state::Top};
use crate::host::line::Lines;

/// How long a command may take. QEMU answers within a millisecond, but its main loop stands still while the host's disk
/// does.
const ANSWER: Duration = Duration::from_secs(10);

/// Between two attempts to connect to a QEMU that is starting: a fraction of the 20 ms that it takes at best.
const CONNECT_AGAIN: Duration = Duration::from_millis(2);

/// The longest line that is read. QEMU's longest answers to our commands are a few hundred bytes.
const LINE_LIMIT: usize = 1024 * 1024;

/// What went wrong between us and QMP.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    #[error("QEMU's control socket {path} cannot be used: {source}", path = path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("QEMU closed its control socket")]
    Closed,
    #[error("QEMU did not answer its control socket within {} s", .0.as_secs_f64())]
    Silent(Duration),
    #[error("QEMU's answer cannot be read: {0}")]
    Malformed(String),
    #[error("QEMU refused {command}: {description}")]
    Refused { command: &'static str, description: String },
}

/// The commands that are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Command {
    #[serde(rename = "qmp_capabilities")]
    Capabilities,
    QueryStatus,
    Quit,
    Stop,
    Cont,
    #[serde(rename = "system_powerdown")]
    PowerButton,
    #[serde(rename = "system_reset")]
    ResetButton,
    /// A line of QEMU's own monitor: for what it can do by no other command.
    #[serde(rename = "human-monitor-command")]
    Monitor,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Command::Capabilities => "qmp_capabilities",
            Command::QueryStatus => "query-status",
            Command::Quit => "quit",
            Command::Stop => "stop",
            Command::Cont => "cont",
            Command::PowerButton => "system_powerdown",
            Command::ResetButton => "system_reset",
            Command::Monitor => "human-monitor-command",
        }
    }
}

#[derive(Serialize)]
struct Request<'a> {
    execute: &'a str,
    #[serde(skip_serializing_if = "Value::is_null")]
    arguments: &'a Value,
    id: u64,
}

/// Everything that QEMU says.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Message {
    Greeting {
        #[serde(rename = "QMP")]
        _qmp: Value,
    },
    Event {
        event: String,
        #[serde(default)]
        data: Value,
    },
    Return {
        #[serde(rename = "return")]
        value: Value,
        id: u64,
    },
    Error {
        error: Refusal,
        id: Option<u64>,
    },
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

/// Why QEMU is about to end: the reason in its SHUTDOWN event.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Shutdown {
    /// The guest turned itself off.
    #[serde(rename = "guest-shutdown")]
    Guest,
    /// The guest's kernel panicked and said so.
    GuestPanic,
    /// `quit` over this socket, or another client's.
    HostQmpQuit,
    /// SIGTERM, SIGINT or SIGHUP.
    HostSignal,
    /// Another.
    #[serde(untagged)]
    Other(String),
}

#[derive(Deserialize)]
struct ShutdownData {
    reason: Shutdown,
}

#[derive(Deserialize)]
struct StatusAnswer {
    status: String,
}

/// A command on its way to QEMU, perhaps with an open file.
#[derive(Debug)]
struct Asked {
    execute: &'static str,
    arguments: Value,
    file: Option<OwnedFd>,
    told: Waiting,
}

type Waiting = oneshot::Sender<Result<Value, String>>;

/// A connection to one QEMU.
#[derive(Debug)]
pub(super) struct Qmp {
    commands: mpsc::UnboundedSender<Asked>,
    notes: watch::Receiver<Notes>,
    runs: watch::Receiver<Option<bool>>,
}

/// What QEMU's events have said so far.
#[derive(Clone, Default, Debug)]
struct Notes {
    shutdown: Option<Shutdown>,
    /// How often the machine was reset.
    resets: u64,
    /// How often one of its jobs has changed.
    jobs: u64,
}

impl Qmp {
    /// Connects to a QEMU that may still be starting, and negotiates.
    pub(super) async fn connect(path: &Path, patience: Duration) -> Result<Qmp, QmpError> {
        let end = Instant::now() + patience;
        let stream = loop {
            match UnixStream::connect(path).await {
                Ok(stream) => break stream,
                Err(source) if Instant::now() >= end => return Err(QmpError::Socket { path: path.to_owned(), source }),
                Err(_) => sleep(CONNECT_AGAIN).await,
            }
        };
        let left = end.saturating_duration_since(Instant::now());
        timeout(left, Qmp::negotiate(stream)).await.unwrap_or(Err(QmpError::Silent(patience)))
    }

    /// Negotiates over a connection that is there.
    pub(super) async fn negotiate(stream: UnixStream) -> Result<Qmp, QmpError> {
        let mut lines = Lines::new(stream, LINE_LIMIT);
        let greeting =
            lines.next().await.map_err(|error| QmpError::Malformed(error.to_string()))?.ok_or(QmpError::Closed)?;
        match serde_json::from_slice(&greeting) {
            Ok(Message::Greeting { .. }) => {}
            Ok(other) => return Err(QmpError::Malformed(format!("no greeting, but {other:?}"))),
            Err(error) => return Err(QmpError::Malformed(error.to_string())),
        }
        let (commands, asked) = mpsc::unbounded_channel();
        let (note, notes) = watch::channel(Notes::default());
        let (note_run, runs) = watch::channel(None);
        tokio::spawn(Connection { lines, waiting: HashMap::new(), last_id: 0, note, note_run }.serve(asked));
        let qmp = Qmp { commands, notes, runs };
        qmp.execute(Command::Capabilities).await?;
        Ok(qmp)
    }

    /// `running`, `paused`, `shutdown` …
    pub(super) async fn status(&self) -> Result<String, QmpError> {
        let answer = self.execute(Command::QueryStatus).await?;
        let status: StatusAnswer =
            serde_json::from_value(answer).map_err(|error| QmpError::Malformed(error.to_string()))?;
        Ok(status.status)
    }

    /// Tells QEMU to end at once.
    pub(super) async fn quit(&self) -> Result<(), QmpError> {
        match self.execute(Command::Quit).await {
            // It may be gone before its answer has left.
            Ok(_) | Err(QmpError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Holds the processors.
    pub(super) async fn stop(&self) -> Result<(), QmpError> {
        self.execute(Command::Stop).await.map(drop)
    }

    /// Lets the processors run.
    pub(super) async fn cont(&self) -> Result<(), QmpError> {
        self.execute(Command::Cont).await.map(drop)
    }

    /// Presses the power button: what happens then is the guest's affair.
    pub(super) async fn press_power(&self) -> Result<(), QmpError> {
        self.execute(Command::PowerButton).await.map(drop)
    }

    /// Presses the reset button.
    pub(super) async fn press_reset(&self) -> Result<(), QmpError> {
        self.execute(Command::ResetButton).await.map(drop)
    }

    /// Whether the processors run, as the last event said; nothing before the first.
    pub(super) fn runs_or_not(&self) -> watch::Receiver<Option<bool>> {
        self.runs.clone()
    }

    /// How often the machine was reset since this connection began.
    pub(super) fn resets(&self) -> u64 {
        self.notes.borrow().resets
    }

    /// Waits until the machine was reset more often than this; an error when the connection ended before.
    pub(super) async fn reset_after(&self, before: u64) -> Result<(), QmpError> {
        let mut notes = self.notes.clone();
        notes.wait_for(|notes| notes.resets > before).await.map(drop).map_err(|_| QmpError::Closed)
    }

    /// How much news of jobs there was since this connection began.
    pub(super) fn job_news(&self) -> u64 {
        self.notes.borrow().jobs
    }

    /// Waits until there is more than that; an error when the connection ended before.
    pub(super) async fn job_news_after(&self, before: u64) -> Result<(), QmpError> {
        let mut notes = self.notes.clone();
        notes.wait_for(|notes| notes.jobs > before).await.map(drop).map_err(|_| QmpError::Closed)
    }

    /// What QEMU's own monitor says to a line.
    pub(super) async fn monitor(&self, line: &str) -> Result<String, QmpError> {
        self.say(line, ANSWER).await
    }

    /// The same, for what may take so long.
    async fn say(&self, line: &str, patience: Duration) -> Result<String, QmpError> {
        let said = self.ask(Command::Monitor.name(), json!({ "command-line": line }), None, patience).await?;
        said.as_str().map(str::to_owned).ok_or_else(|| QmpError::Malformed(said.to_string()))
    }

    async fn execute(&self, command: Command) -> Result<Value, QmpError> {
        self.ask(command.name(), Value::Null, None, ANSWER).await
    }

    /// Any command, with its arguments and an open file that it refers to.
    async fn ask(
        &self,
        execute: &'static str,
        arguments: Value,
        file: Option<OwnedFd>,
        patience: Duration,
    ) -> Result<Value, QmpError> {
        let (told, tell) = oneshot::channel();
        self.commands.send(Asked { execute, arguments, file, told }).map_err(|_| QmpError::Closed)?;
        match timeout(patience, tell).await {
            Ok(Ok(answer)) => answer.map_err(|description| QmpError::Refused { command: execute, description }),
            Ok(Err(_)) => Err(QmpError::Closed),
            Err(_) => Err(QmpError::Silent(patience)),
        }
    }

    /// The reason for which QEMU ends, once it has said so; `None` when the connection ended without one.
    pub(super) async fn shutdown(&self) -> Option<Shutdown> {
        let mut notes = self.notes.clone();
        notes.wait_for(|notes| notes.shutdown.is_some()).await.ok()?.shutdown.clone()
    }
}

/// The task's side of a connection.
struct Connection {
    lines: Lines<UnixStream>,
    waiting: HashMap<u64, Waiting>,
    last_id: u64,
    note: watch::Sender<Notes>,
    note_run: watch::Sender<Option<bool>>,
}

impl Connection {
    /// Until either side has had enough. Dropping `waiting` tells those who wait.
    async fn serve(mut self, mut asked: mpsc::UnboundedReceiver<Asked>) {
        loop {
            let goes_on = tokio::select! {
                command = asked.recv() => match command {
                    Some(asked) => self.send(asked).await,
                    None => false,
                },
                line = self.lines.next() => matches!(line, Ok(Some(line)) if self.hear(&line)),
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn send(&mut self, asked: Asked) -> bool {
        self.last_id += 1;
        let Asked { execute, arguments, file, told } = asked;
        let request = Request { execute, arguments: &arguments, id: self.last_id };
        let mut line = serde_json::to_vec(&request).expect("a command is plain data");
        line.push(b'\n');
        self.waiting.insert(self.last_id, told);
        let stream = self.lines.get_mut();
        let written = async {
            let begun = match &file {
                Some(file) => send_file(stream, &line, file).await?,
                None => 0,
            };
            stream.write_all(&line[begun..]).await
        };
        matches!(timeout(ANSWER, written).await, Ok(Ok(())))
    }

    /// Says whether the connection can go on. What nobody waits for, and events that mean nothing to us, are passed over.
    fn hear(&mut self, line: &[u8]) -> bool {
        match serde_json::from_slice(line) {
            Ok(Message::Return { value, id }) => self.tell(id, Ok(value)),
            Ok(Message::Error { error, id }) => self.tell(id.unwrap_or_default(), Err(error.desc)),
            Ok(Message::Event { event, data }) if event == "SHUTDOWN" => {
                let reason = serde_json::from_value(data).map(|data: ShutdownData| data.reason);
                let reason = reason.unwrap_or(Shutdown::Other("unknown".to_owned()));
                self.note.send_modify(|notes| notes.shutdown = Some(reason));
            }
            Ok(Message::Event { event, .. }) if event == "RESET" => {
                self.note.send_modify(|notes| notes.resets += 1);
            }
            Ok(Message::Event { event, .. }) if event == "JOB_STATUS_CHANGE" => {
                self.note.send_modify(|notes| notes.jobs += 1);
            }
            Ok(Message::Event { event, .. }) if event == "STOP" => drop(self.note_run.send_replace(Some(false))),
            Ok(Message::Event { event, .. }) if event == "RESUME" => drop(self.note_run.send_replace(Some(true))),
            Ok(Message::Event { .. } | Message::Greeting { .. }) => {}
            Err(_) => return false,
        }
        true
    }

    fn tell(&mut self, id: u64, answer: Result<Value, String>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            let _ = waiting.send(answer);
        }
    }
}

/// Sends the beginning of a line together with an open file; says how much of it.
async fn send_file(stream: &UnixStream, line: &[u8], file: &OwnedFd) -> io::Result<usize> {
    let files = [file.as_fd()];
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut with = SendAncillaryBuffer::new(&mut space);
            with.push(SendAncillaryMessage::ScmRights(&files));
            Ok(sendmsg(stream, &[IoSlice::new(line)], &mut with, SendFlags::empty())?)
        })
        .await
}

#[cfg(test)]
mod tests;
