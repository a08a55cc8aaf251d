//! Retries: how many, and how long apart.

use std::time::Duration;

/// How many attempts, and the pauses between them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryPolicy {
    /// The first one included.
    pub attempts: u32,
    /// The pauses.
    pub backoff: Backoff,
}

/// How the pauses grow.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Backoff {
    /// `first`, twice that, and so on, to `most`.
    Exponential {
        /// Before the second attempt.
        first: Duration,
        /// Never more.
        most: Duration,
    },
}

impl RetryPolicy {
    /// Whether another attempt may follow attempt number `attempt`.
    pub fn allows(&self, attempt: u32) -> bool {
        attempt < self.attempts
    }

    /// The pause after attempt number `attempt`: half of it fixed, half by `jitter` (0 to 1), so that many tasks that
    /// failed together do not come back together.
    pub fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        let Backoff::Exponential { first, most } = self.backoff;
        let doubled = first.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1).min(20)).unwrap_or(u32::MAX));
        doubled.min(most).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_stay_bounded() {
        let policy = RetryPolicy {
            attempts: 9,
            backoff: Backoff::Exponential { first: Duration::from_secs(1), most: Duration::from_secs(10) },
        };
        let whole: Vec<u64> = (1..7).map(|n| policy.delay(n, 1.0).as_secs()).collect();
        assert_eq!(whole, [1, 2, 4, 8, 10, 10]);
        assert_eq!(policy.delay(2, 0.0), Duration::from_secs(1));
        assert_eq!(policy.delay(u32::MAX, 1.0), Duration::from_secs(10));
    }
}
