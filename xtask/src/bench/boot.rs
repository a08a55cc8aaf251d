//! A machine from the request to QEMU's start and to the guest's first answer, beside the same QEMU started by hand,
//! one after the other so that both see the same hour of this host.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    server::Server,
    table::{Row, quantile},
};

/// So many machines.
pub(crate) async fn measure(boots: usize) -> Result<Vec<Row>> {
    let server = Server::start(&[], 1).await?;
    let (mut to_exec, mut to_ready, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
    // The first fills the image cache and is not counted.
    for number in 0..=boots {
        let (exec, ready) = boot(&server).await?;
        let hand = boot_by_hand()?;
        if number > 0 {
            to_exec.push(exec);
            to_ready.push(ready);
            by_hand.push(hand);
        }
    }
    let floor = quantile(&mut by_hand, 0.5);
    Ok(vec![
        Row::at_most("POST /vms to QEMU's exec, cached image, p50", quantile(&mut to_exec, 0.5), "ms", 60.0),
        Row::at_most_times(
            "create to ready, beside QEMU by hand, medians",
            quantile(&mut to_ready, 0.5),
            "ms",
            floor,
            1.1,
        ),
    ])
}

/// Milliseconds from the request to QEMU's start, and to the guest's first answer.
async fn boot(server: &Server) -> Result<(f64, f64)> {
    let mut connection = server.connect().await?;
    let submitted = jiff::Timestamp::now();
    let (status, answer) = connection.json("POST", "/api/v1/vms", "{}").await?;
    if status != 202 {
        bail!("{status}: {answer}");
    }
    let task = connection.ended(answer["task"]["id"].as_str().context("id")?).await?;
    if task["state"] != "succeeded" {
        bail!("a machine was not made: {task}");
    }
    let vm = answer["vm"]["id"].as_str().context("vm")?;
    let (_, deleted) = connection.json("DELETE", &format!("/api/v1/vms/{vm}"), "").await?;
    connection.ended(deleted["task"]["id"].as_str().context("id")?).await?;
    let since = |key: &str| -> Result<f64> {
        let moment: jiff::Timestamp = task[key].as_str().context("a moment")?.parse()?;
        Ok((moment.as_microsecond() - submitted.as_microsecond()) as f64 / 1000.0)
    };
    Ok((since("started_at")? + before_start(&task), since("finished_at")?))
}

/// The phases before QEMU is started.
fn before_start(task: &Value) -> f64 {
    let phases = task["phases"].as_array().into_iter().flatten();
    phases.take_while(|phase| phase["phase"] != "start").filter_map(|phase| phase["ms"].as_f64()).sum()
}

fn boot_by_hand() -> Result<f64> {
    let output = Command::new("images/tiny/boot-by-hand").arg("target/images/tiny").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| word.parse::<f64>().ok());
    number.with_context(|| format!("boot-by-hand said {text} {}", String::from_utf8_lossy(&output.stderr)))
}
