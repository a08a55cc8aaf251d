//! The whole life of `echo`: submitted over HTTP by 32 connections, leased, signed, journalled, run and settled by four
//! simulated agents. The clock stops when the last task has ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, bail};

use super::{commit, server::Server, table::Row};

const CONNECTIONS: usize = 32;

/// So many tasks.
pub(crate) async fn measure(tasks: usize) -> Result<Vec<Row>> {
    let before = commit::one_row_commits()?;
    let server = Server::start(&["--driver", "sim", "--nodes", "4"], 4).await?;
    run(&server, tasks / 10).await?;
    let rate = run(&server, tasks).await?;
    let floor = f64::midpoint(before, commit::one_row_commits()?);
    Ok(vec![Row::at_least_times("whole life of echo, 32 connections, 4 agents", rate, "tasks/s", floor, 1.0)])
}

async fn run(server: &Server, tasks: usize) -> Result<f64> {
    let left = Arc::new(AtomicUsize::new(tasks));
    let begun = Instant::now();
    let mut submitters = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (mut connection, left) = (server.connect().await?, left.clone());
        submitters.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                let body = r#"{"kind":"echo","params":{"message":"forty bytes, as the peers are measured"}}"#;
                let (status, answer) = connection.call("POST", "/api/v1/tasks", body).await?;
                if status != 202 {
                    bail!("{status}: {}", String::from_utf8_lossy(&answer));
                }
            }
            Ok(())
        });
    }
    while let Some(ended) = submitters.join_next().await {
        ended??;
    }
    let mut connection = server.connect().await?;
    for state in ["queued", "running", "aborting"] {
        let path = format!("/api/v1/tasks?state={state}&limit=1");
        while connection.json("GET", &path, "").await?.1["items"].as_array().is_none_or(|items| !items.is_empty()) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    Ok(tasks as f64 / begun.elapsed().as_secs_f64())
}
