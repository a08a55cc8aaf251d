//! The guest's side: a client of the QEMU guest agent, over the unix socket of its virtio port.
//!
//! ```text
//! closed ──connect, guest-sync-delimited──► synchronised ──command, reply──► synchronised
//!    ▲                                            │
//!    └──────── an error, a timeout, a dropped caller: what is on its way belongs to nobody
//! ```
//!
//! The agent serves one client at a time and one command at a time, so commands of one machine take turns; a long
//! program holds no turn while it runs. The connection is kept between commands: without a client the agent in the
//! guest looks for one ten times a second only. Nothing here knows the hypervisor, tasks or the server.

mod exec;
mod wire;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    sync::{Mutex, watch},
    time::{Instant, timeout},
};

use self::wire::{Answer, Command, Nothing};
use crate::host::line::{Lines, Long};

pub use exec::{ExecError, exec};
pub use wire::Mode;

/// How long the guest may be silent within a command. A guest agent answers in milliseconds; ten seconds allow for a
/// guest that swaps or whose host emulates its processor under load.
const SILENCE: Duration = Duration::from_secs(10);

/// How long one attempt to reach a booting guest waits before it begins anew. The bytes of an attempt wait in the
/// socket until the guest opens its port, so a long attempt loses no time; a new one repairs what a restarting agent
/// swallowed.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long a guest may take to show that it hears us, past whatever it still owed an earlier caller: that is at most
/// one longest answer, which an emulated guest needs seconds for.
const SYNC: Duration = Duration::from_secs(60);

/// How long a guest may take over what is done for it while others wait, such as setting its clock.
const PROMPT: Duration = Duration::from_secs(5);

/// The longest answer to anything but a look at a program: a pid, or an error.
const SHORT_ANSWER_LIMIT: usize = 64 * 1024;

/// How long a guest may take to refuse to turn itself off: what it does instead of answering takes longer.
const REFUSAL: Duration = Duration::from_secs(5);

/// How much of a guest's own words is shown.
const WORDS_LIMIT: usize = 300;

/// The longest answer to a look at a program: two streams of 16 MiB (where the guest agent itself cuts) in base64, and the JSON around them.
const ANSWER_LIMIT: usize = 45 * 1024 * 1024;

/// What went wrong between us and the guest agent.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The socket cannot be reached, or broke.
    #[error("the socket of the guest agent {path} cannot be used: {source}", path = path.display())]
    Socket {
        /// Which socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other side closed the connection.
    #[error(
        "the connection to the guest agent was closed while it owed an answer; the guest may have been turned off or reset"
    )]
    Closed,
    /// Nothing came for so long.
    #[error("the guest agent did not answer within {}", seconds(*.0))]
    Silent(Duration),
    /// What came is not what the protocol says.
    #[error("the guest agent's answer cannot be read: {0}")]
    Malformed(String),
    /// The agent said no.
    #[error("the guest agent refused: {description}")]
    Refused {
        /// The class that the protocol gives, such as `CommandNotFound`.
        class: String,
        /// Its sentence.
        description: String,
    },
}

impl GuestError {
    fn malformed(words: &str) -> GuestError {
        GuestError::Malformed(words_of(words))
    }

    fn refused(class: &str, description: &str) -> GuestError {
        GuestError::Refused { class: words_of(class), description: words_of(description) }
    }

    /// Whether the guest does not have the command, or not now: one that holds its file systems allows few.
    fn is_not_allowed(&self) -> bool {
        matches!(self, GuestError::Refused { class, .. } if class == "CommandNotFound")
    }

    /// Whether what was asked may have been done all the same.
    pub fn leaves_open(&self) -> bool {
        !matches!(self, GuestError::Refused { .. })
    }
}

