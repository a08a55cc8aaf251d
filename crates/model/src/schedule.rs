//! When a task is leased and how long it may take: priority, earliest time, time in the queue, time to the end, retries.
//!
//! A priority decides among the tasks that a node could begin now; of equals the older comes first. It never changes
//! the order of the tasks on one VM.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    clock::Timestamp,
    error::Refusal,
    kind::{OnUncertain, Spec},
    retry::{Repeatable, RetryAsked, RetryPolicy, bounded},
    task::Rules,
};

/// The longest time in the queue, and the longest delay: thirty days.
const LONGEST: u32 = 30 * 24 * 60 * 60;
/// How many times as long as its kind says a task may take at most.
const STRETCH: u32 = 10;

/// How soon, compared with others: -100 to 100, higher first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "i32", into = "i32")]
#[schema(value_type = i32, minimum = -100, maximum = 100)]
pub struct Priority(i32);

impl Priority {
    /// The number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl TryFrom<i32> for Priority {
    type Error = String;
    fn try_from(value: i32) -> Result<Self, String> {
        if (-100..=100).contains(&value) {
            Ok(Priority(value))
        } else {
            Err(format!("a priority is between -100 and 100, and {value} is not"))
        }
    }
}

impl From<Priority> for i32 {
    fn from(priority: Priority) -> i32 {
        priority.0
    }
}

/// A number, or one of the words `low` (-50), `normal` (0) and `high` (50).
impl FromStr for Priority {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "low" => Ok(Priority(-50)),
            "normal" => Ok(Priority(0)),
            "high" => Ok(Priority(50)),
            number => number
                .parse()
                .map_err(|_| "a priority is low, normal, high, or a number between -100 and 100".to_owned())
                .and_then(|number: i32| Priority::try_from(number)),
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a submission asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Asked {
    /// How soon, compared with others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Not before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not before so many seconds have passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<u32>,
    /// How long it may wait for its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout_seconds: Option<u32>,
    /// How long it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// How often it may be tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryAsked>,
}

impl Asked {
    /// What is asked for here, and for what is left out what was asked for elsewhere.
    pub fn over(self, other: Asked) -> Asked {
        // Both say when it may begin: one of them does.
        let begin = if self.not_before.is_some() || self.delay_seconds.is_some() { self } else { other };
        Asked {
            priority: self.priority.or(other.priority),
            not_before: begin.not_before,
            delay_seconds: begin.delay_seconds,
            queue_timeout_seconds: self.queue_timeout_seconds.or(other.queue_timeout_seconds),
            timeout_seconds: self.timeout_seconds.or(other.timeout_seconds),
            retry: self.retry.map(|retry| retry.over(other.retry.unwrap_or_default())).or(other.retry),
        }
    }
}

/// What holds for a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Schedule {
    /// How soon, compared with others: -100 to 100, higher first.
    #[serde(default)]
    pub priority: Priority,
    /// How long it may wait for its node, from each time on at which it may be leased.
    #[serde(default)]
    pub queue_timeout_seconds: u32,
    /// How long it may take, from the first lease to the end.
    #[serde(default)]
    pub timeout_seconds: u32,
    /// How often it may be tried.
    #[serde(default = "once")]
    pub retry: RetryPolicy,
}

fn once() -> RetryPolicy {
    RetryPolicy::ONCE
}

impl Schedule {
    /// What a kind says of itself.
    pub fn of(spec: &Spec, params: &Value) -> Schedule {
        Schedule {
            priority: Priority::default(),
            queue_timeout_seconds: seconds(spec.queue_deadline),
            timeout_seconds: seconds((spec.timeout)(params)),
            retry: spec.retry,
        }
    }

    /// What a kind says of itself, with what was asked for in its place; and the time before which it is not leased.
    ///
    /// # Errors
    /// When something is out of bounds, or says the same twice.
    pub fn asked(spec: &Spec, params: &Value, asked: &Asked, now: Timestamp) -> Result<(Schedule, Timestamp), Refusal> {
        let own = Schedule::of(spec, params);
        let queue = asked.queue_timeout_seconds.unwrap_or(own.queue_timeout_seconds);
        bounded("queue_timeout_seconds", queue, 1, LONGEST)?;
        let timeout = asked.timeout_seconds.unwrap_or(own.timeout_seconds);
        bounded("timeout_seconds", timeout, 1, own.timeout_seconds.saturating_mul(STRETCH))?;
        let repeatable = match spec.on_uncertain {
            OnUncertain::Inspect | OnUncertain::Rerun => Repeatable::Yes,
            OnUncertain::Fail => Repeatable::No,
        };
        let retry = own.retry.with(&asked.retry.unwrap_or_default(), repeatable)?;
        let schedule = Schedule {
            priority: asked.priority.unwrap_or_default(),
            queue_timeout_seconds: queue,
            timeout_seconds: timeout,
            retry,
        };
        Ok((schedule, earliest(asked, now)?))
    }

