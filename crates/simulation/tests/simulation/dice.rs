//! Chance by seed: every number of a simulation comes from here.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// A source of chance. Clones share it.
#[derive(Clone)]
pub struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// Dice of their own: what is thrown with these changes nothing there.
    pub fn apart(&self) -> Dice {
        Dice::new(self.number())
    }

    pub fn number(&self) -> u64 {
        self.rng().random()
    }

    /// Whether something happens that does at this rate.
    pub fn happens(&self, rate: f64) -> bool {
        self.rng().random::<f64>() < rate
    }

    /// A number in a range that is not empty.
    pub fn within(&self, range: Range<u64>) -> u64 {
        self.rng().random_range(range)
    }

    pub fn ms(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// One of them, where there are any.
    pub fn one<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.rng().random_range(0..of.len())) }
    }

    /// One of several, each as often as its weight says.
    pub fn weighed<T: Copy>(&self, of: &[(u64, T)]) -> T {
        let mut left = self.within(0..of.iter().map(|(weight, _)| weight).sum());
        for (weight, one) in of {
            if left < *weight {
                return *one;
            }
            left -= weight;
        }
        of[0].1
    }

    fn rng(&self) -> MutexGuard<'_, StdRng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
