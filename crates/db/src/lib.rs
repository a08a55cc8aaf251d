//! A database, embedded or a server's: one writer that commits what gathered together, and readers beside it.
//!
//! ```text
//! write(step) ──► queue ──► writer thread: BEGIN · (SAVEPOINT · step · RELEASE)* · COMMIT ──► answers
//! read(query) ──► a reader connection of its own, which never waits for the writer
//! ```
//!
//! Steps that arrive while a commit is under way share the next one, so a disk that can do N commits a second does
//! many times N steps. A step that fails is rolled back alone; nothing is answered before it is durable.
//!
//! On PostgreSQL several processes write to one database. Their transactions follow one another as the steps of one
//! process do: each begins with a lock that it keeps until its end. What a step reads is therefore what it changes.
//! Never here: what the tables mean.

pub mod backup;
mod bind;
mod document;
mod migration;
pub mod planted;
mod postgres;
mod reader;
mod row;
mod session;
mod sqlite;
mod tx;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

pub use document::Document;
pub use migration::Migrations;
pub use postgres::{Channel, Heard, Timeline, as_sent};
pub use row::{Cell, FromCell, Row};
use session::{Purpose, Session};
pub use tx::{Texts, Tx};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is full: nothing of the step was written.
    #[error("the disk that holds {path} is full")]
    Full {
        /// The file, or the server's name.
        path: PathBuf,
    },
    /// SQLite refused.
    #[error("the database {path} failed: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// PostgreSQL refused, or could not be reached.
    #[error("the database at {server} failed: {detail}")]
    Postgres {
        /// Its address, without a password.
        server: String,
        /// What it said.
        detail: String,
        /// Whether the server is in trouble as a whole, or away.
        outage: bool,
    },
    /// A stored value is not what the code expects.
    #[error("column {column} of a row cannot be read: {detail}")]
    Decode {
        /// By number, from 0.
        column: usize,
        /// Why.
        detail: String,
    },
    /// The transaction as a whole failed, through no fault of a step's own: it could not begin or be committed, or
    /// the engine rolled it back.
    #[error("the transaction failed: {0}")]
    Lost(String),
    /// A step gave up by itself: it is rolled back.
    #[error("{0}")]
    Aborted(String),
    /// The writer is gone.
    #[error("the database was closed")]
    Closed,
}

impl Error {
    /// Whether the database is in trouble as a whole, whatever was asked of it: then another step would fare no better.
    pub fn is_outage(&self) -> bool {
        match self {
            Error::Full { .. } | Error::Lost(_) | Error::Closed => true,
            Error::Sqlite { source, .. } => source.sqlite_error_code().is_some_and(sqlite::is_outage),
            Error::Postgres { outage, .. } => *outage,
            Error::Decode { .. } | Error::Aborted(_) => false,
        }
    }
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// How a database is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A writer thread and reader threads.
    Threads,
    /// Everything where it is called, with a moment before and after it for others: for a simulation that runs on one
    /// thread.
    Inline,
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    name: String,
    /// Where it is a server's.
    server: Option<postgres::Server>,
    engine: Engine,
}

enum Engine {
    Threads { writer: writer::Writer, readers: reader::Readers },
    Inline(Mutex<Session>),
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Db").field(&self.0.name).finish()
    }
}

impl Db {
    /// Opens or makes an SQLite file and brings it up to date. A file from a newer program is refused.
    pub fn sqlite(path: &Path, mode: Mode, migrations: Migrations) -> Result<Db> {
        let session = Session::Sqlite(sqlite::Session::writing(path, migrations)?);
        let engine = match mode {
            Mode::Inline => Engine::Inline(Mutex::new(session)),
            Mode::Threads => {
                let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or("sqlite");
                let reading = || Ok(Session::Sqlite(sqlite::Session::reading(path)?));
                Engine::Threads {
                    writer: writer::Writer::start(name, session)?,
                    readers: reader::Readers::start(reader::OF_A_FILE, reading)?,
                }
            }
        };
        Ok(Db(Arc::new(Inner { name: path.display().to_string(), server: None, engine })))
    }

