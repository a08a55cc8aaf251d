//! How far a long run of seeds is, said now and then.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Between two lines.
const EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    of: u64,
    done: AtomicU64,
    failed: AtomicU64,
    began: Instant,
    said: Mutex<Instant>,
}

impl Progress {
    pub fn new(of: u64) -> Progress {
        let began = Instant::now();
        Progress { of, done: AtomicU64::new(0), failed: AtomicU64::new(0), began, said: Mutex::new(began) }
    }

    /// One seed more is done.
    pub fn one(&self, well: bool) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let failed = self.failed.fetch_add(u64::from(!well), Ordering::Relaxed) + u64::from(!well);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.elapsed() >= EVERY {
            *said = Instant::now();
            let rate = done as f64 / self.began.elapsed().as_secs_f64();
            eprintln!("{done} of {} seeds, {rate:.1} a second, {failed} failed", self.of);
        }
    }
}
