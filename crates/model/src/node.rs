//! A node: a host with an agent. Its state is what an operator decided, its freshness what was last heard.

mod drain;
mod overcommit;
mod patch;

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    drain::{Blocker, Drain, Removal},
    overcommit::{Overcommit, OvercommitPatch, OwnOvercommit},
    patch::NodePatch,
};
use crate::{
    book::Book,
    broker::Transport,
    clock::Timestamp,
    id::{EnrolmentId, NodeId},
    kind::Class,
    name::Name,
    unit::Resources,
};

/// What an operator decided about a node.
///
/// `pending ─approve─► ready ⇄ cordoned ─► draining ─► drained`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Joined, not approved yet.
    Pending,
    /// Gets tasks and new machines.
    Ready,
    /// Gets tasks for what it has, no new machines.
    Cordoned,
    /// No new machines, until the last one that is there is gone.
    Draining,
    /// It has no machines left.
    Drained,
}

/// What may be done to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeEvent {
    /// An operator accepts it.
    Approve,
    /// No new machines.
    Cordon,
    /// New machines again.
    Uncordon,
    /// No new machines, until the last one that is there is gone.
    Drain,
    /// The last machine is gone.
    Emptied,
}

impl NodeState {
    /// Every state.
    pub const ALL: [NodeState; 5] =
        [NodeState::Pending, NodeState::Ready, NodeState::Cordoned, NodeState::Draining, NodeState::Drained];

    /// The state as the store and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            NodeState::Pending => "pending",
            NodeState::Ready => "ready",
            NodeState::Cordoned => "cordoned",
            NodeState::Draining => "draining",
            NodeState::Drained => "drained",
        }
    }

    /// The state after an event; `None` when the event does not apply.
    pub const fn after(self, event: NodeEvent) -> Option<NodeState> {
        use NodeEvent as E;
        use NodeState as S;
        match (self, event) {
            (S::Pending, E::Approve) => Some(S::Ready),
            (S::Ready | S::Cordoned, E::Cordon) => Some(S::Cordoned),
            (S::Ready | S::Cordoned | S::Draining | S::Drained, E::Uncordon) => Some(S::Ready),
            (S::Ready | S::Cordoned | S::Draining, E::Drain) => Some(S::Draining),
            (S::Drained, E::Drain) => Some(S::Drained),
            (S::Draining, E::Emptied) => Some(S::Drained),
            (S::Pending, E::Cordon | E::Uncordon | E::Drain | E::Emptied)
            | (S::Ready | S::Cordoned, E::Approve | E::Emptied)
            | (S::Draining, E::Approve | E::Cordon)
            | (S::Drained, E::Approve | E::Cordon | E::Emptied) => None,
        }
    }

    /// Whether new machines may be placed here.
    pub const fn takes_new(self) -> bool {
        match self {
            NodeState::Ready => true,
            NodeState::Pending | NodeState::Cordoned | NodeState::Draining | NodeState::Drained => false,
        }
    }

    /// Whether its agent gets any task at all.
    pub const fn takes_tasks(self) -> bool {
        match self {
            NodeState::Ready | NodeState::Cordoned | NodeState::Draining | NodeState::Drained => true,
            NodeState::Pending => false,
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How recently a node was heard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// A moment ago.
    Fresh,
    /// Not for a while: no new machines.
    Stale,
    /// Too long ago: what it has is unknown.
    Lost,
}

impl Freshness {
    /// As the store and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Freshness::Fresh => "fresh",
            Freshness::Stale => "stale",
            Freshness::Lost => "lost",
        }
    }
}

/// How long silence may last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreshnessPolicy {
    /// Fresh up to this; 60 s by default.
    pub fresh: Duration,
    /// Stale up to this, lost after; 120 s by default.
    pub stale: Duration,
}

impl Default for FreshnessPolicy {
    fn default() -> Self {
        FreshnessPolicy::lost_after(Duration::from_secs(120))
    }
}

impl FreshnessPolicy {
    /// Lost after a silence that long, and stale after half of it.
    pub const fn lost_after(silence: Duration) -> FreshnessPolicy {
        FreshnessPolicy { fresh: Duration::from_millis(silence.as_millis() as u64 / 2), stale: silence }
    }

    /// What a silence of this length means.
    pub fn judge(&self, silence: Duration) -> Freshness {
        if silence <= self.fresh {
            Freshness::Fresh
        } else if silence <= self.stale {
            Freshness::Stale
        } else {
            Freshness::Lost
        }
    }

    /// How many of `nodes` may become lost in one lease period without an operator: a tenth, at least one.
    pub fn may_lose(nodes: usize) -> usize {
        (nodes / 10).max(1)
    }
}

/// So many tasks of each class: what an agent works on at once, or how many more it could begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Slots {
    /// Machines that start.
    pub boot: usize,
    /// Bytes that move.
    pub disk: usize,
    /// Everything short.
    pub quick: usize,
    /// Programs in guests.
    pub guest: usize,
}

