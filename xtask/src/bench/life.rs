//! The whole life of `echo`: submitted over HTTP by 32 connections, leased, signed, journalled, run and settled by 16
//! simulated agents. The clock stops when the last task has ended.

use std::time::Instant;

use anyhow::Result;

use super::{
    commit::{Engine, Floor},
    queue,
    server::Server,
    table::Row,
};

const CONNECTIONS: usize = 32;
const AGENTS: usize = 16;

/// So many tasks, over each engine.
pub(crate) async fn measure(tasks: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (engine, times) in [(Engine::Sqlite, 1.2), (Engine::Postgres, 0.4)] {
        let floor = Floor::of(engine)?;
        let nodes = AGENTS.to_string();
        let server = Server::over(floor.database(), &["--driver", "sim", "--nodes", &nodes], AGENTS).await?;
        let before = floor.measure()?;
        run(&server, tasks / 10).await?;
        let rate = run(&server, tasks).await?;
        let floor = f64::midpoint(before, floor.measure()?);
        let name = format!("whole life of echo, {CONNECTIONS} connections, {AGENTS} agents, {engine}");
        rows.push(Row::at_least_times(&name, rate, "tasks/s", floor, times));
    }
    Ok(rows)
}

async fn run(server: &Server, tasks: usize) -> Result<f64> {
    let begun = Instant::now();
    queue::single(server, CONNECTIONS, tasks).await?;
    queue::ended(server).await?;
    Ok(tasks as f64 / begun.elapsed().as_secs_f64())
}
