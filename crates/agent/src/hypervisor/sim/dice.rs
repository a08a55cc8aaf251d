//! Chance by seed: the same seed, machine, question and count give the same numbers, in whatever order they are asked.

use std::{ops::Range, time::Duration};

use hostler_model::VmId;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// What is decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Throw {
    Create,
    Boot,
    Exec,
    Remove,
    Power,
    Snapshot,
    FirstBoot,
}

/// The numbers of one decision.
#[derive(Debug)]
pub(super) struct Dice(StdRng);

impl Dice {
    pub(super) fn new(seed: u64, id: VmId, throw: Throw, count: u64) -> Dice {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..24].copy_from_slice(id.0.as_bytes());
        // A decision is asked for less than 2^56 times.
        key[24..].copy_from_slice(&(count << 8 | throw as u64).to_le_bytes());
        Dice(StdRng::from_seed(key))
    }

    /// Whether something happens that does at this rate.
    pub(super) fn happens(&mut self, rate: f64) -> bool {
        self.0.random::<f64>() < rate
    }

    /// A time within a range.
    pub(super) fn within(&mut self, range: &Range<Duration>) -> Duration {
        range.start + range.end.saturating_sub(range.start).mul_f64(self.0.random())
    }
}
