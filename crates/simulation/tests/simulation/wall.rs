//! Wall clocks: they run with tokio's time, which is held still and moved on when everybody waits, and can be set wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use hostler_model::{Clock, Timestamp};
use tokio::time::Instant;

/// When every simulation begins.
const BEGINNING: i64 = 1_800_000_000_000_000;

/// The clock of one machine. Clones share it.
#[derive(Clone)]
pub struct Wall {
    began: Instant,
    ahead: Arc<AtomicI64>,
}

impl Wall {
    /// One that is right, in a simulation that began then.
    pub fn new(began: Instant) -> Wall {
        Wall { began, ahead: Arc::default() }
    }

    pub fn clock(&self) -> Clock {
        let Wall { began, ahead } = self.clone();
        Clock::from_fn(move || {
            let micros = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX);
            Timestamp::from_micros(BEGINNING + micros + ahead.load(Ordering::Relaxed))
        })
    }

    /// Sets it by so many microseconds, forwards or back.
    pub fn jump(&self, by: i64) {
        self.ahead.fetch_add(by, Ordering::Relaxed);
    }

    /// Moves on by so much, as if it had been waited for.
    pub fn pass(&self, time: Duration) {
        self.jump(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    }

    pub fn set_right(&self) {
        self.ahead.store(0, Ordering::Relaxed);
    }
}
