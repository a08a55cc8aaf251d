//! Repository chores: `cargo xtask check | generate | bench | simulate | soak`.

mod bench;
mod check;
mod generated;
mod simulate;
mod soak;

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
    /// Checks the direction of imports and the documents that are made from the code.
    Check,
    /// Writes the documents that are made from the code: docs/openapi.json, docs/errors.md.
    #[command(alias = "openapi")]
    Generate,
    /// Measures the figures of docs/benchmarks.md.
    Bench(bench::Bench),
    /// Runs whole systems from seeds, in one process and in virtual time; says by which seeds a promise is broken.
    Simulate(simulate::Simulate),
    /// Keeps a server under the same load for minutes, with a thousand nodes; says whether it stayed as it was.
    Soak(soak::Soak),
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().chore {
        Chore::Check => {
            check::run()?;
            generated::compare()?;
        }
        Chore::Generate => generated::write()?,
        Chore::Bench(wanted) => return bench::run(&wanted),
        Chore::Simulate(wanted) => return simulate::run(&wanted),
        Chore::Soak(wanted) => return soak::run(&wanted),
    }
    Ok(ExitCode::SUCCESS)
}
