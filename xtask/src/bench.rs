//! The figures of `docs/benchmarks.md`: each beside its floor, measured in the same run on the same disk.
//!
//! Everything is measured from outside, against a release build of `hostler dev` in a process of its own. Nothing here
//! is a test: a figure that misses its target is printed as missed.

mod boot;
mod burst;
mod by_hand;
mod claim;
mod commit;
mod dispatch;
mod exec;
mod fleet;
mod history;
mod hot;
pub(crate) mod http;
mod life;
mod memory;
mod peers;
mod power;
mod queue;
mod recovery;
mod server;
mod snapshot;
mod sql;
pub(crate) mod table;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::table::Row;

/// What to measure.
#[derive(Args)]
pub(crate) struct Bench {
    /// Only this one: dispatch, life, queue, hot, claim, fleet, boot, burst, exec, power, snapshot, memory, recovery, or
    /// peers, which is measured only when it is named: it installs other queues from their registries.
    #[arg(long)]
    only: Option<String>,
    /// Also write the rows here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How many tasks a whole-life run has.
    #[arg(long, default_value_t = 20_000)]
    tasks: usize,
    /// How many finished tasks are in the database when tasks are claimed, or a server is killed.
    #[arg(long, default_value_t = 1_000_000)]
    history: u64,
    /// How many agents are connected at once.
    #[arg(long, default_value_t = 10_000)]
    agents: usize,
    /// How many machines are booted, each beside one booted by hand.
    #[arg(long, default_value_t = 7)]
    boots: usize,
}

const NAMES: [&str; 14] = [
    "dispatch", "life", "queue", "hot", "claim", "fleet", "boot", "burst", "exec", "power", "snapshot", "memory",
    "recovery", "peers",
];

/// Builds what is measured, measures, and prints the table.
pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    if let Some(only) = &bench.only
        && !NAMES.contains(&only.as_str())
    {
        bail!("there is no benchmark {only:?}; there are {}", NAMES.join(", "));
    }
    if cfg!(debug_assertions) {
        return in_release();
    }
    build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let rows = runtime.block_on(measure(bench))?;
    if !rows.is_empty() {
        table::print(&rows);
    }
    if let Some(file) = &bench.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows)?).with_context(|| file.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A load generator without optimisation would measure itself.
pub(crate) fn in_release() -> Result<ExitCode> {
    let status = Command::new("cargo")
        .args(["run", "--quiet", "--locked", "--release", "--package", "xtask", "--"])
        .args(std::env::args_os().skip(1))
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The release build of what is measured, unless `HOSTLER_BIN` names another.
pub(crate) fn build() -> Result<()> {
    if std::env::var_os("HOSTLER_BIN").is_some() {
        return Ok(());
    }
    let status =
        Command::new("cargo").args(["build", "--quiet", "--locked", "--release", "--package", "hostler"]).status()?;
    if !status.success() {
        bail!("the release build failed");
    }
    Ok(())
}

async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let wanted = |name: &str| bench.only.as_deref().is_none_or(|only| only == name);
    let mut rows = Vec::new();
    if wanted("dispatch") {
        rows.extend(dispatch::measure(500).await?);
    }
    if wanted("life") {
        rows.extend(life::measure(bench.tasks).await?);
    }
    if wanted("queue") {
        rows.extend(queue::measure(bench.tasks).await?);
    }
    if wanted("hot") {
        rows.extend(hot::measure(bench.tasks).await?);
    }
    if wanted("claim") {
        rows.extend(claim::measure(bench.tasks, bench.history).await?);
    }
    if wanted("fleet") {
        rows.extend(fleet::measure(bench.agents).await?);
    }
    if wanted("boot") {
        rows.extend(boot::measure(bench.boots).await?);
    }
    if wanted("burst") {
        rows.extend(burst::measure(bench.boots.div_ceil(2)).await?);
    }
    if wanted("exec") {
        rows.extend(exec::measure(100).await?);
    }
    if wanted("power") {
        rows.extend(power::measure(100).await?);
    }
    if wanted("snapshot") {
        rows.extend(snapshot::measure(bench.boots).await?);
    }
    if wanted("memory") {
        rows.extend(memory::measure().await?);
    }
    if wanted("recovery") {
        rows.extend(recovery::measure(usize::try_from(bench.history)?).await?);
    }
    if bench.only.as_deref() == Some("peers") {
        peers::measure(bench.tasks).await?;
    }
    Ok(rows)
}
