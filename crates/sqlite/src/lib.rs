//! One SQLite file: one writer that commits what gathered together, and readers beside it.
//!
//! ```text
//! write(step) ──► queue ──► writer thread: BEGIN · (SAVEPOINT · step · RELEASE)* · COMMIT ──► answers
//! read(query) ──► a reader connection of its own (WAL: readers never wait for the writer)
//! ```
//!
//! Steps that arrive while a commit is under way share the next one, so a disk that can do N commits a second does
//! many times N steps. A step that fails is rolled back alone; nothing is answered before it is durable.
//! Never here: what the tables mean.

mod reader;
mod row;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

pub use row::Row;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is full: nothing of the step was written.
    #[error("the disk that holds {path} is full")]
    Full {
        /// The file.
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
    /// A stored value is not what the code expects.
    #[error("column {column} of a row cannot be read: {detail}")]
    Decode {
        /// By number, from 0.
        column: usize,
        /// Why.
        detail: String,
    },
    /// The transaction as a whole failed, through no fault of a step's own: it could not begin or be committed, or
    /// SQLite rolled it back.
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
            Error::Sqlite { source, .. } => source.sqlite_error_code().is_some_and(is_outage),
            Error::Decode { .. } | Error::Aborted(_) => false,
        }
    }
}

/// Codes that speak of the disk, the machine or another process, not of a statement.
fn is_outage(code: rusqlite::ErrorCode) -> bool {
    use rusqlite::ErrorCode;
    matches!(
        code,
        ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::NotADatabase
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::PermissionDenied
    )
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// How a file is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A writer thread and reader threads.
    Threads,
    /// Everything at once where it is called: for a simulation that runs on one thread.
    Inline,
}

/// An open file. Clones share it.
#[derive(Clone)]
pub struct Sqlite(Arc<Inner>);

struct Inner {
    path: PathBuf,
    engine: Engine,
}

enum Engine {
    Threads { writer: writer::Writer, readers: reader::Readers },
    Inline(Mutex<Connection>),
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sqlite").field(&self.0.path).finish()
    }
}

/// A transaction, or a reader's view. Statements take one JSON value as `?1`: a batch as an array for `json_each`.
pub struct Tx<'a> {
    connection: &'a Connection,
    path: &'a Path,
}

impl Tx<'_> {
    /// Runs a statement, and says how many rows it changed.
    pub fn execute(&self, sql: &'static str, batch: &impl Serialize) -> Result<usize> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|e| self.wrap(e))?;
        let changed =
            if statement.parameter_count() == 0 { statement.execute([]) } else { statement.execute([json(batch)?]) };
        changed.map_err(|e| self.wrap(e))
    }

    /// Runs a query, and reads every row.
    pub fn query<T>(
        &self,
        sql: &'static str,
        batch: &impl Serialize,
        read: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|e| self.wrap(e))?;
        let rows = if statement.parameter_count() == 0 { statement.query([]) } else { statement.query([json(batch)?]) };
        let mut rows = rows.map_err(|e| self.wrap(e))?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(|e| self.wrap(e))? {
            out.push(read(&Row(row))?);
        }
        Ok(out)
    }

    /// Runs a query that has at most one row.
    pub fn query_one<T>(
        &self,
        sql: &'static str,
        batch: &impl Serialize,
        read: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.query(sql, batch, read)?.pop())
    }

    /// Runs several statements without parameters: migrations.
    pub fn script(&self, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql).map_err(|e| self.wrap(e))
    }

    fn wrap(&self, source: rusqlite::Error) -> Error {
        wrap(self.path, source)
    }
}

fn json(batch: &impl Serialize) -> Result<String> {
    serde_json::to_string(batch).map_err(|e| Error::Aborted(format!("a batch cannot be written as JSON: {e}")))
}

fn wrap(path: &Path, source: rusqlite::Error) -> Error {
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Error::Full { path: path.to_owned() },
        _ => Error::Sqlite { path: path.to_owned(), source },
    }
}

/// Migrations: each runs once, in order; the file's `user_version` counts them, its `application_id` marks their text.
pub type Migrations = &'static [&'static str];

impl Sqlite {
    /// Opens or makes a file and brings it up to date. A file from a newer program is refused.
    pub fn open(path: &Path, mode: Mode, migrations: Migrations) -> Result<Sqlite> {
        let mut connection = connect(path, OpenFlags::default())?;
        migrate(path, &mut connection, migrations)?;
        let engine = match mode {
            Mode::Inline => Engine::Inline(Mutex::new(connection)),
            Mode::Threads => Engine::Threads {
                writer: writer::Writer::start(path.to_owned(), connection)?,
                readers: reader::Readers::start(path)?,
            },
        };
        Ok(Sqlite(Arc::new(Inner { path: path.to_owned(), engine })))
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
            Engine::Inline(connection) => {
                let connection = connection.lock().expect("no panic while held");
                writer::run_alone(&self.0.path, &connection, label, step)
            }
        }
    }

    /// Runs a query on a state that was committed, without waiting for the writer.
    pub async fn read<T, F>(&self, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        match &self.0.engine {
            Engine::Threads { readers, .. } => readers.run(query).await,
            Engine::Inline(connection) => {
                let connection = connection.lock().expect("no panic while held");
                query(&Tx { connection: &connection, path: &self.0.path })
            }
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "OFF")?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "cache_size", -8000)?;
        connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
        connection.set_prepared_statement_cache_capacity(128);
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(connection)
    };
    open().map_err(|e| wrap(path, e))
}

/// What tells one text of migrations from another: FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/). Only to notice.
fn mark(migrations: &[&str]) -> i32 {
    let bytes = migrations.iter().flat_map(|sql| sql.bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.cast_signed()
}

fn migrate(path: &Path, connection: &mut Connection, migrations: Migrations) -> Result<()> {
    let fail = |e| wrap(path, e);
    let have: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
    let have = usize::try_from(have).unwrap_or(0);
    if have > migrations.len() {
        return Err(Error::Aborted(format!(
            "{} was made by a newer hostler (schema {have}, this one knows {}); start that one",
            path.display(),
            migrations.len()
        )));
    }
    let marked: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(fail)?;
    if have > 0 && marked != mark(&migrations[..have]) {
        return Err(Error::Aborted(format!(
            "{} was made by another build of hostler, before its tables were settled, and cannot be read by this one; \
             start that build, or move the data folder away and begin anew",
            path.display()
        )));
    }
    for (number, sql) in migrations.iter().enumerate().skip(have) {
        let tx = connection.transaction().map_err(fail)?;
        tx.execute_batch(sql).map_err(fail)?;
        tx.pragma_update(None, "application_id", mark(&migrations[..=number])).map_err(fail)?;
        tx.pragma_update(None, "user_version", i64::try_from(number + 1).unwrap_or(i64::MAX)).map_err(fail)?;
        tx.commit().map_err(fail)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