    /// What transitions of a task of that kind need to know.
    pub fn rules(&self, spec: &Spec) -> Rules {
        Rules {
            retry: self.retry,
            on_remains: spec.on_remains,
            timeout: Duration::from_secs(self.timeout_seconds.into()),
        }
    }

    /// Until when a task that may be leased from then on may wait for its node.
    pub fn queue_deadline(&self, not_before: Timestamp) -> Timestamp {
        not_before.plus(Duration::from_secs(self.queue_timeout_seconds.into()))
    }
}

/// Half a second more than it takes is a second.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

fn earliest(asked: &Asked, now: Timestamp) -> Result<Timestamp, Refusal> {
    let latest = now.plus(Duration::from_secs(LONGEST.into()));
    match (asked.not_before, asked.delay_seconds) {
        (Some(_), Some(_)) => Err(Refusal::field("delay_seconds", "not_before says the same; leave one of them out")),
        (None, Some(delay)) => {
            bounded("delay_seconds", delay, 0, LONGEST)?;
            Ok(now.plus(Duration::from_secs(delay.into())))
        }
        (Some(time), None) if time > latest => {
            Err(Refusal::field("not_before", format!("{time} is more than 30 days away")))
        }
        // A time that has passed is now.
        (Some(time), None) => Ok(time.max(now)),
        (None, None) => Ok(now),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::KindName;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn ask(kind: KindName, asked: &Asked) -> Result<(Schedule, Timestamp), Refusal> {
        Schedule::asked(kind.spec(), &json!({}), asked, NOW)
    }

    #[test]
    fn what_is_not_asked_for_is_as_the_kind_says() {
        for kind in KindName::ALL {
            let (schedule, not_before) = ask(*kind, &Asked::default()).unwrap();
            assert_eq!((schedule, not_before), (Schedule::of(kind.spec(), &json!({})), NOW), "{kind}");
            assert_eq!(schedule.rules(kind.spec()).retry, kind.spec().retry);
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_its_field() {
        let none = Asked::default;
        let cases = [
            ("queue_timeout_seconds", Asked { queue_timeout_seconds: Some(0), ..none() }),
            ("queue_timeout_seconds", Asked { queue_timeout_seconds: Some(LONGEST + 1), ..none() }),
            ("timeout_seconds", Asked { timeout_seconds: Some(0), ..none() }),
            ("timeout_seconds", Asked { timeout_seconds: Some(u32::MAX), ..none() }),
            ("delay_seconds", Asked { delay_seconds: Some(LONGEST + 1), ..none() }),
            ("delay_seconds", Asked { delay_seconds: Some(1), not_before: Some(NOW), ..none() }),
            ("not_before", Asked { not_before: Some(Timestamp::from_micros(i64::MAX)), ..none() }),
        ];
        for (field, asked) in cases {
            assert_eq!(ask(KindName::Echo, &asked).unwrap_err().facts["field"], field, "{asked:?}");
        }
        let more = RetryAsked { attempts: Some(50), ..RetryAsked::default() };
        let asked = Asked { retry: Some(more), ..none() };
        assert!(ask(KindName::Echo, &asked).is_ok());
        assert_eq!(ask(KindName::VmExec, &asked).unwrap_err().facts["field"], "retry.attempts");
    }

    #[test]
    fn a_time_that_has_passed_is_now_and_a_delay_counts_from_now() {
        let earlier = Asked { not_before: Some(Timestamp::from_micros(7)), ..Asked::default() };
        assert_eq!(ask(KindName::Echo, &earlier).unwrap().1, NOW);
        let later = Asked { delay_seconds: Some(90), ..Asked::default() };
        assert_eq!(ask(KindName::Echo, &later).unwrap().1, NOW.plus(Duration::from_secs(90)));
    }

    #[test]
    fn what_is_asked_for_twice_is_as_it_was_asked_for_first() {
        let retry = |attempts, first_seconds| Some(RetryAsked { attempts, first_seconds, ..RetryAsked::default() });
        let first =
            Asked { delay_seconds: Some(5), timeout_seconds: Some(9), retry: retry(Some(2), None), ..Asked::default() };
        let then = Asked {
            priority: Some(Priority(7)),
            not_before: Some(NOW),
            timeout_seconds: Some(90),
            retry: retry(Some(4), Some(3)),
            ..Asked::default()
        };
        let both = Asked { priority: Some(Priority(7)), retry: retry(Some(2), Some(3)), ..first };
        assert_eq!(first.over(then), both);
        assert_eq!(Asked::default().over(then), then);
        assert_eq!(then.over(Asked::default()), then);
    }

    #[test]
    fn a_priority_is_a_word_or_a_number_within_bounds() {
        let read = |text: &str| text.parse::<Priority>().map(Priority::get);
        assert_eq!([read("low"), read("high"), read("-7"), read("100")], [Ok(-50), Ok(50), Ok(-7), Ok(100)]);
        assert!(read("101").is_err() && read("urgent").is_err());
        assert!(serde_json::from_value::<Priority>(json!(101)).is_err());
        assert_eq!(serde_json::to_value(Priority(3)).unwrap(), json!(3));
    }
}
