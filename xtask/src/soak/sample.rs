//! One look at the server, and the row that it makes.

use std::{fmt, fs, time::Duration};

use anyhow::{Context, Result};
use hostler_e2e::fleet::Fleet;

use super::load::{Load, Times};
use crate::bench::table::quantile;

/// What is looked at, in the order of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Figure {
    Memory,
    Files,
    Database,
    SubmitMedian,
    SubmitTail,
    DispatchMedian,
    DispatchTail,
}

impl Figure {
    pub(super) const ALL: [Figure; 7] = [
        Figure::Memory,
        Figure::Files,
        Figure::Database,
        Figure::SubmitMedian,
        Figure::SubmitTail,
        Figure::DispatchMedian,
        Figure::DispatchTail,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Figure::Memory => "resident, MiB",
            Figure::Files => "open files",
            Figure::Database => "database, MiB",
            Figure::SubmitMedian => "submit p50, ms",
            Figure::SubmitTail => "submit p99, ms",
            Figure::DispatchMedian => "dispatch p50, ms",
            Figure::DispatchTail => "dispatch p99, ms",
        }
    }
}

/// All of it at one moment.
pub(super) struct Sample {
    at: Duration,
    requests: usize,
    values: [f64; Figure::ALL.len()],
}

impl Sample {
    pub(super) fn take(fleet: &Fleet<'_>, load: &Load, at: Duration) -> Result<Sample> {
        let process = format!("/proc/{}", fleet.pid(0).context("the server runs")?);
        let Times { mut submit, mut dispatch } = load.take();
        let requests = submit.len();
        let values = Figure::ALL.map(|figure| match figure {
            Figure::Memory => resident(&process),
            Figure::Files => Ok(fs::read_dir(format!("{process}/fd"))?.count() as f64),
            Figure::Database => database(fleet),
            Figure::SubmitMedian => Ok(quantile(&mut submit, 0.5)),
            Figure::SubmitTail => Ok(quantile(&mut submit, 0.99)),
            Figure::DispatchMedian => Ok(quantile(&mut dispatch, 0.5)),
            Figure::DispatchTail => Ok(quantile(&mut dispatch, 0.99)),
        });
        let mut all = [0.0; Figure::ALL.len()];
        for (place, value) in all.iter_mut().zip(values) {
            *place = value?;
        }
        Ok(Sample { at, requests, values: all })
    }

    /// When, in minutes.
    pub(super) fn minutes(&self) -> f64 {
        self.at.as_secs_f64() / 60.0
    }

    pub(super) fn value(&self, figure: Figure) -> f64 {
        self.values[figure as usize]
    }
}

fn resident(process: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// The file, and what is not in it yet.
fn database(fleet: &Fleet<'_>) -> Result<f64> {
    let file = fleet.folder("server-0/hostler.db");
    let log = fs::metadata(file.with_extension("db-wal")).map_or(0, |meta| meta.len());
    Ok((fs::metadata(&file)?.len() + log) as f64 / f64::from(1 << 20))
}

/// The head of the table.
pub(super) fn head() -> String {
    let names: Vec<&str> = Figure::ALL.iter().map(|figure| figure.name()).collect();
    format!("| after, min | submits | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()))
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {:.1} | {} |", self.minutes(), self.requests)?;
        self.values.iter().try_for_each(|value| match *value {
            value if value >= 100.0 => write!(f, " {value:.0} |"),
            value => write!(f, " {value:.2} |"),
        })
    }
}
