//! Statements on the store's own database, beside the server that has it: for what a load needs and no route can make yet.
//!
//! Never here: what is measured. A server sees what was written as if another server over the same database had done it.

use std::time::Duration;

use anyhow::Result;

use super::{commit::Floor, server::Server};

/// How long a statement waits for a step of the server's.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs statements.
pub(crate) fn run(floor: &Floor, server: &Server, statements: &str) -> Result<()> {
    match floor {
        Floor::Sqlite => Ok(open(server)?.execute_batch(statements)?),
        Floor::Postgres { store, .. } => store.run(statements),
    }
}

/// The one text that a query answers.
pub(crate) fn ask(floor: &Floor, server: &Server, query: &str) -> Result<String> {
    match floor {
        Floor::Sqlite => Ok(open(server)?.query_row(query, (), |row| row.get(0))?),
        Floor::Postgres { store, .. } => store.ask(query),
    }
}

fn open(server: &Server) -> Result<rusqlite::Connection> {
    let db = rusqlite::Connection::open(server.data().join("hostler.db"))?;
    db.busy_timeout(PATIENCE)?;
    Ok(db)
}
