//! What this agent refused, until the server has heard of it: one line for each reason.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use hostler_model::{
    Fence, TaskId, Timestamp,
    refused::{Refused, Why},
};

/// What was refused and not yet said.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<Why, Refused>>);

impl Refusals {
    /// One more; the task and its attempt where the signature is right.
    pub fn add(&self, why: Why, of: Option<(TaskId, Fence)>, at: Timestamp) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = all.entry(why).or_insert(Refused { why, count: 0, task: None, fence: None, at });
        row.count += 1;
        row.at = at;
        if let Some((task, fence)) = of {
            (row.task, row.fence) = (Some(task), Some(fence));
        }
    }

    /// What is to be said.
    pub fn all(&self) -> Vec<Refused> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    /// The server has heard this.
    pub fn said(&self, heard: &[Refused]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for heard in heard {
            if let Some(row) = all.get_mut(&heard.why) {
                row.count = row.count.saturating_sub(heard.count);
            }
        }
        all.retain(|_, row| row.count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_it_is_said_is_said_with_the_next() {
        let (refusals, at) = (Refusals::default(), Timestamp::from_micros(1));
        (0..3).for_each(|_| refusals.add(Why::Expired, None, at));
        let said = refusals.all();
        refusals.add(Why::Expired, None, at);
        refusals.add(Why::Malformed, None, at);
        refusals.said(&said);
        let rest: Vec<(Why, u64)> = refusals.all().iter().map(|row| (row.why, row.count)).collect();
        assert_eq!((said[0].count, rest), (3, vec![(Why::Malformed, 1), (Why::Expired, 1)]));
        refusals.said(&refusals.all());
        assert_eq!(refusals.all(), []);
    }
}
