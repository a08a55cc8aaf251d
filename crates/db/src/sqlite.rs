//! SQLite: one file, its connections, its migrations.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Statement, types::Null};
use serde::Serialize;

use crate::{
    Cell, Error, Result, Row,
    bind::{self, Refused},
    migration::{self, Migrations},
    planted,
    row::Cells,
    session::Purpose,
};

/// How much of the file the connection that writes keeps in memory: the pages that each step goes through.
const KEPT_TO_WRITE: Kib = 8000;
/// And each that reads: what it lacks the system has, and a long list would only fill it with what nobody asks for again.
const KEPT_TO_READ: Kib = 2000;

type Kib = i32;

/// A connection to a file.
pub(crate) struct Session {
    connection: Connection,
    path: PathBuf,
}

impl Session {
    /// The connection that writes: the file is made where there is none, and brought up to date.
    pub(crate) fn writing(path: &Path, migrations: Migrations) -> Result<Session> {
        let mut connection = connect(path, KEPT_TO_WRITE)?;
        migrate(path, &mut connection, migrations)?;
        Ok(Session { connection, path: path.to_owned() })
    }

    /// A connection that only reads.
    pub(crate) fn reading(path: &Path) -> Result<Session> {
        let connection = connect(path, KEPT_TO_READ)?;
        connection.pragma_update(None, "query_only", "ON").map_err(|e| wrap(path, e))?;
        Ok(Session { connection, path: path.to_owned() })
    }

    pub(crate) fn begin(&self, purpose: Purpose) -> Result<()> {
        self.control(match purpose {
            Purpose::Write => "BEGIN IMMEDIATE",
            // All statements of one read see one state.
            Purpose::Read => "BEGIN",
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// A statement that begins, marks or ends a transaction: compiled once, for every step runs two of them.
    pub(crate) fn control(&self, sql: &'static str) -> Result<()> {
        if sql == "COMMIT" && planted::is_full(&self.path) {
            return Err(Error::Full { path: self.path.clone() });
        }
        let run = || self.connection.prepare_cached(sql)?.execute([]).map(|_| ());
        run().map_err(|e| self.wrap(e))
    }

    pub(crate) fn execute(&self, sql: &'static str, batch: impl FnOnce() -> Result<String>) -> Result<usize> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|e| self.wrap(e))?;
        let changed =
            if statement.parameter_count() == 0 { statement.execute([]) } else { statement.execute([batch()?]) };
        changed.map_err(|e| self.wrap(e))
    }

    /// Runs a statement once for each row, its fields bound by their names.
    pub(crate) fn put_each(&self, sql: &'static str, rows: &[impl Serialize]) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|e| self.wrap(e))?;
        let mut places = bind::Places::default();
        for row in rows {
            bind::row(&mut *statement, &mut places, row).map_err(|e| Error::Aborted(e.to_string()))?;
            statement.raw_execute().map_err(|e| self.wrap(e))?;
        }
        Ok(())
    }

    pub(crate) fn query<T>(
        &self,
        sql: &'static str,
        batch: impl FnOnce() -> Result<String>,
        read: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|e| self.wrap(e))?;
        let rows = if statement.parameter_count() == 0 { statement.query([]) } else { statement.query([batch()?]) };
        let mut rows = rows.map_err(|e| self.wrap(e))?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(|e| self.wrap(e))? {
            out.push(read(&Row(Cells::Sqlite(row)))?);
        }
        Ok(out)
    }

    pub(crate) fn script(&self, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql).map_err(|e| self.wrap(e))
    }

    fn wrap(&self, source: rusqlite::Error) -> Error {
        wrap(&self.path, source)
    }
}

impl bind::Parameters for Statement<'_> {
    fn place(&self, name: &str) -> std::result::Result<Option<usize>, Refused> {
        self.parameter_index(&format!(":{name}")).map_err(Refused::because)
    }

    fn count(&self) -> usize {
        self.parameter_count()
    }

    fn bind(&mut self, at: usize, cell: Cell<'_>) -> std::result::Result<(), Refused> {
        let bound = match cell {
            Cell::Null => self.raw_bind_parameter(at, Null),
            Cell::Integer(number) => self.raw_bind_parameter(at, number),
            Cell::Real(number) => self.raw_bind_parameter(at, number),
            Cell::Text(text) => self.raw_bind_parameter(at, text),
        };
        bound.map_err(Refused::because)
    }
}

pub(crate) fn wrap(path: &Path, source: rusqlite::Error) -> Error {
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Error::Full { path: path.to_owned() },
        _ => Error::Sqlite { path: path.to_owned(), source },
    }
}

/// Codes that speak of the disk, the machine or another process, not of a statement.
pub(crate) fn is_outage(code: rusqlite::ErrorCode) -> bool {
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

fn connect(path: &Path, kept: Kib) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, OpenFlags::default())?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", if planted::syncs() { "FULL" } else { "OFF" })?;
        connection.pragma_update(None, "foreign_keys", "OFF")?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "cache_size", -kept)?;
        connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
        connection.set_prepared_statement_cache_capacity(128);
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(connection)
    };
    open().map_err(|e| wrap(path, e))
}

fn migrate(path: &Path, connection: &mut Connection, migrations: Migrations) -> Result<()> {
    let fail = |e| wrap(path, e);
    let have: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
    let have = usize::try_from(have).unwrap_or(0);
    let marked: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(fail)?;
    migration::check(&path.display(), migrations, have, marked)?;
    for (number, sql) in migrations.iter().enumerate().skip(have) {
        let tx = connection.transaction().map_err(fail)?;
        tx.execute_batch(sql).map_err(fail)?;
        tx.pragma_update(None, "application_id", migration::mark(&migrations[..=number])).map_err(fail)?;
        tx.pragma_update(None, "user_version", i64::try_from(number + 1).unwrap_or(i64::MAX)).map_err(fail)?;
        tx.commit().map_err(fail)?;
    }
    Ok(())
}
