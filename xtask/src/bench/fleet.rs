//! Many connected agents: what one server takes for them, and how soon it dispatches while they wait.
//!
//! The server is a process of its own with no agent in it. Those that wait are in this process ([`agent`]); the one that
//! works is a `hostler agent` with the simulated driver.

mod agent;

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use self::agent::Fleet;
use super::{
    commit::{Engine, Floor},
    dispatch,
    server::{self, Server},
    table::{Row, quantile},
};

/// How many wait while one is dispatched to.
const IDLE: usize = 1000;
/// How many tasks one after another.
const SEQUENTIAL: usize = 200;
/// How long the server is watched while all are connected.
const WATCHED: Duration = Duration::from_secs(60);
/// Every agent has polled and sent a heartbeat before anything is counted.
const SETTLING: Duration = Duration::from_secs(15);

/// Idle dispatch beside waiting agents, then what so many connected ones cost, over each engine.
pub(crate) async fn measure(agents: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (engine, p50, p99) in [(Engine::Sqlite, 2.0, 10.0), (Engine::Postgres, 2.5, 12.0)] {
        rows.extend(idle(engine, p50, p99).await?);
        rows.extend(connected(engine, agents).await?);
    }
    Ok(rows)
}

async fn idle(engine: Engine, p50: f64, p99: f64) -> Result<[Row; 2]> {
    let floor = Floor::of(engine)?;
    let server = Server::alone(floor.database()).await?;
    let worker = Worker::start(&server).await?;
    let fleet = Fleet::connect(&server, IDLE).await?;
    tokio::time::sleep(SETTLING).await;
    let mut sample = dispatch::sample(&server, SEQUENTIAL).await?;
    eprintln!("{IDLE} idle agents, {engine}: {}", fleet.end());
    drop(worker);
    let name = |share: &str| format!("idle dispatch, {IDLE} idle agents polling, {share}, {engine}");
    Ok([
        Row::at_most(&name("p50"), quantile(&mut sample, 0.5), "ms", p50),
        Row::at_most(&name("p99"), quantile(&mut sample, 0.99), "ms", p99),
    ])
}

async fn connected(engine: Engine, agents: usize) -> Result<[Row; 3]> {
    let floor = Floor::of(engine)?;
    let server = Server::alone(floor.database()).await?;
    let before = server.resident_mib()?;
    let fleet = Fleet::connect(&server, agents).await?;
    tokio::time::sleep(SETTLING).await;
    let used = server.processor()?;
    tokio::time::sleep(WATCHED).await;
    let cores = (server.processor()? - used).as_secs_f64() / WATCHED.as_secs_f64();
    let resident = server.resident_mib()?;
    let heard = fresh(&server).await? as f64;
    let said = fleet.end();
    eprintln!("{agents} agents, {engine}: {said}; {before:.0} MiB without them, {resident:.0} MiB with them");
    let name = |what: &str| format!("{agents} agents, a heartbeat each {:?}, {what}, {engine}", agent::HEARTBEAT);
    Ok([
        Row::at_most(&name("server's memory"), resident, "MiB", 400.0),
        Row::at_most(&name("server's processor"), cores, "cores", 0.5),
        Row::at_least_times(&name("heard within a minute"), heard, "agents", agents as f64, 1.0),
    ])
}

async fn fresh(server: &Server) -> Result<usize> {
    let (_, page) = server.connect().await?.json("GET", "/api/v1/nodes", "").await?;
    Ok(page["items"].as_array().into_iter().flatten().filter(|node| node["freshness"] == "fresh").count())
}

/// The agent that works. It ends with this value.
struct Worker {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Worker {
    /// Starts one, and waits until the server has heard it.
    async fn start(server: &Server) -> Result<Worker> {
        let folder = tempfile::Builder::new().prefix("bench").tempdir_in("target")?;
        let path = folder.path().canonicalize()?;
        let token = agent::join_token(&mut server.connect().await?).await?;
        std::fs::write(path.join("token"), token)?;
        let child = Command::new(server::binary())
            .args(["agent", "--driver", "sim", "--name", "worker", "--log", "warn", "--server", &server.agents()?])
            .arg("--data")
            .arg(path.join("data"))
            .arg("--run")
            .arg(path.join("run"))
            .arg("--join-token-file")
            .arg(path.join("token"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("hostler agent")?;
        let worker = Worker { child, _folder: folder };
        while fresh(server).await? == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The tasks are for it alone: the others say that they can do nothing of the kind.
        let (status, answer) = server.connect().await?.json("GET", "/api/v1/nodes/worker", "").await?;
        ensure!(status == 200 && answer["state"] == json!("ready"), "{status}: {answer}");
        Ok(worker)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
