//! Whole systems from one seed: a server with its store, agents with simulated hosts, and users, in one process, on one
//! thread, in virtual time. The network loses, repeats, delays and is cut; clocks jump; servers and agents die wherever
//! they stand and start again from what is on their disks.
//!
//! ```text
//! users ──┐                                ┌── agents ── hosts
//!         ├── net (faults) ── server ──────┤
//! history ┘   (the log, read and never forgotten)
//! ```
//!
//! A seed that fails says the command that runs it once more, line by line.

mod chaos;
mod check;
mod dice;
mod disk;
mod history;
mod net;
mod node;
mod progress;
mod run;
mod server;
mod trace;
mod user;
mod wall;

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use self::{
    progress::Progress,
    run::{Came, Wanted, simulate},
    trace::{Counts, Voice},
};

/// Which seeds `seeds_keep_every_promise` runs: `from..to`, or one, which is then told line by line.
const SEEDS: &str = "HOSTLER_SEEDS";
/// How many run where nothing is said.
const SOME: u64 = 200;

/// Which seeds are asked for, and how they are to be told.
fn wanted() -> (Range<u64>, Voice) {
    let text = std::env::var(SEEDS).unwrap_or_else(|_| format!("0..{SOME}"));
    let number =
        |text: &str| text.parse().unwrap_or_else(|_| panic!("{SEEDS} is `from..to` or a number, not {text:?}"));
    match text.split_once("..") {
        Some((from, to)) => (number(from)..number(to), Voice::Quiet),
        None => (number(&text)..number(&text) + 1, Voice::Loud),
    }
}

fn came(wanted: Wanted) -> Came {
    simulate(wanted).unwrap_or_else(|error| panic!("seed {} cannot be run: {error:#}", wanted.seed))
}

/// What to read and to type when a seed fails.
fn report(seed: u64, wrongs: &[String]) -> String {
    format!("seed {seed}:\n  {}\n  replay it with: cargo xtask simulate --seed {seed}", wrongs.join("\n  "))
}

#[test]
fn the_same_seed_has_the_same_history() {
    for seed in [1, 7, 23] {
        let [one, other] = [came(Wanted::seed(seed)), came(Wanted::seed(seed))];
        assert!(one.lines > 300, "seed {seed} has hardly a history: {} lines", one.lines);
        assert_eq!((one.digest, one.lines), (other.digest, other.lines), "seed {seed}");
    }
}

#[test]
fn seeds_keep_every_promise() {
    let (seeds, voice) = wanted();
    let (next, began) = (AtomicU64::new(seeds.start), Instant::now());
    let progress = Progress::new(seeds.end - seeds.start);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let (mut failed, mut counts, mut took) = (Vec::new(), Counts::new(), Duration::ZERO);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return (failed, counts, took);
            }
            let came = came(Wanted { voice, ..Wanted::seed(seed) });
            took += came.took;
            progress.one(came.wrongs.is_empty());
            came.counts.iter().for_each(|(kind, times)| *counts.entry(kind.clone()).or_default() += times);
            if !came.wrongs.is_empty() {
                eprintln!("{}", report(seed, &came.wrongs));
                failed.push(seed);
            }
        }
    };
    let done: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a simulation broke down")).collect()
    });
    let took: Duration = done.iter().map(|(_, _, took)| *took).sum();
    let (count, real) = (seeds.end - seeds.start, began.elapsed().as_secs_f64());
    eprintln!(
        "{count} seeds in {real:.1} s ({:.1} a second on {threads} threads), {:.1} h of virtual time",
        count as f64 / real,
        took.as_secs_f64() / 3600.0
    );
    let mut counts = Counts::new();
    for (kind, times) in done.iter().flat_map(|(_, counts, _)| counts) {
        *counts.entry(kind.clone()).or_default() += times;
    }
    let counts: Vec<String> = counts.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
    eprintln!("{}", counts.join(", "));
    let failed: Vec<u64> = done.into_iter().flat_map(|(failed, ..)| failed).collect();
    assert!(failed.is_empty(), "seeds that broke a promise: {failed:?}");
}

#[cfg(feature = "planted-bugs")]
#[test]
fn every_planted_bug_is_found() {
    use hostler_model::planted::Bug;

    /// How many seeds may pass before one finds it.
    const PATIENCE: u64 = 400;
    let find = |bug| {
        (0..PATIENCE).find_map(|seed| {
            let came = came(Wanted { bug: Some(bug), ..Wanted::seed(seed) });
            came.wrongs.first().cloned().map(|wrong| (seed, wrong))
        })
    };
    for bug in Bug::ALL {
        let (seed, wrong) = find(bug).unwrap_or_else(|| panic!("{bug:?} was not found by {PATIENCE} seeds"));
        eprintln!("{bug:?} is found by seed {seed}: {wrong}");
    }
}
