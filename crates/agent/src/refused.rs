//! What this agent refused: one line for each reason, with how many there were in all.
//!
//! ```text
//! add ──► what the journal lacks ──kept──► what no heartbeat said ──answered──► said
//! ```
//!
//! A line is in the journal before a heartbeat says it, so one that dies says later what it has not said, and the server knows
//! by the totals what it has heard before. Never here: what is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use hostler_model::{
    Fence, TaskId, Timestamp,
    refused::{Counted, Refused, Why},
};
use uuid::Uuid;

/// What was refused.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Which count it is; none before the first was kept.
    count: Option<Uuid>,
    all: BTreeMap<Why, Refused>,
    /// What the journal lacks.
    unkept: BTreeSet<Why>,
    /// What a heartbeat said that was answered.
    said: Vec<Refused>,
}

impl Refusals {
    /// Goes on from what the journal has.
    pub fn from_kept(kept: Option<Counted>) -> Refusals {
        let counts = kept.map(|kept| Counts {
            count: Some(kept.count),
            all: kept.refused.into_iter().map(|line| (line.why, line)).collect(),
            ..Counts::default()
        });
        Refusals(Mutex::new(counts.unwrap_or_default()))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Counts) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One more; the task and its attempt where the signature is right.
    pub fn add(&self, why: Why, of: Option<(TaskId, Fence)>, at: Timestamp) {
        self.with(|counts| {
            let row = counts.all.entry(why).or_insert(Refused { why, count: 0, task: None, fence: None, at });
            row.count += 1;
            row.at = at;
            if let Some((task, fence)) = of {
                (row.task, row.fence) = (Some(task), Some(fence));
            }
            counts.unkept.insert(why);
        });
    }

    /// What the journal is to have; `new` begins the count where there is none.
    pub fn unkept(&self, new: impl FnOnce() -> Uuid) -> Option<Counted> {
        self.with(|counts| {
            let lines: Vec<Refused> = counts.unkept.iter().filter_map(|why| counts.all.get(why).copied()).collect();
            (!lines.is_empty()).then(|| Counted { count: *counts.count.get_or_insert_with(new), refused: lines })
        })
    }

    /// The journal has this.
    pub fn kept(&self, kept: &Counted) {
        self.with(|counts| {
            for line in &kept.refused {
                if counts.all.get(&line.why) == Some(line) {
                    counts.unkept.remove(&line.why);
                }
            }
        });
    }

    /// What is to be said: all, where any of it was not. What the journal lacks waits until it has it.
    pub fn unsaid(&self) -> Option<Counted> {
        self.with(|counts| {
            let all: Vec<Refused> = counts.all.values().copied().collect();
            let unsaid = counts.unkept.is_empty() && all != counts.said;
            counts.count.filter(|_| unsaid).map(|count| Counted { count, refused: all })
        })
    }

    /// The server has heard this.
    pub fn said(&self, heard: Counted) {
        self.with(|counts| counts.said = heard.refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(said: &Counted) -> Vec<(Why, u64)> {
        said.refused.iter().map(|line| (line.why, line.count)).collect()
    }

    #[test]
    fn what_comes_while_it_is_kept_or_said_is_kept_and_said_with_the_next() {
        let (refusals, at, new) = (Refusals::default(), Timestamp::from_micros(1), || Uuid::from_u128(5));
        assert_eq!((refusals.unkept(new), refusals.unsaid()), (None, None));
        (0..3).for_each(|_| refusals.add(Why::Expired, None, at));
        let first = refusals.unkept(new).unwrap();
        refusals.add(Why::Expired, None, at);
        refusals.kept(&first);
        assert_eq!(refusals.unsaid(), None, "one is not in the journal yet");
        let both = refusals.unkept(|| panic!("it is the same count")).unwrap();
        assert_eq!((count(&both), both.count), (vec![(Why::Expired, 4)], first.count));
        refusals.kept(&both);
        let said = refusals.unsaid().unwrap();
        refusals.add(Why::Malformed, None, at);
        refusals.said(said.clone());
        refusals.kept(&refusals.unkept(new).unwrap());
        let more = refusals.unsaid().unwrap();
        assert_eq!(
            (count(&said), count(&more)),
            (vec![(Why::Expired, 4)], vec![(Why::Malformed, 1), (Why::Expired, 4)])
        );
        refusals.said(more.clone());
        assert_eq!(refusals.unsaid(), None);
        // The next agent does not know what was said, and says all once more.
        let next = Refusals::from_kept(Some(more.clone()));
        assert_eq!((next.unkept(new), next.unsaid()), (None, Some(more)));
    }
}
