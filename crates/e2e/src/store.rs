//! The store of a system under test, read from outside.

use std::path::PathBuf;

use anyhow::{Result, bail};
use hostler_fixture::{Database, Postgres};

/// What it is kept in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// A file.
    Sqlite,
    /// A database of the server that the tests of a process share.
    Postgres,
}

/// One store.
#[derive(Debug)]
pub enum Store<'a> {
    /// In this file.
    File(PathBuf),
    /// In this database.
    Database(Database<'a>),
}

impl Store<'static> {
    /// An empty one; the file is where its server makes it.
    pub fn new(engine: Engine, file: PathBuf) -> Result<Store<'static>> {
        Ok(match engine {
            Engine::Sqlite => Store::File(file),
            Engine::Postgres => Store::Database(Postgres::shared()?.database()?),
        })
    }
}

impl Store<'_> {
    /// What a server is told of it: nothing of a file, which it finds in its folder.
    pub fn flag(&self) -> Option<String> {
        match self {
            Store::File(_) => None,
            Store::Database(database) => Some(format!("--database={}", database.url())),
        }
    }

    /// The database, of one that is no file.
    pub fn database(&self) -> Result<&Database<'_>> {
        match self {
            Store::File(path) => bail!("{} is a file", path.display()),
            Store::Database(database) => Ok(database),
        }
    }

    /// The one text that a query answers.
    pub fn ask(&self, sql: &str) -> Result<String> {
        match self {
            Store::File(path) => Ok(rusqlite::Connection::open(path)?.query_row(sql, [], |row| row.get(0))?),
            Store::Database(database) => database.ask(sql),
        }
    }

    /// Runs statements.
    pub fn run(&self, sql: &str) -> Result<()> {
        match self {
            Store::File(path) => Ok(rusqlite::Connection::open(path)?.execute_batch(sql)?),
            Store::Database(database) => database.run(sql),
        }
    }

    /// How often the end of a task was written down.
    pub fn endings(&self, task: &str) -> Result<usize> {
        let ends = self.ask(&format!(
            "SELECT CAST(COUNT(*) AS TEXT) FROM log WHERE subject = '{task}' AND class = 'event'
             AND kind IN ('task.succeeded', 'task.failed', 'task.cancelled')"
        ))?;
        Ok(ends.parse()?)
    }
}
