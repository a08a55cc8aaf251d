//! `cargo xtask simulate`: seeds of the simulation (`crates/simulation`), optimised, with the checks of a debug build.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

/// Which seeds.
#[derive(Args)]
pub(crate) struct Simulate {
    /// How many.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// From this one on.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this one, told line by line.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Instead: the bugs that are planted, and by which seeds they are found.
    #[arg(long, conflicts_with_all = ["seeds", "from", "seed"])]
    planted: bool,
}

/// Builds the simulation and runs it.
pub(crate) fn run(wanted: &Simulate) -> Result<ExitCode> {
    let seeds = match wanted.seed {
        Some(seed) => seed.to_string(),
        None => format!("{}..{}", wanted.from, wanted.from + wanted.seeds),
    };
    let test = if wanted.planted { "every_planted_bug_is_found" } else { "seeds_keep_every_promise" };
    let status = Command::new("cargo")
        .args(["test", "--quiet", "--locked", "--package", "hostler-simulation"])
        .args(["--all-features", "--test", "simulation", "--", "--exact", test, "--nocapture"])
        .env("HOSTLER_SEEDS", seeds)
        // Our own crates as fast as the others; everything else of the build is that of the tests.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
