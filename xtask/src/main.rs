//! Repository chores: `cargo xtask check | openapi | bench`.

mod bench;
mod check;
mod openapi;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Repository chores.
#[derive(Parser)]
#[command(name = "xtask")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Checks the direction of imports and the checked-in API document.
    Check,
    /// Writes docs/openapi.json from the code.
    Openapi,
    /// Measures the figures of docs/benchmarks.md.
    Bench(bench::Bench),
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().chore {
        Chore::Check => {
            check::run()?;
            openapi::compare()?;
        }
        Chore::Openapi => openapi::write()?,
        Chore::Bench(wanted) => return bench::run(&wanted),
    }
    Ok(ExitCode::SUCCESS)
}
