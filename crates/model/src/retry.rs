//! Retries: how many, and how long apart. A kind states its policy; a submission may ask for another within bounds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Refusal;

/// The most attempts that may be asked for.
const ATTEMPTS: u32 = 100;
/// The longest pause that may be asked for: a day.
const PAUSE: u32 = 24 * 60 * 60;

/// How many attempts, and the pauses between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RetryPolicy {
    /// The first one included.
    pub attempts: u32,
    /// How the pauses grow.
    pub backoff: Backoff,
    /// The pause before the second attempt, in seconds. Half of each pause is left to chance.
    pub first_seconds: u32,
    /// No pause is longer.
    pub most_seconds: u32,
}

/// How the pauses grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// Each is longer than the one before by the first.
    Linear,
    /// Each is twice as long as the one before.
    Exponential,
}

/// What a submission asks for; the kind's own policy stands for what is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct RetryAsked {
    /// The first one included, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// How the pauses grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// The pause before the second attempt, 1 to 86,400 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seconds: Option<u32>,
    /// The longest pause, no shorter than the first and at most 86,400 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_seconds: Option<u32>,
}

impl RetryAsked {
    /// What is asked for here, and for what is left out what was asked for elsewhere.
    pub(crate) fn over(self, other: RetryAsked) -> RetryAsked {
        RetryAsked {
            attempts: self.attempts.or(other.attempts),
            backoff: self.backoff.or(other.backoff),
            first_seconds: self.first_seconds.or(other.first_seconds),
            most_seconds: self.most_seconds.or(other.most_seconds),
        }
    }
}

impl From<RetryPolicy> for RetryAsked {
    fn from(policy: RetryPolicy) -> RetryAsked {
        RetryAsked {
            attempts: Some(policy.attempts),
            backoff: Some(policy.backoff),
            first_seconds: Some(policy.first_seconds),
            most_seconds: Some(policy.most_seconds),
        }
    }
}

/// Whether an attempt whose end is not known may be made once more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeatable {
    /// It has no effect, the same one, or looks at what is there.
    Yes,
    /// Nobody repeats it but a person: more attempts than the kind has cannot be asked for.
    No,
}

impl RetryPolicy {
    /// Only the first attempt.
    pub const ONCE: RetryPolicy = RetryPolicy::exponential(1, 1, 1);

    /// Pauses that double from the first to the longest: for what may be away for long, or is asked for by many at once.
    pub const fn exponential(attempts: u32, first_seconds: u32, most_seconds: u32) -> RetryPolicy {
        RetryPolicy { attempts, backoff: Backoff::Exponential, first_seconds, most_seconds }
    }

    /// Pauses that grow by the first up to the longest: for what is wanted soon or not at all.
    pub const fn linear(attempts: u32, first_seconds: u32, most_seconds: u32) -> RetryPolicy {
        RetryPolicy { attempts, backoff: Backoff::Linear, first_seconds, most_seconds }
    }

    /// This policy with what was asked for in its place.
    ///
    /// # Errors
    /// When a number is out of bounds, or the kind is not to be repeated.
    pub fn with(self, asked: &RetryAsked, repeatable: Repeatable) -> Result<RetryPolicy, Refusal> {
        let policy = RetryPolicy {
            attempts: asked.attempts.unwrap_or(self.attempts),
            backoff: asked.backoff.unwrap_or(self.backoff),
            first_seconds: asked.first_seconds.unwrap_or(self.first_seconds),
            most_seconds: asked
                .most_seconds
                .unwrap_or_else(|| self.most_seconds.max(asked.first_seconds.unwrap_or_default())),
        };
        bounded("retry.attempts", policy.attempts, 1, ATTEMPTS)?;
        bounded("retry.first_seconds", policy.first_seconds, 1, PAUSE)?;
        bounded("retry.most_seconds", policy.most_seconds, policy.first_seconds, PAUSE)?;
        if repeatable == Repeatable::No && policy.attempts > self.attempts {
            let detail = format!(
                "this kind has at most {} attempts: what it did when its end is not known is not done again by itself",
                self.attempts
            );
            return Err(Refusal::field("retry.attempts", detail));
        }
        Ok(policy)
    }

    /// Whether another attempt may follow attempt number `attempt`.
    pub fn allows(&self, attempt: u32) -> bool {
        attempt < self.attempts
    }

    /// The pause after attempt number `attempt`; see [`Backoff::pause`].
    pub fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        let (first, most) =
            (Duration::from_secs(self.first_seconds.into()), Duration::from_secs(self.most_seconds.into()));
        self.backoff.pause(first, most, attempt, jitter)
    }
}

impl Backoff {
    /// The pause after attempt number `attempt`: half of it fixed, half by `jitter` (0 to 1), so that many who failed
    /// together do not come back together.
    pub fn pause(self, first: Duration, most: Duration, attempt: u32, jitter: f64) -> Duration {
        let times = match self {
            Backoff::Linear => attempt.max(1),
            Backoff::Exponential => 1 << attempt.saturating_sub(1).min(20),
        };
        first.saturating_mul(times).min(most).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// Refuses a number that is out of bounds.
pub(crate) fn bounded(field: &str, value: u32, least: u32, most: u32) -> Result<(), Refusal> {
    if value < least || value > most {
        return Err(Refusal::field(field, format!("{value} is not between {least} and {most}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(policy: RetryPolicy) -> Vec<u64> {
        (1..7).map(|n| policy.delay(n, 1.0).as_secs()).collect()
    }

    #[test]
    fn pauses_grow_as_asked_and_stay_bounded() {
        let policy = RetryPolicy::exponential(9, 1, 10);
        assert_eq!(pauses(policy), [1, 2, 4, 8, 10, 10]);
        assert_eq!(policy.delay(2, 0.0), Duration::from_secs(1));
        assert_eq!(policy.delay(u32::MAX, 1.0), Duration::from_secs(10));
        let policy = RetryPolicy::linear(9, 3, 10);
        assert_eq!(pauses(policy), [3, 6, 9, 10, 10, 10]);
        assert_eq!(policy.delay(u32::MAX, 1.0), Duration::from_secs(10));
    }

    #[test]
    fn what_is_asked_for_takes_the_place_of_the_kinds_own_within_bounds() {
        let own = RetryPolicy::exponential(3, 1, 60);
        let asked = RetryAsked { attempts: Some(4), first_seconds: Some(90), ..RetryAsked::default() };
        let policy = own.with(&asked, Repeatable::Yes).unwrap();
        let wanted = RetryPolicy { attempts: 4, first_seconds: 90, most_seconds: 90, ..own };
        assert_eq!(policy, wanted);
        let field = |asked: RetryAsked, repeatable| own.with(&asked, repeatable).unwrap_err().facts["field"].clone();
        let none = RetryAsked::default();
        assert_eq!(field(RetryAsked { attempts: Some(0), ..none }, Repeatable::Yes), "retry.attempts");
        assert_eq!(field(RetryAsked { attempts: Some(101), ..none }, Repeatable::Yes), "retry.attempts");
        assert_eq!(field(RetryAsked { attempts: Some(4), ..none }, Repeatable::No), "retry.attempts");
        assert_eq!(field(RetryAsked { first_seconds: Some(0), ..none }, Repeatable::Yes), "retry.first_seconds");
        let shorter = RetryAsked { first_seconds: Some(9), most_seconds: Some(8), ..none };
        assert_eq!(field(shorter, Repeatable::Yes), "retry.most_seconds");
        assert!(own.with(&RetryAsked { attempts: Some(2), ..none }, Repeatable::No).is_ok());
    }
}