/// A guest's words, for our logs and errors: a guest is its tenant's, who may write what he likes.
fn words_of(text: &str) -> String {
    let mut words: String = text.chars().take(WORDS_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if words.len() < text.len() {
        words.push('…');
    }
    words
}

fn answer_of<T: DeserializeOwned>(line: &[u8]) -> Result<Answer<T>, GuestError> {
    // serde quotes what it did not expect.
    serde_json::from_slice(line).map_err(|error| GuestError::malformed(&error.to_string()))
}

/// The protocol's ids are signed 64-bit numbers.
fn sync_id() -> i64 {
    i64::from(rand::random::<u32>())
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// The guest agent of one machine.
#[derive(Debug)]
pub struct Guest {
    path: PathBuf,
    link: Mutex<Option<Link>>,
    /// Whether it may hold its file systems.
    holds: watch::Sender<bool>,
}

type Link = Lines<UnixStream>;

impl Guest {
    /// The agent behind this socket. Nothing is connected before the first command.
    pub fn new(path: &Path) -> Self {
        Guest { path: path.to_owned(), link: Mutex::new(None), holds: watch::Sender::new(false) }
    }

    /// Whether it answers, within `patience`.
    ///
    /// # Errors
    /// Why not.
    pub async fn ping(&self, patience: Duration) -> Result<(), GuestError> {
        let ping = async { self.call::<Nothing>(&Command::Ping).await.map(drop) };
        timeout(patience, ping).await.unwrap_or(Err(GuestError::Silent(patience)))
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// The last reason when it did not within `patience`.
    pub async fn answered(&self, patience: Duration) -> Result<(), GuestError> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let begun = Instant::now();
            match self.ping(left.min(ATTEMPT)).await {
                Ok(()) => return Ok(()),
                Err(_) if left.is_zero() => return Err(GuestError::Silent(patience)),
                // A refused connection fails at once: no attempt takes less than this, so that waiting costs nothing.
                Err(_) => tokio::time::sleep_until(begun + Duration::from_millis(50)).await,
            }
        }
    }

    /// Asks the guest to turn itself off or to begin anew. It is silent when it does.
    ///
    /// # Errors
    /// When it could not be asked, or refused. A connection that ends is no error: that is what was asked for.
    pub async fn shutdown(&self, mode: Mode) -> Result<(), GuestError> {
        self.reach().await?;
        match timeout(REFUSAL, self.call::<Nothing>(&Command::Shutdown { mode })).await {
            Ok(Err(error @ GuestError::Refused { .. })) => Err(error),
            Ok(Ok(Nothing {})) | Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Has it write its file systems out and hold them; says how many. From then on it may hold them ([`Guest::holds`]),
    /// until it says that it does not.
    ///
    /// # Errors
    /// When it refused, or when it is not known what it does: writing out may take longer than it may be silent.
    pub async fn freeze(&self) -> Result<i64, GuestError> {
        let before = self.holds.send_replace(true);
        let frozen = self.call(&Command::Freeze).await;
        if frozen.as_ref().is_err_and(|error| !error.leaves_open()) {
            self.holds.send_replace(before);
        }
        frozen
    }

    /// Has it write again; says how many file systems were held. It does whatever it was told before first, so that
    /// an answer is the end of a freeze that was given up as well.
    ///
    /// # Errors
    /// When it could not be asked, or refused.
    pub async fn thaw(&self) -> Result<i64, GuestError> {
        let thawed = self.call(&Command::Thaw).await;
        // Without the command, it cannot have held anything.
        if thawed.as_ref().map_or_else(GuestError::is_not_allowed, |_| true) {
            self.holds.send_replace(false);
        }
        thawed
    }

    /// That it may hold its file systems, because it was told to by somebody else.
    pub fn note_that_it_holds(&self) {
        self.holds.send_replace(true);
    }

    /// Whether it may hold its file systems.
    pub fn holds(&self) -> bool {
        *self.holds.borrow()
    }

    /// Waits until it is known that it writes.
    async fn writes(&self) {
        // Its sender is ours: it is there.
        let _ = self.holds.subscribe().wait_for(|holds| !holds).await;
    }

    /// Sets its clock, in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// When it could not be asked, or refused.
    pub async fn set_time(&self, time: i64) -> Result<(), GuestError> {
        let command = Command::SetTime { time };
        timeout(PROMPT, self.call::<Nothing>(&command)).await.unwrap_or(Err(GuestError::Silent(PROMPT))).map(drop)
    }

    /// Connects, if that is yet to be done: an error means that the guest was asked for nothing.
    async fn reach(&self) -> Result<(), GuestError> {
        let mut link = self.link.lock().await;
        if link.is_none() {
            *link = Some(self.connect().await?);
        }
        Ok(())
    }

    /// One command, one answer.
    async fn call<T: DeserializeOwned>(&self, command: &Command<'_>) -> Result<T, GuestError> {
        let mut turn = self.link.lock().await;
        let mut link = self.taken(&mut turn).await?;
        self.ask(&mut link, command).await?;
        let answer = answer_of(&self.line(&mut link).await?)?;
        *turn = Some(link);
        answer.into_result()
    }

    /// The same for what must not be asked twice, because it is forgotten once it was told: the connection is kept
    /// however long the guest is silent. One that passes the question over shows that by answering what follows it.
    async fn call_once<T: DeserializeOwned>(&self, command: &Command<'_>) -> Result<T, GuestError> {
        let mut turn = self.link.lock().await;
        let mut link = self.taken(&mut turn).await?;
        self.ask(&mut link, command).await?;
        let (id, mut silent) = (sync_id(), false);
        let line = loop {
            match self.line(&mut link).await {
                Err(GuestError::Silent(_)) => {
                    self.send(&mut link, &Command::Sync { id }.line_after_reset()).await?;
                    silent = true;
                }
                line => break line?,
            }
        };
        if silent && wire::is_sync(&line, id) {
            return Err(GuestError::Silent(SILENCE));
        }
        let answer = answer_of(&line)?;
        // What was asked after it is yet to be answered, and belongs to nobody.
        *turn = (!silent).then_some(link);
        answer.into_result()
    }

    /// The connection, taken out while in use: when the future that has it is dropped halfway, it goes too.
    async fn taken(&self, turn: &mut Option<Link>) -> Result<Link, GuestError> {
        match turn.take() {
            Some(link) => Ok(link),
            None => self.connect().await,
        }
    }

    async fn ask(&self, link: &mut Link, command: &Command<'_>) -> Result<(), GuestError> {
        link.limit(command.answer_limit(), Long::Refuse);
        self.send(link, &command.line()).await
    }

    /// A fresh connection, past all that was meant for an earlier one.
    async fn connect(&self) -> Result<Link, GuestError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|source| self.broken(source))?;
        let mut link = Lines::new(stream, SHORT_ANSWER_LIMIT);
        timeout(SYNC, self.synchronise(&mut link)).await.unwrap_or(Err(GuestError::Silent(SYNC)))?;
        Ok(link)
    }

    async fn synchronise(&self, link: &mut Link) -> Result<(), GuestError> {
        // What an earlier caller did not wait for may be long; of it the end is enough.
        link.limit(SHORT_ANSWER_LIMIT, Long::Cut);
        let id = sync_id();
        self.send(link, &Command::Sync { id }.line_after_reset()).await?;
        while !wire::is_sync(&self.line(link).await?, id) {}
        Ok(())
    }

    async fn send(&self, link: &mut Link, bytes: &[u8]) -> Result<(), GuestError> {
        match timeout(SILENCE, link.get_mut().write_all(bytes)).await {
            Ok(written) => written.map_err(|source| self.broken(source)),
            Err(_) => Err(GuestError::Silent(SILENCE)),
        }
    }

    /// The next line. A long one may take its time as long as something comes.
    async fn line(&self, link: &mut Link) -> Result<Vec<u8>, GuestError> {
        loop {
            match timeout(SILENCE, link.advance()).await {
                Err(_) => return Err(GuestError::Silent(SILENCE)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(GuestError::malformed(&error.to_string()));
                }
                Ok(Err(source)) => return Err(self.broken(source)),
                Ok(Ok(None)) => return Err(GuestError::Closed),
                Ok(Ok(Some(Some(line)))) => return Ok(line),
                Ok(Ok(Some(None))) => {}
            }
        }
    }

    fn broken(&self, source: io::Error) -> GuestError {
        GuestError::Socket { path: self.path.clone(), source }
    }
}

#[cfg(test)]
pub(crate) mod tests;
