//! A channel between the processes over one database: words that one says and all others hear. They are hints: one may be
//! lost with its connection, and nothing waits for them.
//!
//! ```text
//! say ──► queue ──► speaker: what gathered, folded, NOTIFY on a connection of its own ──► the server
//! heard ◄────────── listener: LISTEN on another connection; a gap, where it broke       ◄──┘
//! ```
//!
//! A NOTIFY inside a step's transaction would make all commits of a database follow one another, with their waits for the
//! disk; here it is a transaction of its own that waits for no disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use ::postgres::{Client, fallible_iterator::FallibleIterator};

use super::server::Server;
use crate::{Error, Result};

/// The name of the channel.
const CHANNEL: &str = "hostler";
/// A listener calls itself this, so that speakers know whether there is anybody to hear them.
const LISTENER: &str = "hostler listener";
/// How often a listener looks whether it is to end.
const LOOK: Duration = Duration::from_millis(500);
/// How long a connection that cannot be made is left before the next try.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the answer holds that nobody else listens.
const ALONE: Duration = Duration::from_secs(1);

/// Says a word if anybody but this process listens: then there is one row.
const TELL: &str = "
SELECT pg_notify($1, $2)
  FROM (SELECT COUNT(*) AS listeners
          FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = $3) known
 WHERE known.listeners > 1";

/// What a listener hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// What another said.
    Word(String),
    /// The connection was away: anything may have been said meanwhile.
    Gap,
}

/// What a process has to say. The channel ends with its last handle.
#[derive(Debug)]
pub struct Channel<T> {
    say: mpsc::Sender<T>,
    over: Arc<AtomicBool>,
}

impl<T: Send + 'static> Channel<T> {
    /// Begins to listen and to speak. `fold` makes words of what gathered since the last; each has 7,999 bytes at most, or
    /// the server refuses it.
    pub(crate) fn start(
        server: &Server,
        hear: impl Fn(Heard) + Send + 'static,
        fold: impl Fn(Vec<T>) -> String + Send + 'static,
    ) -> Result<Channel<T>> {
        let (say, said) = mpsc::channel();
        let over = Arc::new(AtomicBool::new(false));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
            spawned.map_err(|e| Error::Aborted(format!("a thread cannot start: {e}")))
        };
        let us = Arc::new(AtomicI32::new(0));
        let listener = Listener { server: server.named(LISTENER), us: us.clone(), over: over.clone(), hear };
        spawn("listener", Box::new(move || listener.run()))?;
        let mut speaker = Speaker { server: server.clone(), us, client: None };
        spawn("speaker", Box::new(move || speaker.run(&said, &fold)))?;
        Ok(Channel { say, over })
    }

    /// Says something, soon.
    pub fn say(&self, what: T) {
        // A speaker that is gone is a hint that is lost.
        drop(self.say.send(what));
    }
}

impl<T> Drop for Channel<T> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

struct Listener<H> {
    server: Server,
    /// By which number the server knows the connection of this process's speaker.
    us: Arc<AtomicI32>,
    over: Arc<AtomicBool>,
    hear: H,
}

impl<H: Fn(Heard)> Listener<H> {
    fn run(&self) {
        let mut first = true;
        while !self.is_over() {
            let attended = self.server.connect().and_then(|mut client| {
                client.batch_execute(&format!("LISTEN {CHANNEL}")).map_err(|e| self.server.wrap(&e))?;
                if !first {
                    (self.hear)(Heard::Gap);
                }
                self.attend(&mut client)
            });
            first = false;
            if let Err(error) = attended {
                tracing::warn!(%error, "hints of other servers are not heard; looking each second goes on");
                thread::sleep(PAUSE);
            }
        }
    }

    fn attend(&self, client: &mut Client) -> Result<()> {
        while !self.is_over() {
            if client.is_closed() {
                return Err(self.server.gone());
            }
            let mut notifications = client.notifications();
            let mut coming = notifications.timeout_iter(LOOK);
            while let Some(word) = coming.next().map_err(|e| self.server.wrap(&e))? {
                if word.process_id() != self.us.load(Ordering::Relaxed) {
                    (self.hear)(Heard::Word(word.payload().to_owned()));
                }
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

struct Speaker {
    server: Server,
    us: Arc<AtomicI32>,
    client: Option<Client>,
}

impl Speaker {
    fn run<T>(&mut self, said: &mpsc::Receiver<T>, fold: &dyn Fn(Vec<T>) -> String) {
        let mut silent_until = Instant::now();
        while let Ok(first) = said.recv() {
            let gathered: Vec<T> = [first].into_iter().chain(said.try_iter()).collect();
            if Instant::now() < silent_until {
                continue;
            }
            match self.tell(fold(gathered)) {
                Ok(true) => {}
                Ok(false) => silent_until = Instant::now() + ALONE,
                Err(error) => {
                    self.client = None;
                    silent_until = Instant::now() + PAUSE;
                    tracing::warn!(%error, "other servers cannot be told; they look by themselves each second");
                }
            }
        }
    }

    /// Says a word, if anybody but this process listens; says whether.
    fn tell(&mut self, word: String) -> Result<bool> {
        let server = self.server.clone();
        let wrap = |error| server.wrap(&error);
        let client = match &mut self.client {
            Some(client) => client,
            None => {
                let mut client = server.connect()?;
                // A hint need not be on a disk.
                client.batch_execute("SET synchronous_commit = off").map_err(wrap)?;
                let us = client.query_one("SELECT pg_backend_pid()", &[]).map_err(wrap)?.get(0);
                self.us.store(us, Ordering::Relaxed);
                self.client.insert(client)
            }
        };
        Ok(client.execute(TELL, &[&CHANNEL, &word, &LISTENER]).map_err(wrap)? > 0)
    }
}
