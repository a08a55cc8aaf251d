//! Eight machines asked for at once, beside eight QEMUs started at once by hand; both until the last guest answers.

use std::{thread, time::Instant};

use anyhow::{Context, Result, bail};

use super::{
    by_hand::ByHand,
    server::Server,
    table::{Row, quantile},
};

const MACHINES: usize = 8;

/// So many times, in turn.
pub(crate) async fn measure(times: usize) -> Result<Vec<Row>> {
    let server = Server::start(&[], 1).await?;
    // The image is fetched once before anything is counted.
    let mut connection = server.connect().await?;
    let first = connection.machine("{}").await?;
    connection.done("DELETE", &format!("/api/v1/vms/{first}"), "").await?;
    let (mut ours, mut own) = (Vec::new(), Vec::new());
    for _ in 0..times {
        ours.push(through(&server).await?);
        own.push(by_hand()?);
    }
    let rate = |seconds: f64| MACHINES as f64 / seconds;
    let (ours, own) = (quantile(&mut ours, 0.5), quantile(&mut own, 0.5));
    Ok(vec![Row::at_least_times(
        "eight creates at once, beside eight QEMUs by hand",
        rate(ours),
        "VMs/s",
        rate(own),
        0.7,
    )])
}

async fn through(server: &Server) -> Result<f64> {
    let mut connection = server.connect().await?;
    let (begun, mut tasks, mut vms) = (Instant::now(), Vec::new(), Vec::new());
    for _ in 0..MACHINES {
        let (status, answer) = connection.json("POST", "/api/v1/vms", "{}").await?;
        if status != 202 {
            bail!("{status}: {answer}");
        }
        tasks.push(answer["task"]["id"].as_str().context("id")?.to_owned());
        vms.push(answer["vm"]["id"].as_str().context("id")?.to_owned());
    }
    for task in &tasks {
        let task = connection.ended(task).await?;
        if task["state"] != "succeeded" {
            bail!("a machine was not made: {task}");
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    for vm in &vms {
        connection.done("DELETE", &format!("/api/v1/vms/{vm}"), "").await?;
    }
    Ok(seconds)
}

fn by_hand() -> Result<f64> {
    let begun = Instant::now();
    let machines = (0..MACHINES).map(|_| ByHand::start(128)).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let answers: Vec<_> = machines.iter().map(|machine| scope.spawn(|| machine.agent().map(drop))).collect();
        answers.into_iter().try_for_each(|answer| answer.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    Ok(begun.elapsed().as_secs_f64())
}
