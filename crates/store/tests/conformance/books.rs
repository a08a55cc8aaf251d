//! Random histories with crashes: whatever people, agents, loops and clocks do, and wherever the server dies, the books are
//! the sums of the allocations, and the allocations are what exists.
//!
//! ```text
//! an act ──► answered                                        ──► … ──► opened once more ──► compared
//!       ├──► its commit finds the disk full, the server dies ──► …
//!       └──► the server dies before it, or before the answer ──► …
//! ```
//!
//! A history that fails says how it is run once more, act by act.

mod check;
mod history;

use std::{
    any::Any,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use self::history::{Counts, History, Voice};

/// Which histories run, by their seeds: `from..to`, or one, which is then told act by act.
const HISTORIES: &str = "HOSTLER_HISTORIES";
/// How many run where nothing is said.
const SOME: u64 = 250;

fn wanted() -> (Range<u64>, Voice) {
    let text = std::env::var(HISTORIES).unwrap_or_else(|_| format!("0..{SOME}"));
    let number =
        |text: &str| text.parse().unwrap_or_else(|_| panic!("{HISTORIES} is `from..to` or a number, not {text:?}"));
    match text.split_once("..") {
        Some((from, to)) => (number(from)..number(to), Voice::Quiet),
        None => (number(&text)..number(&text) + 1, Voice::Loud),
    }
}

/// One history from its beginning, and what is wrong after it.
fn run(seed: u64, voice: Voice) -> Result<Counts, Vec<String>> {
    let live = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut history = History::begin(seed, voice).await;
            history.live().await;
            if voice == Voice::Loud {
                history.tell().await;
            }
            let wrongs = check::wrongs(&history).await;
            if wrongs.is_empty() { Ok(history.counts()) } else { Err(wrongs) }
        })
    };
    catch_unwind(AssertUnwindSafe(live)).unwrap_or_else(|panic| Err(vec![said(panic.as_ref())]))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it broke down: {}", text.unwrap_or("?"))
}

#[test]
fn the_books_are_what_exists_whatever_happens() {
    let (seeds, voice) = wanted();
    let (next, began) = (AtomicU64::new(seeds.start), Instant::now());
    let work = || {
        let (mut failed, mut counts) = (Vec::new(), Counts::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return (failed, counts);
            }
            match run(seed, voice) {
                Ok(more) => more.into_iter().for_each(|(what, times)| *counts.entry(what).or_default() += times),
                Err(wrongs) => {
                    let wrongs = wrongs.join("\n  ");
                    eprintln!(
                        "history {seed}:\n  {wrongs}\n  run it once more with: cargo xtask simulate --books --seed {seed}"
                    );
                    failed.push(seed);
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let done: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no history breaks its thread down")).collect()
    });
    let mut counts = Counts::new();
    for (what, times) in done.iter().flat_map(|(_, counts)| counts) {
        *counts.entry(*what).or_default() += times;
    }
    let told: Vec<String> = counts.iter().map(|(what, times)| format!("{what} {times}")).collect();
    eprintln!("{} histories in {:.1} s: {}", seeds.end - seeds.start, began.elapsed().as_secs_f64(), told.join(", "));
    let failed: Vec<u64> = done.into_iter().flat_map(|(failed, _)| failed).collect();
    assert!(failed.is_empty(), "histories after which the books are not what exists: {failed:?}");
}
