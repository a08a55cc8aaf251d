//! A transaction, or a reader's view: what a step runs its statements on.

use serde::Serialize;

use crate::{Error, Result, Row, Session};

/// A transaction, or a reader's view. Statements take one JSON value as `?1`: a batch as an array for `jsonb_each`.
///
/// A text is SQLite's; for PostgreSQL the few words in which they differ are put in their place (see `dialect`).
pub struct Tx<'a>(pub(crate) &'a Session);

/// A statement in two texts, where one that serves both engines would be slow on one of them.
#[derive(Clone, Copy, Debug)]
pub struct Texts {
    /// SQLite's.
    pub sqlite: &'static str,
    /// PostgreSQL's, with `?1` and `jsonb_each` all the same.
    pub postgres: &'static str,
}

impl Texts {
    /// A text for a database that is always a file.
    pub const fn of_a_file(sqlite: &'static str) -> Texts {
        Texts { sqlite, postgres: "" }
    }
}

impl Tx<'_> {
    /// Runs a statement, and says how many rows it changed.
    pub fn execute(&self, sql: &'static str, batch: &impl Serialize) -> Result<usize> {
        match self.0 {
            Session::Sqlite(session) => session.execute(sql, || json(batch)),
            Session::Postgres(session) => session.execute(sql, || json(batch)),
        }
    }

    /// Runs a statement of which nobody needs to know how many rows it changed: its failure may show with a later one, or
    /// with the commit, and is that of the whole step.
    pub fn put(&self, sql: &'static str, batch: &impl Serialize) -> Result<()> {
        match self.0 {
            Session::Sqlite(session) => session.execute(sql, || json(batch)).map(drop),
            Session::Postgres(session) => session.put(sql, || json(batch)),
        }
    }

    /// Writes rows. SQLite's text is run for each of them, its parameters named as their fields are (`:id`); PostgreSQL's
    /// once, over all of them, whose fields it names with what they hold (`rows(id, at bigint)`). A field is a number, a
    /// text or nothing.
    pub fn put_each(&self, texts: &Texts, rows: &[impl Serialize]) -> Result<()> {
        match self.0 {
            _ if rows.is_empty() => Ok(()),
            Session::Sqlite(session) => session.put_each(texts.sqlite, rows),
            Session::Postgres(session) => session.put_each(texts.postgres, rows),
        }
    }

    /// Says that this will be asked, with this batch: a server is asked at once, and answers while others are asked. Whoever
    /// then asks it has the answer, as long as nothing was written meanwhile; a file answers when it is asked.
    pub fn expect(&self, sql: &'static str, batch: &impl Serialize) -> Result<()> {
        match self.0 {
            Session::Sqlite(_) => Ok(()),
            Session::Postgres(session) => session.expect(sql, || json(batch)),
        }
    }

    /// Runs a query, and reads every row.
    pub fn query<T>(
        &self,
        sql: &'static str,
        batch: &impl Serialize,
        read: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        match self.0 {
            Session::Sqlite(session) => session.query(sql, || json(batch), read),
            Session::Postgres(session) => session.query(sql, || json(batch), read),
        }
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

    /// When the transaction began to write, by the clock of the database's server, in microseconds since the Unix epoch;
    /// a file has none.
    pub fn began(&self) -> Option<i64> {
        match self.0 {
            Session::Sqlite(_) => None,
            Session::Postgres(session) => session.began(),
        }
    }

    /// The text that this engine runs.
    pub fn pick(&self, texts: &Texts) -> &'static str {
        match self.0 {
            Session::Sqlite(_) => texts.sqlite,
            Session::Postgres(_) => texts.postgres,
        }
    }

    /// Runs several statements without parameters: migrations.
    pub fn script(&self, sql: &str) -> Result<()> {
        match self.0 {
            Session::Sqlite(session) => session.script(sql),
            Session::Postgres(session) => session.script(sql),
        }
    }
}

fn json(batch: &impl Serialize) -> Result<String> {
    serde_json::to_string(batch).map_err(|e| Error::Aborted(format!("a batch cannot be written as JSON: {e}")))
}
