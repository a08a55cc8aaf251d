//! The queue by its parts: submissions alone, one by one and many to a request, and the drain of what has gathered. Each
//! over a file and over PostgreSQL, beside one-row commits of the same engine in the same run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, bail};
use serde_json::json;

use super::{
    commit::{Engine, Floor},
    http::Connection,
    server::Server,
    table::Row,
};

/// How many tasks one request of a bulk has: the most that the API takes.
const BULK: usize = 1000;
/// What is submitted.
pub(crate) const ECHO: &str = r#"{"kind":"echo","params":{"message":"forty bytes, as the peers are measured"}}"#;

/// Agents that take a hundred at a time.
pub(crate) const FOUR_AGENTS: [&str; 6] = ["--driver", "sim", "--nodes", "4", "--quick-slots", "100"];

/// What each engine is to reach, as times of its floor.
struct Targets {
    single_32: f64,
    single_128: f64,
    bulk: f64,
    drain: f64,
}

const fn targets(engine: Engine) -> Targets {
    match engine {
        Engine::Sqlite => Targets { single_32: 3.0, single_128: 4.0, bulk: 10.0, drain: 2.0 },
        Engine::Postgres => Targets { single_32: 0.9, single_128: 1.5, bulk: 2.0, drain: 1.0 },
    }
}

/// So many tasks for each figure.
pub(crate) async fn measure(tasks: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for engine in Engine::ALL {
        rows.extend(measure_on(engine, tasks).await?);
    }
    Ok(rows)
}

/// Figures of one engine.
pub(crate) struct Figures {
    /// Submits a second, one by one over 32 connections.
    pub(crate) single_32: f64,
    /// The same over 128.
    pub(crate) single_128: f64,
    /// Submits a second, 1,000 to a request.
    pub(crate) bulk: f64,
    /// Tasks a second that 4 agents end, of what had gathered.
    pub(crate) drain: f64,
    /// One-row commits a second.
    pub(crate) floor: f64,
}

async fn measure_on(engine: Engine, tasks: usize) -> Result<Vec<Row>> {
    let found = figures(engine, tasks).await?;
    let wanted = targets(engine);
    let row = |what: &str, rate, times| {
        Row::at_least_times(&format!("{what}, {engine}"), rate, "tasks/s", found.floor, times)
    };
    Ok(vec![
        row("submits, 32 connections", found.single_32, wanted.single_32),
        row("submits, 128 connections", found.single_128, wanted.single_128),
        row("submits, 1,000 to a request", found.bulk, wanted.bulk),
        row(&format!("drain of {tasks} by 4 agents"), found.drain, wanted.drain),
    ])
}

/// So many tasks for each figure, over one engine.
pub(crate) async fn figures(engine: Engine, tasks: usize) -> Result<Figures> {
    let floor = Floor::of(engine)?;
    let server = Server::over(floor.database(), &FOUR_AGENTS, 4).await?;
    let before = floor.measure()?;
    queues(&server, "pause").await?;
    let singly = |connections| single(&server, connections, tasks);
    singly(32).await?;
    let (single_32, single_128) = (singly(32).await?, singly(128).await?);
    queues(&server, "resume").await?;
    ended(&server).await?;
    queues(&server, "pause").await?;
    let bulk = bulk(&server, tasks).await?;
    let drain = resumed(&server, tasks.div_ceil(BULK) * BULK).await?;
    Ok(Figures { single_32, single_128, bulk, drain, floor: f64::midpoint(before, floor.measure()?) })
}

/// Tells every node's queue to stand still, or to go on.
pub(crate) async fn queues(server: &Server, verb: &str) -> Result<()> {
    let mut connection = server.connect().await?;
    let (_, nodes) = connection.json("GET", "/api/v1/nodes", "").await?;
    for node in nodes["items"].as_array().into_iter().flatten() {
        let path = format!("/api/v1/nodes/{}/{verb}", node["name"].as_str().unwrap_or_default());
        let (status, answer) = connection.call("POST", &path, "").await?;
        if status >= 300 {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&answer));
        }
    }
    Ok(())
}

/// Submissions by so many connections, each waiting for one answer before it sends the next.
pub(crate) async fn single(server: &Server, connections: usize, tasks: usize) -> Result<f64> {
    let mut callers = Vec::new();
    for _ in 0..connections {
        callers.push(vec![server.connect().await?]);
    }
    submit(callers, tasks).await
}

/// Submissions by so many callers at once, each of which uses its connections in turn.
pub(crate) async fn submit(callers: Vec<Vec<Connection>>, tasks: usize) -> Result<f64> {
    let left = Arc::new(AtomicUsize::new(tasks));
    let begun = Instant::now();
    let mut submitters = tokio::task::JoinSet::new();
    for mut connections in callers {
        let left = left.clone();
        submitters.spawn(async move {
            let mut turn = 0;
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                let count = connections.len();
                let (status, answer) = connections[turn % count].call("POST", "/api/v1/tasks", ECHO).await?;
                if status != 202 {
                    bail!("{status}: {}", String::from_utf8_lossy(&answer));
                }
                turn += 1;
            }
            Ok(())
        });
    }
    while let Some(ended) = submitters.join_next().await {
        ended??;
    }
    Ok(tasks as f64 / begun.elapsed().as_secs_f64())
}

/// Tasks a second that the agents end, of what gathered while they stood still.
pub(crate) async fn drain(server: &Server, tasks: usize) -> Result<f64> {
    queues(server, "pause").await?;
    bulk(server, tasks).await?;
    resumed(server, tasks.div_ceil(BULK) * BULK).await
}

/// The same, of what has gathered.
async fn resumed(server: &Server, tasks: usize) -> Result<f64> {
    let begun = Instant::now();
    queues(server, "resume").await?;
    ended(server).await?;
    Ok(tasks as f64 / begun.elapsed().as_secs_f64())
}

/// Submissions by one connection, as many to a request as the API takes.
pub(crate) async fn bulk(server: &Server, tasks: usize) -> Result<f64> {
    let one: serde_json::Value = serde_json::from_str(ECHO)?;
    let body = json!({"tasks": vec![one; BULK]}).to_string();
    let mut connection = server.connect().await?;
    let begun = Instant::now();
    for _ in 0..tasks.div_ceil(BULK) {
        let (status, answer) = connection.call("POST", "/api/v1/tasks/batch", &body).await?;
        if status != 200 {
            bail!("{status}: {}", String::from_utf8_lossy(&answer));
        }
    }
    Ok((tasks.div_ceil(BULK) * BULK) as f64 / begun.elapsed().as_secs_f64())
}

/// Until no task is under way. The newest is waited for first: to ask again and again for all that are left, while they are
/// many, would be measured too.
pub(crate) async fn ended(server: &Server) -> Result<()> {
    let mut connection = server.connect().await?;
    let (_, newest) = connection.json("GET", "/api/v1/tasks?limit=1", "").await?;
    if let Some(id) = newest["items"][0]["id"].as_str() {
        connection.ended(id).await?;
    }
    for state in ["queued", "running", "aborting"] {
        let path = format!("/api/v1/tasks?state={state}&limit=1");
        while connection.json("GET", &path, "").await?.1["items"].as_array().is_none_or(|items| !items.is_empty()) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    Ok(())
}
