//! Other queues beside ours, on this machine and in this hour: each of `bench/`, over a PostgreSQL of its own that is as
//! durable as the one that ours is measured with, or over a RabbitMQ.
//!
//! One that cannot be installed or does not end is left out, and said to be. Never here: how a peer is called (each in
//! `bench/`), and how it is installed (`peer.rs`).

mod peer;

use std::io::Write;

use anyhow::Result;

use self::peer::{Figures, Keeps, Peer, Toolchain};
use super::{
    commit::{Engine, Floor},
    dispatch, queue,
    server::Server,
    table::quantile,
};

/// How many tasks are submitted one after another, for the time to a handler's start: as many as the peers have.
const SEQUENTIAL: usize = 200;

/// What there is in `bench/`.
const PEERS: [Peer; 5] = [
    over_postgres("graphile-worker", Toolchain::Node, "graphile-worker.mjs"),
    over_postgres("pg-boss", Toolchain::Node, "pg-boss.mjs"),
    over_postgres("procrastinate", Toolchain::Python, "procrastinate_peer.py"),
    over_postgres("apalis", Toolchain::Cargo, "apalis-peer"),
    Peer { name: "celery", toolchain: Toolchain::Python, program: "celery_peer.py", keeps: Keeps::RabbitMq },
];

const fn over_postgres(name: &'static str, toolchain: Toolchain, program: &'static str) -> Peer {
    Peer { name, toolchain, program, keeps: Keeps::Postgres }
}

/// What each does for a task beside running it, as its own documentation and tables have it. All write a submission to the
/// disk before they answer.
const DOES: &str = "\
| queue | submitted by | kept of a task that ended | every change written down | quota and hold | signed |
|---|---|---|---|---|---|
| hostler | HTTP, with a token | all, with its result | event and chained audit | yes | each lease |
| graphile-worker | a call in the caller's process | nothing: its row is deleted | no | no | no |
| pg-boss | a call in the caller's process | its row with its output, for a time | no | no | no |
| procrastinate | a call in the caller's process | its row, without a result | a row for each change of state | no | no |
| apalis | a call in the caller's process | its row with its result | no | no | no |
| celery | a call in the caller's process | nothing: its message is gone | no | no | no |
";

/// Every peer, and ours over both engines, with so many tasks for each figure. The tables are printed.
pub(crate) async fn measure(tasks: usize) -> Result<()> {
    let (mut measured, mut left_out) = (Vec::new(), Vec::new());
    for engine in Engine::ALL {
        measured.push(ours(engine, tasks).await?);
    }
    for peer in PEERS {
        match peer.measure(tasks).await {
            Ok(figures) => measured.push(figures),
            Err(error) => left_out.push(format!("{} was left out: {error:#}", peer.name)),
        }
    }
    print(&measured, &left_out)?;
    Ok(())
}

async fn ours(engine: Engine, tasks: usize) -> Result<Figures> {
    let queue::Figures { single_32, bulk, drain, .. } = queue::figures(engine, tasks).await?;
    let floor = Floor::of(engine)?;
    let server = Server::over(floor.database(), &["--driver", "sim"], 1).await?;
    let mut sample = dispatch::sample(&server, SEQUENTIAL).await?;
    Ok(Figures {
        peer: format!("hostler, {engine}"),
        settings: "4 agents, 100 slots each; one agent for the last".to_owned(),
        single: single_32,
        bulk: Some(bulk),
        drain,
        p50: quantile(&mut sample, 0.5),
        p99: quantile(&mut sample, 0.99),
    })
}

fn print(measured: &[Figures], left_out: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| queue | submits, 32 clients /s | 1,000 to a call /s | drain /s | submit to start, p50 / p99 ms | as set |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for Figures { peer, settings, single, bulk, drain, p50, p99 } in measured {
        let bulk = bulk.map_or_else(|| "–".to_owned(), |bulk| format!("{bulk:.0}"));
        writeln!(out, "| {peer} | {single:.0} | {bulk} | {drain:.0} | {p50:.2} / {p99:.2} | {settings} |")?;
    }
    for line in left_out {
        writeln!(out, "\n{line}")?;
    }
    writeln!(out, "\n{DOES}")
}