    /// Opens a PostgreSQL database (`postgres://user@host/name`) and brings it up to date. One from a newer program is
    /// refused. The caller's thread waits meanwhile. `first` is a question that most steps begin with: each transaction
    /// that writes asks it in the same way there and back with which it begins.
    pub fn postgres(url: &str, migrations: Migrations, first: Option<&'static str>) -> Result<Db> {
        let server = postgres::Server::parse(url)?;
        let start = || {
            let writer = Session::Postgres(Box::new(postgres::Session::writing(server.clone(), migrations, first)?));
            let reading = || Ok(Session::Postgres(Box::new(postgres::Session::reading(server.clone())?)));
            let readers = reader::Readers::start(reader::OF_A_SERVER, reading)?;
            Ok(Engine::Threads { writer: writer::Writer::start("postgres", writer)?, readers })
        };
        // Its client has a runtime of its own, and the caller may be in another.
        let engine = thread::scope(|scope| scope.spawn(start).join().unwrap_or_else(|_| Err(Error::Closed)))?;
        Ok(Db(Arc::new(Inner { name: server.to_string(), server: Some(server), engine })))
    }

    /// Runs a step in a transaction and returns once it is durable. `label` names its crash points:
    /// `<label>.before_commit` and `<label>.after_commit`.
    pub async fn write<T, F>(&self, label: &'static str, step: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        match &self.0.engine {
            Engine::Threads { writer, .. } => writer.run(label, step).await,
            Engine::Inline(session) => {
                // Others act while a thread would be asked, and its answer be on the way: whoever asks may be gone by then.
                tokio::task::yield_now().await;
                let done = writer::run_inline(&session.lock().expect("no panic while held"), label, step);
                tokio::task::yield_now().await;
                done
            }
        }
    }

    /// A channel to the other processes over this database; `None` where there can be no others. `hear` is called for
    /// what another says; `fold` makes one word, of fewer than 8,000 bytes, of what gathered.
    pub fn channel<T: Send + 'static>(
        &self,
        hear: impl Fn(Heard) + Send + 'static,
        fold: impl Fn(Vec<T>) -> String + Send + 'static,
    ) -> Result<Option<Channel<T>>> {
        self.0.server.as_ref().map(|server| Channel::start(server, hear, fold)).transpose()
    }

    /// The history in which this process works, where it is a server's that tells it.
    pub fn timeline(&self) -> Option<Timeline> {
        self.0.server.as_ref()?.timeline()
    }

    /// Another one, in which the server goes on: it was promoted, or put back in time. Nothing is done there before
    /// [`Db::adopt`].
    pub fn moved(&self) -> Option<Timeline> {
        self.0.server.as_ref()?.moved()
    }

    /// Runs a step on the server that goes on in another timeline; once it is durable, everything else goes on there too.
    /// The step hears which one it is. `None`: there is no other.
    pub async fn adopt<T, F>(&self, label: &'static str, step: F) -> Result<Option<T>>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>, &Timeline) -> Result<T> + Send + 'static,
    {
        let Some((server, _)) = self.0.server.clone().zip(self.moved()) else { return Ok(None) };
        // Its client has a runtime of its own.
        let adopting = tokio::task::spawn_blocking(move || {
            let session = Session::Postgres(Box::new(postgres::Session::reading(server.ungated())?));
            let before = server.timeline();
            // Which one it is counts on the connection that the step runs on: the address may lead elsewhere by now.
            let done = writer::run_inline(&session, label, move |tx| {
                let now = Timeline::of(tx)?;
                match before {
                    Some(before) if before == now => Ok((None, now)),
                    Some(before) if before.is_after(&now) => {
                        Err(Error::Lost("the server was left behind by a promotion".to_owned()))
                    }
                    _ => Ok((Some(step(tx, &now)?), now)),
                }
            });
            let (done, now) = done?;
            server.accept(now);
            Ok(done)
        });
        adopting.await.unwrap_or(Err(Error::Closed))
    }

    /// Runs a query on a state that was committed, without waiting for the writer.
    pub async fn read<T, F>(&self, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        match &self.0.engine {
            Engine::Threads { readers, .. } => readers.run(query).await,
            Engine::Inline(session) => {
                tokio::task::yield_now().await;
                let read = query(&session.lock().expect("no panic while held").tx());
                tokio::task::yield_now().await;
                read
            }
        }
    }
}

#[cfg(test)]
mod tests;
