//! Idle dispatch: from the submission's first byte to the handler's start, one task after another, over HTTP.

use anyhow::{Context, Result, bail};

use super::{
    queue::ECHO,
    server::Server,
    table::{Row, quantile},
};

/// The first few warm caches; they are not counted.
const NOT_COUNTED: usize = 20;

/// So many tasks, one after another, through one simulated agent.
pub(crate) async fn measure(tasks: usize) -> Result<Vec<Row>> {
    let server = Server::start(&["--driver", "sim"], 1).await?;
    let mut sample = sample(&server, tasks).await?;
    Ok(vec![
        Row::at_most("idle dispatch, submit to handler start, p50", quantile(&mut sample, 0.5), "ms", 2.5),
        Row::at_most("idle dispatch, submit to handler start, p99", quantile(&mut sample, 0.99), "ms", 10.0),
    ])
}

/// The milliseconds of so many tasks, one after another.
pub(crate) async fn sample(server: &Server, tasks: usize) -> Result<Vec<f64>> {
    let mut connection = server.connect().await?;
    let mut sample = Vec::with_capacity(tasks);
    for number in 0..tasks + NOT_COUNTED {
        let submitted = jiff::Timestamp::now();
        let (status, answer) = connection.json("POST", "/api/v1/tasks", ECHO).await?;
        if status != 202 {
            bail!("{status}: {answer}");
        }
        let task = connection.ended(answer["task"]["id"].as_str().context("id")?).await?;
        let started: jiff::Timestamp = task["started_at"].as_str().context("started_at")?.parse()?;
        if number >= NOT_COUNTED {
            sample.push((started.as_microsecond() - submitted.as_microsecond()) as f64 / 1000.0);
        }
    }
    Ok(sample)
}
