//! Claims over a long history: drain and idle dispatch, first with what the load itself leaves, then with so many finished
//! tasks more in the same store, on the same server.

use anyhow::{Context, Result};

use super::{
    commit::{Engine, Floor},
    dispatch, queue,
    server::Server,
    sql,
    table::{Row, quantile},
};

/// How often a drain is measured, with and without; the median counts.
const ROUNDS: usize = 5;
/// How many tasks one after another.
const SEQUENTIAL: usize = 200;
/// How many rows are written in one transaction: a server with a file waits up to five seconds for another writer.
const CHUNK: u64 = 50_000;
/// Further than this from an empty store, in either direction of better, is not flat.
const WITHIN: f64 = 0.1;

/// Figures of a store.
struct Figures {
    drain: f64,
    dispatch: f64,
}

/// Rounds of so many tasks, before and after so many finished ones came in, over each engine.
pub(crate) async fn measure(tasks: usize, history: u64) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for engine in Engine::ALL {
        let floor = Floor::of(engine)?;
        let server = Server::over(floor.database(), &queue::FOUR_AGENTS, 4).await?;
        let empty = figures(&server, tasks / ROUNDS).await?;
        load(&floor, &server, engine, history).await?;
        let full = figures(&server, tasks / ROUNDS).await?;
        let beside = |what: &str| format!("{what} with {history} finished tasks, beside few, {engine}");
        rows.push(Row::at_least_times(&beside("drain"), full.drain, "tasks/s", empty.drain, 1.0 - WITHIN));
        let name = beside("idle dispatch, p50,");
        rows.push(Row::at_most_times(&name, full.dispatch, "ms", empty.dispatch, 1.0 + WITHIN));
    }
    Ok(rows)
}

async fn figures(server: &Server, tasks: usize) -> Result<Figures> {
    let mut drains = Vec::new();
    for round in 0..=ROUNDS {
        let drain = queue::drain(server, tasks).await?;
        // The first warms up.
        if round > 0 {
            drains.push(drain);
        }
    }
    let mut sample = dispatch::sample(server, SEQUENTIAL).await?;
    Ok(Figures { drain: quantile(&mut drains, 0.5), dispatch: quantile(&mut sample, 0.5) })
}

/// Writes finished tasks beside the server: each is the last that ended, under an id of its own and older than all others.
/// Their log entries are not written, for a chain cannot be made up.
async fn load(floor: &Floor, server: &Server, engine: Engine, history: u64) -> Result<()> {
    let (_, page) = server.connect().await?.json("GET", "/api/v1/tasks?state=succeeded&limit=1", "").await?;
    let template = page["items"][0]["id"].as_str().context("a task that ended")?.to_owned();
    let columns = sql::ask(
        floor,
        server,
        match engine {
            Engine::Sqlite => "SELECT group_concat(name) FROM pragma_table_info('tasks') WHERE name <> 'id'",
            Engine::Postgres => {
                "SELECT string_agg(column_name, ',') FROM information_schema.columns
                  WHERE table_name = 'tasks' AND column_name <> 'id'"
            }
        },
    )?;
    let mut from = 0;
    while from < history {
        let to = (from + CHUNK).min(history);
        // Twelve digits, whatever the number.
        let first = 100_000_000_000 + from;
        let last = 100_000_000_000 + to - 1;
        let chunk = format!(
            "WITH RECURSIVE numbers (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})
             INSERT INTO tasks (id, {columns})
             SELECT '018f0000-0000-7000-8000-' || CAST(n AS TEXT), {columns}
               FROM numbers JOIN tasks ON id = '{template}'"
        );
        sql::run(floor, server, &chunk)?;
        // The server's own steps have their turn.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        from = to;
    }
    match engine {
        // As its autovacuum would within the minute.
        Engine::Postgres => sql::run(floor, server, "VACUUM ANALYZE tasks")?,
        Engine::Sqlite => {}
    }
    Ok(())
}
