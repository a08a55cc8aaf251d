//! Claims over a long history: drain and idle dispatch, first with what the load itself leaves, then with so many finished
//! tasks more in the same store, on the same server.

use anyhow::Result;

use super::{
    commit::{Engine, Floor},
    dispatch, history, queue,
    server::Server,
    table::{Row, quantile},
};

/// How often a drain is measured, with and without; the median counts.
const ROUNDS: usize = 5;
/// How many tasks one after another.
const SEQUENTIAL: usize = 200;
/// Further than this from an empty store, in either direction of better, is not flat.
const WITHIN: f64 = 0.1;

/// Figures of a store.
struct Figures {
    drain: f64,
    dispatch: f64,
}

/// Rounds of so many tasks, before and after so many finished ones came in, over each engine.
pub(crate) async fn measure(tasks: usize, finished: u64) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for engine in Engine::ALL {
        let floor = Floor::of(engine)?;
        let server = Server::over(floor.database(), &queue::FOUR_AGENTS, 4).await?;
        let empty = figures(&server, tasks / ROUNDS).await?;
        history::load(&floor, &server, engine, finished).await?;
        let full = figures(&server, tasks / ROUNDS).await?;
        let beside = |what: &str| format!("{what} with {finished} finished tasks, beside few, {engine}");
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
