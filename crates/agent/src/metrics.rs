//! What an agent counts of its deliveries.

use std::sync::atomic::{AtomicU64, Ordering};

use hostler_model::refused::Why;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        impl Counter {
            /// Every counter.
            pub const ALL: &'static [Counter] = &[$(Counter::$name),*];

            /// Its name, for metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Counter::$name => $text,)* }
            }
        }
    };
}

counters! {
    /// Tasks begun.
    Begun = "tasks_begun";
    /// Later fences under which work under way went on.
    Adopted = "tasks_adopted";
    /// Deliveries answered with a stored result.
    Answered = "tasks_answered";
    /// Repeats of what was under way.
    Ignored = "tasks_ignored";
    /// Deliveries of a fence that had been passed.
    Stale = "tasks_stale";
    /// Deliveries refused, for whichever reason.
    Refused = "tasks_refused";
    /// Offers that came to nothing: cancelled, or another attempt is current.
    Lapsed = "offers_over";
    /// Results written down.
    Ended = "tasks_ended";
}

/// The counters of one agent.
#[derive(Debug)]
pub struct Metrics {
    counters: [AtomicU64; Counter::ALL.len()],
    refused: [AtomicU64; Why::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Metrics {
        let zero = |_| AtomicU64::new(0);
        Metrics { counters: std::array::from_fn(zero), refused: std::array::from_fn(zero) }
    }
}

impl Metrics {
    /// One more.
    pub fn add(&self, counter: Counter) {
        self.counters[counter as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    /// One more that was refused.
    pub fn refuse(&self, why: Why) {
        self.add(Counter::Refused);
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were refused for this reason so far.
    pub fn refused(&self, why: Why) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }
}
