//! A long history, for what is to cost the same with it as without: finished tasks that are written beside the server, in
//! the way in which the engine takes most at once.
//!
//! Never here: entries of the log. A chain cannot be made up.

use std::{fmt::Write as _, io::Write as _, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use postgres::{Client, NoTls};

use super::{
    commit::{Engine, Floor},
    server::Server,
    sql,
};

/// How many rows a file takes in one transaction: its server waits up to five seconds for another writer.
const CHUNK: u64 = 50_000;
/// How many a server takes in one: it waits for nobody.
const COPIED: u64 = 1_000_000;
/// How many lines are sent at once.
const LINES: u64 = 10_000;
/// Bytes on the disk for each, with their places in the indexes: 750 were counted, and some more is written ahead.
const BYTES: u64 = 1000;
/// What is left to others on the disk.
const LEFT: u64 = 4 << 30;

/// Writes finished tasks: each is the last that ended, under an id of its own and older than all others.
pub(crate) async fn load(floor: &Floor, server: &Server, engine: Engine, tasks: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(&server.data())?;
    let free = stat.f_bavail * stat.f_frsize;
    ensure!(free > tasks * BYTES + LEFT, "{tasks} tasks need {} GiB free on the disk", (tasks * BYTES + LEFT) >> 30);
    let (_, page) = server.connect().await?.json("GET", "/api/v1/tasks?state=succeeded&limit=1", "").await?;
    let template = page["items"][0]["id"].as_str().context("a task that ended")?.to_owned();
    let mut from = 0;
    while from < tasks {
        let to = (from + if engine == Engine::Sqlite { CHUNK } else { COPIED }).min(tasks);
        match floor {
            Floor::Sqlite => select(floor, server, &template, from, to)?,
            Floor::Postgres { store, .. } => copy(&store.url(), &template, from, to)?,
        }
        // The server's own steps have their turn.
        tokio::time::sleep(Duration::from_millis(20)).await;
        from = to;
    }
    match engine {
        // As its autovacuum would within the minute, and its checkpoint within five: what was loaded is not to be written
        // out while something else is measured.
        Engine::Postgres => {
            sql::run(floor, server, "VACUUM ANALYZE tasks")?;
            sql::run(floor, server, "CHECKPOINT")
        }
        Engine::Sqlite => Ok(()),
    }
}

/// Of twelve digits, whatever the number.
fn id(number: u64) -> String {
    format!("018f0000-0000-7000-8000-{}", 100_000_000_000 + number)
}

fn select(floor: &Floor, server: &Server, template: &str, from: u64, to: u64) -> Result<()> {
    let columns =
        sql::ask(floor, server, "SELECT group_concat(name) FROM pragma_table_info('tasks') WHERE name <> 'id'")?;
    let (first, last) = (100_000_000_000 + from, 100_000_000_000 + to - 1);
    let chunk = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})
         INSERT INTO tasks (id, {columns})
         SELECT '018f0000-0000-7000-8000-' || CAST(n AS TEXT), {columns}
           FROM numbers JOIN tasks ON id = '{template}'"
    );
    sql::run(floor, server, &chunk)
}

/// The client has a runtime of its own and must not be in this one.
fn copy(url: &str, template: &str, from: u64, to: u64) -> Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| copy_here(url, template, from, to)).join().ok().context("the client panicked")?
    })
}

fn copy_here(url: &str, template: &str, from: u64, to: u64) -> Result<()> {
    let mut client = Client::connect(url, NoTls)?;
    let columns: String = client
        .query_one(
            "SELECT string_agg(column_name, ',') FROM information_schema.columns
              WHERE table_name = 'tasks' AND column_name <> 'id'",
            &[],
        )?
        .try_get(0)?;
    let mut line = String::new();
    let template = format!("COPY (SELECT {columns} FROM tasks WHERE id = '{template}') TO STDOUT");
    std::io::Read::read_to_string(&mut client.copy_out(&template)?, &mut line)?;
    let mut into = client.copy_in(&format!("COPY tasks (id, {columns}) FROM STDIN"))?;
    let mut lines = String::new();
    for number in from..to {
        write!(lines, "{}\t{line}", id(number))?;
        if (number + 1) % LINES == 0 || number + 1 == to {
            into.write_all(lines.as_bytes())?;
            lines.clear();
        }
    }
    into.finish()?;
    Ok(())
}
