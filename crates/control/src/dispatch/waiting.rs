//! Polls that wait, by their nodes and by when their time is up. What is asked for costs no more than what is found.

use std::collections::{BTreeMap, BTreeSet};

use hostler_model::{NodeId, id::EnrolmentId};
use tokio::time::Instant;

use super::Poll;

/// All polls that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    polls: BTreeMap<NodeId, Vec<Poll>>,
    /// When the time of some poll of a node is up.
    ends: BTreeSet<(Instant, NodeId)>,
    len: usize,
}

impl Waiting {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// When the first one's time is up.
    pub(super) fn first_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Lets one wait.
    pub(super) fn keep(&mut self, poll: Poll) {
        self.ends.insert((poll.until, poll.claim.node));
        // Nearly always it is its node's only one.
        self.polls.entry(poll.claim.node).or_insert_with(|| Vec::with_capacity(1)).push(poll);
        self.len += 1;
    }

    /// Takes a node's out.
    pub(super) fn take(&mut self, node: NodeId) -> Vec<Poll> {
        let polls = self.polls.remove(&node).unwrap_or_default();
        for poll in &polls {
            self.ends.remove(&(poll.until, node));
        }
        self.len -= polls.len();
        polls
    }

    /// Takes all out.
    pub(super) fn take_all(&mut self) -> Vec<Poll> {
        std::mem::take(self).polls.into_values().flatten().collect()
    }

    /// Takes those out whose time is up.
    pub(super) fn over(&mut self, now: Instant) -> Vec<Poll> {
        let mut over = Vec::new();
        while let Some((_, node)) = self.ends.first().filter(|(end, _)| *end <= now) {
            self.part(*node, |poll| poll.until <= now, &mut over);
        }
        over
    }

    /// Takes an enrolment's out.
    pub(super) fn of(&mut self, node: NodeId, enrolment: EnrolmentId) -> Vec<Poll> {
        let mut found = Vec::new();
        self.part(node, |poll| poll.claim.enrolment == enrolment, &mut found);
        found
    }

    /// Takes some of a node's out.
    fn part(&mut self, node: NodeId, some: impl Fn(&Poll) -> bool, out: &mut Vec<Poll>) {
        let (taken, kept): (Vec<Poll>, Vec<Poll>) = self.take(node).into_iter().partition(some);
        out.extend(taken);
        kept.into_iter().for_each(|poll| self.keep(poll));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hostler_model::{Ids, Timestamp, node::Slots};
    use hostler_store::Claim;

    use super::*;

    fn poll(node: NodeId, enrolment: EnrolmentId, until: Instant) -> Poll {
        let claim = Claim { node, enrolment, free: Slots::each(1), resync: None };
        Poll { claim, until, reply: tokio::sync::oneshot::channel().0 }
    }

    #[test]
    fn each_is_found_by_its_node_and_by_its_end_and_leaves_nothing_behind() {
        let (ids, begin) = (Ids::seeded(1), Instant::now());
        let id = || ids.next(Timestamp::from_micros(0));
        let (a, b, first, second) =
            (id(), id(), EnrolmentId(uuid::Uuid::from_u128(1)), EnrolmentId(uuid::Uuid::from_u128(2)));
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut waiting = Waiting::default();
        // Two of one node that end at the same moment, among others.
        for (node, enrolment, seconds) in [(a, first, 2), (a, second, 2), (a, first, 9), (b, first, 1), (b, first, 5)] {
            waiting.keep(poll(node, enrolment, at(seconds)));
        }
        assert_eq!((waiting.len(), waiting.first_end()), (5, Some(at(1))));
        let over: Vec<_> = waiting.over(at(2)).iter().map(|poll| (poll.claim.node, poll.until)).collect();
        assert_eq!(over, [(b, at(1)), (a, at(2)), (a, at(2))]);
        assert_eq!((waiting.len(), waiting.first_end()), (2, Some(at(5))));
        waiting.keep(poll(a, second, at(7)));
        assert_eq!(waiting.of(a, first).len(), 1);
        assert_eq!((waiting.of(a, first).len(), waiting.take(b).len(), waiting.first_end()), (0, 1, Some(at(7))));
        assert_eq!((waiting.take_all().len(), waiting.len(), waiting.first_end()), (1, 0, None));
    }
}
