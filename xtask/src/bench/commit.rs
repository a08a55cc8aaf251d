//! The floor of everything durable: one row, one commit, on the same disk, by the same library and settings.

use std::{
    fmt,
    sync::{
        Barrier,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hostler_fixture::{Database, Postgres};
use postgres::NoTls;

/// How long a floor is measured.
const TIME: Duration = Duration::from_secs(2);
/// How many commit at once where commits can share a write to the disk.
const CLIENTS: usize = 32;

/// What a store is kept in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Engine {
    /// A file: one connection writes.
    Sqlite,
    /// A server: 32 connections write.
    Postgres,
}

impl Engine {
    pub(crate) const ALL: [Engine; 2] = [Engine::Sqlite, Engine::Postgres];
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Sqlite => "SQLite",
            Engine::Postgres => "PostgreSQL",
        })
    }
}

/// An engine's floor, and the place of its store.
pub(crate) enum Floor {
    /// A file has none but itself.
    Sqlite,
    /// Databases for the store and for the floor, on one server.
    Postgres {
        /// The store's.
        store: Database<'static>,
        /// The floor's.
        floor: Database<'static>,
    },
}

impl Floor {
    /// Starts the engine where it is a server: on the disk, durable, with memory as a site would give it.
    pub(crate) fn of(engine: Engine) -> Result<Floor> {
        Ok(match engine {
            Engine::Sqlite => Floor::Sqlite,
            Engine::Postgres => {
                // Until the program ends.
                let server: &'static Postgres = Box::leak(Box::new(Postgres::at_work("target".as_ref())?));
                let (store, floor) = (server.database()?, server.database()?);
                floor.run("CREATE TABLE t (id BIGSERIAL PRIMARY KEY, body TEXT NOT NULL)")?;
                Floor::Postgres { store, floor }
            }
        })
    }

    /// The address of the store's database, where it is not a file.
    pub(crate) fn database(&self) -> Option<String> {
        match self {
            Floor::Sqlite => None,
            Floor::Postgres { store, .. } => Some(store.url()),
        }
    }

    /// Bare one-row commits a second.
    pub(crate) fn measure(&self) -> Result<f64> {
        match self {
            Floor::Sqlite => in_a_file(),
            Floor::Postgres { floor, .. } => on_a_server(&floor.url()),
        }
    }
}

fn in_a_file() -> Result<f64> {
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in("target")?;
    let db = rusqlite::Connection::open(folder.path().join("floor.db"))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT")?;
    let mut insert = db.prepare("INSERT INTO t (body) VALUES (?1)")?;
    let body = "x".repeat(200);
    let (begun, mut rows) = (Instant::now(), 0u32);
    while begun.elapsed() < TIME {
        insert.execute([&body])?;
        rows += 1;
    }
    Ok(f64::from(rows) / begun.elapsed().as_secs_f64())
}

fn on_a_server(url: &str) -> Result<f64> {
    let (rows, ready) = (AtomicU32::new(0), Barrier::new(CLIENTS));
    let insert = || -> Result<()> {
        let mut client = postgres::Client::connect(url, NoTls)?;
        let statement = client.prepare("INSERT INTO t (body) VALUES ($1)")?;
        let body = "x".repeat(200);
        ready.wait();
        let begun = Instant::now();
        while begun.elapsed() < TIME {
            client.execute(&statement, &[&body])?;
            rows.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(insert)).collect();
        clients.into_iter().try_for_each(|client| client.join().ok().context("a client panicked")?)
    })?;
    Ok(f64::from(rows.into_inner()) / TIME.as_secs_f64())
}
