//! `cargo xtask simulate`: seeds of the simulation (`crates/simulation`), or of the store's histories
//! (`crates/store/tests/conformance/books`), optimised, with the checks of a debug build.

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
    /// Instead of whole systems: histories of the store alone, with crashes, and its books against what exists.
    #[arg(long, conflicts_with = "planted")]
    books: bool,
}

/// Which seeds of the simulation run.
const SEEDS: &str = "HOSTLER_SEEDS";

/// Builds the simulation and runs it.
pub(crate) fn run(wanted: &Simulate) -> Result<ExitCode> {
    let seeds = match wanted.seed {
        Some(seed) => seed.to_string(),
        None => format!("{}..{}", wanted.from, wanted.from + wanted.seeds),
    };
    let (package, tests, test, which) = match (wanted.books, wanted.planted) {
        (true, _) => {
            let test = "books::the_books_are_what_exists_whatever_happens";
            ("hostler-store", "conformance", test, "HOSTLER_HISTORIES")
        }
        (false, true) => ("hostler-simulation", "simulation", "every_planted_bug_is_found", SEEDS),
        (false, false) => ("hostler-simulation", "simulation", "seeds_keep_every_promise", SEEDS),
    };
    let status = Command::new("cargo")
        .args(["test", "--quiet", "--locked", "--package", package])
        .args(["--all-features", "--test", tests, "--", "--exact", test, "--nocapture"])
        .env(which, seeds)
        // Our own crates as fast as the others; everything else of the build is that of the tests.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
