//! `cargo xtask soak`: a server in a process of its own with a thousand nodes and ten thousand machines, under the same
//! load for as long as is asked: does it stay as it was?
//!
//! Every ten seconds a row: memory, open files, database, and how long submissions and dispatches took. At the end a
//! verdict (`verdict.rs`), which is also the exit code. The nodes are agents of the product with simulated hosts, in this
//! process; what is measured is the server's alone. Never here: how fast it could be, which `bench` tells.

mod fleet;
mod load;
mod sample;
mod verdict;

use std::{
    io::Write,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use tokio::time::sleep;

use self::{load::Load, sample::Sample};
use crate::bench;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(10);

/// How long, and how much.
#[derive(Args)]
pub(crate) struct Soak {
    /// How many minutes under load; what is set up before is not counted.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..))]
    minutes: u64,
    /// How many nodes.
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// How many machines there are all the time.
    #[arg(long, default_value_t = 10_000)]
    machines: usize,
    /// How many requests a second.
    #[arg(long, default_value_t = 50)]
    rate: u64,
}

/// Builds what is measured, sets it up, and looks at it for as long as is asked.
pub(crate) fn run(soak: &Soak) -> Result<ExitCode> {
    if cfg!(debug_assertions) {
        return bench::in_release();
    }
    bench::build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let samples = runtime.block_on(soaked(soak))?;
    // Agents that are under way go with their threads.
    runtime.shutdown_background();
    Ok(if verdict::given(&samples)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn soaked(soak: &Soak) -> Result<Vec<Sample>> {
    let begun = Instant::now();
    let (fleet, mut agents, _folder) = fleet::started(soak.agents).await?;
    note(&format!("{} nodes after {:.0} s", soak.agents, begun.elapsed().as_secs_f64()));
    let load = Arc::new(Load::new(&fleet));
    load.fill(soak.machines).await?;
    note(&format!("{} machines after {:.0} s", soak.machines, begun.elapsed().as_secs_f64()));
    let mut people = load.clone().begin(soak.rate);
    let (begun, mut samples) = (Instant::now(), Vec::new());
    print(&sample::head());
    while begun.elapsed() < Duration::from_secs(soak.minutes * 60) {
        tokio::select! {
            () = sleep(EVERY) => {}
            Some(ended) = people.join_next() => ended??,
            Some(ended) = agents.join_next() => ended??,
        }
        let sample = Sample::take(&fleet, &load, begun.elapsed())?;
        print(&sample.to_string());
        samples.push(sample);
    }
    people.shutdown().await;
    agents.shutdown().await;
    Ok(samples)
}

fn note(text: &str) {
    eprintln!("{text}");
}

/// A reader who has gone does not end a soak.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
