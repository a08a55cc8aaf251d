//! The floor of everything durable: one row, one commit, on the same disk, by the same library and settings.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Bare one-row commits a second, over two seconds.
pub(crate) fn one_row_commits() -> Result<f64> {
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in("target")?;
    let db = rusqlite::Connection::open(folder.path().join("floor.db"))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT")?;
    let mut insert = db.prepare("INSERT INTO t (body) VALUES (?1)")?;
    let body = "x".repeat(200);
    let (begun, mut rows) = (Instant::now(), 0u32);
    while begun.elapsed() < Duration::from_secs(2) {
        insert.execute([&body])?;
        rows += 1;
    }
    Ok(f64::from(rows) / begun.elapsed().as_secs_f64())
}