impl Slots {
    /// For a host with so many processors: two boots for each (a boot waits on IO for half of its time), two disk
    /// jobs (more only make each other slow), 64 short ones, and 64 programs in guests, which cost it next to nothing.
    pub fn for_cpus(cpus: usize) -> Slots {
        Slots { boot: 2 * cpus.max(1), disk: 2, quick: 64, guest: 64 }
    }

    /// Of all classes.
    pub fn total(&self) -> usize {
        self.boot.saturating_add(self.disk).saturating_add(self.quick).saturating_add(self.guest)
    }

    /// The same for each class.
    pub const fn each(many: usize) -> Slots {
        Slots { boot: many, disk: many, quick: many, guest: many }
    }

    /// So many of one class, and none of the others.
    pub fn only(class: Class, many: usize) -> Slots {
        let mut slots = Slots::default();
        *slots.of_mut(class) = many;
        slots
    }

    /// Of this class.
    pub const fn of(&self, class: Class) -> usize {
        match class {
            Class::Boot => self.boot,
            Class::Disk => self.disk,
            Class::Quick => self.quick,
            Class::Guest => self.guest,
        }
    }

    /// Of this class, to be changed.
    pub const fn of_mut(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Boot => &mut self.boot,
            Class::Disk => &mut self.disk,
            Class::Quick => &mut self.quick,
            Class::Guest => &mut self.guest,
        }
    }
}

/// What an agent says of its host.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct NodeFacts {
    /// The hypervisor's name and version.
    pub hypervisor: String,
    /// `kvm`, `tcg` or `simulated`.
    pub acceleration: String,
    /// Why not something faster.
    pub acceleration_reason: String,
    /// The kernel's release.
    pub kernel: String,
    /// The agent's version.
    pub agent_version: String,
    /// What is there physically.
    pub capacity: Resources,
    /// How many tasks of each class it works on at once.
    pub slots: Slots,
    /// What it can do: kinds of task, `*` as a wildcard at the end.
    pub capabilities: Vec<String>,
    /// Images in its cache, by digest.
    pub images: Vec<String>,
    /// Free words by which machines choose.
    pub labels: BTreeMap<String, String>,
    /// By which road it takes its tasks; an older agent does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// Of a node whose agent is somebody else's: the broker's user whose word alone is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_user: Option<String>,
}

/// A node as people see it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// What an operator decided.
    pub state: NodeState,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_since: Option<Timestamp>,
    /// While it is drained: what is left there, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// What was last heard.
    pub freshness: Freshness,
    /// The enrolment that its certificate must carry.
    #[serde(skip)]
    pub enrolment: Option<EnrolmentId>,
    /// By which road its tasks travel.
    #[serde(default)]
    pub transport: Transport,
    /// Grows with every change of the labels and of how much may be promised.
    #[serde(default)]
    pub generation: u32,
    /// An operator's words, by which machines choose, beside those of its agent. Where both have a key this one counts.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How much may be promised here, where it is not as on all nodes.
    #[serde(default, skip_serializing_if = "OwnOvercommit::is_none")]
    pub overcommit: OwnOvercommit,
    /// What its agent says of it.
    pub facts: NodeFacts,
    /// What is promised and in use here.
    pub book: Book,
    /// What may be promised in all, overcommitment included.
    pub schedulable: Resources,
    /// Since when its queue is paused: nothing is leased to it but what is to be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at: Option<Timestamp>,
    /// Since when its certificate is good for nothing, where an operator revoked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// When it was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// When it joined.
    pub created_at: Timestamp,
}

impl Node {
    /// The words by which machines choose: the operator's before the agent's.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.facts.labels.clone();
        labels.extend(self.labels.clone());
        labels
    }

    /// Says how much may be promised, on all nodes that say nothing else being this much.
    pub fn promise(&mut self, usual: &Overcommit) {
        self.schedulable = usual.with(&self.overcommit).schedulable(&self.facts.capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_event_but_approval_takes_a_node_out_of_pending() {
        for event in [NodeEvent::Cordon, NodeEvent::Uncordon, NodeEvent::Drain, NodeEvent::Emptied] {
            assert_eq!(NodeState::Pending.after(event), None);
        }
        for state in NodeState::ALL {
            assert_eq!(state.after(NodeEvent::Approve).is_some(), state == NodeState::Pending);
        }
    }

    #[test]
    fn silence_is_judged_by_its_length() {
        let policy = FreshnessPolicy::default();
        let judged = [0, 60, 61, 120, 121].map(|s| policy.judge(Duration::from_secs(s)));
        assert_eq!(judged, [Freshness::Fresh, Freshness::Fresh, Freshness::Stale, Freshness::Stale, Freshness::Lost]);
    }

    #[test]
    fn at_most_a_tenth_is_lost_at_once_but_always_one() {
        assert_eq!([1, 9, 10, 25].map(FreshnessPolicy::may_lose), [1, 1, 1, 2]);
    }
}
