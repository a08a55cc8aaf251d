//! Placement: which node a new thing goes to, and what speaks for and against each.
//!
//! ```text
//! every node ──filters──► those that will do ──weights──► the best
//!               state, freshness, capability, labels, anti-affinity, ports, room
//! ```
//!
//! A node that is named is taken as it is when it will do, and is never replaced by another.

mod asked;
mod choice;
mod policy;
#[cfg(test)]
mod tests;
mod waiting;

use std::{cmp::Ordering, collections::BTreeMap};

use self::choice::Objection;
pub use self::{
    asked::Placement,
    choice::{Choice, Considered, Reason, explain},
    policy::{Policy, Weights},
    waiting::{PATIENCE, keep, most_kept},
};
use crate::{
    book::Book,
    error::Refusal,
    forward::PortForward,
    id::{ImageDigest, NodeId, TaskId},
    name::Name,
    node::{Freshness, NodeFacts, NodeState},
    unit::Resources,
};

/// A node as placement sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    /// Its id.
    pub id: NodeId,
    /// Its name, for explanations.
    pub name: Name,
    /// What an operator decided.
    pub state: NodeState,
    /// What was last heard.
    pub freshness: Freshness,
    /// Whether its certificate is good for nothing.
    pub revoked: bool,
    /// Whether its queue is paused.
    pub paused: bool,
    /// What its agent says.
    pub facts: NodeFacts,
    /// Its labels, the operator's before its agent's.
    pub labels: BTreeMap<String, String>,
    /// The create that waits for room and for which this node is kept.
    pub set_aside: Option<TaskId>,
    /// What is taken.
    pub book: Book,
    /// What may be taken in all.
    pub schedulable: Resources,
}

/// What is to be placed.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted<'a> {
    /// The create that waits for room, if it is one.
    pub waiting: Option<TaskId>,
    /// What it takes.
    pub amount: Resources,
    /// What its node must be able to do.
    pub capability: &'a str,
    /// The image it needs, for locality.
    pub image: Option<&'a ImageDigest>,
    /// The only node that will do.
    pub node: Option<NodeId>,
    /// Labels that its node must have.
    pub labels: &'a BTreeMap<String, String>,
    /// The group no two of which share a node.
    pub apart: Option<Apart<'a>>,
    /// Nodes on which somebody has a port that it is to have there.
    pub ports: &'a BTreeMap<NodeId, PortTaken>,
}

/// A port of a node that somebody has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortTaken {
    /// The forward that is in its way.
    pub forward: PortForward,
    /// Whose the port is, for people.
    pub by: String,
}

/// A group no two machines of which share a node.
#[derive(Clone, PartialEq, Debug)]
pub struct Apart<'a> {
    /// Its name.
    pub group: &'a Name,
    /// Where one of it is, or is to be, and what that is called.
    pub taken: BTreeMap<NodeId, Name>,
}

impl Wanted<'_> {
    /// Whether a node may be meant.
    fn means(&self, candidate: &Candidate) -> bool {
        self.node.is_none_or(|named| named == candidate.id)
    }
}

/// What a paused queue weighs: more than all that speaks for a node.
const PAUSED: f64 = 10.0;

/// So many of the nodes that will do, the best first: the one with the most room left and with the image, as the weights say;
/// then the lowest id, so that the choice is the same everywhere. A node whose queue is paused is taken only when no other will
/// do. Nothing is said of the others: that is [`why_none`], where it is asked for.
pub fn fitting(candidates: &[Candidate], wanted: &Wanted<'_>, weights: &Weights, many: usize) -> Vec<NodeId> {
    if many == 1 {
        return best(candidates, wanted, weights).into_iter().map(|candidate| candidate.id).collect();
    }
    let mut scored: Vec<_> = scored(candidates, wanted, weights).collect();
    scored.sort_by(|(a, of_a), (b, of_b)| better(b, *of_b, a, *of_a));
    scored.into_iter().take(many).map(|(candidate, _)| candidate.id).collect()
}

/// Why none will do, with the reasons of each.
pub fn why_none(candidates: &[Candidate], wanted: &Wanted<'_>, weights: &Weights) -> Refusal {
    explain(candidates, wanted, weights).refusal(wanted)
}

fn best<'a>(candidates: &'a [Candidate], wanted: &Wanted<'_>, weights: &Weights) -> Option<&'a Candidate> {
    let scored = scored(candidates, wanted, weights);
    scored.max_by(|(a, most), (b, score)| better(a, *most, b, *score)).map(|(candidate, _)| candidate)
}

/// Those that will do.
fn scored<'a>(
    candidates: &'a [Candidate],
    wanted: &Wanted<'_>,
    weights: &Weights,
) -> impl Iterator<Item = (&'a Candidate, f64)> {
    let fit = candidates.iter().filter(|candidate| wanted.means(candidate));
    let fit = fit.filter(|candidate| objections(candidate, wanted).next().is_none());
    fit.map(|candidate| (candidate, score(candidate, wanted, weights)))
}

/// Whether a capability is among those advertised; `network.*` covers `network.create`.
pub fn capable(advertised: &[String], wanted: &str) -> bool {
    advertised.iter().any(|have| match have.strip_suffix('*') {
        Some(prefix) => wanted.starts_with(prefix),
        None => have == wanted,
    })
}

/// Whether a machine that is on this node may grow by so much there: by the same rule of room as a new one. It is there,
/// whatever was decided about the node since.
///
/// # Errors
/// With what there is too little of.
pub fn grow(candidate: &Candidate, growth: &Resources) -> Result<(), Refusal> {
    match short(candidate, growth) {
        None => Ok(()),
        Some(short) => Err(choice::short_of(candidate, short, growth)),
    }
}

/// What speaks against a node, all of it.
fn objections<'a>(candidate: &'a Candidate, wanted: &'a Wanted<'_>) -> impl Iterator<Item = Objection<'a>> {
    let state = (!candidate.state.takes_new()).then_some(Objection::State(candidate.state));
    let revoked = candidate.revoked.then_some(Objection::Revoked);
    let silent = (candidate.freshness != Freshness::Fresh).then_some(Objection::Silent(candidate.freshness));
    let can = capable(&candidate.facts.capabilities, wanted.capability);
    let incapable = (!can).then_some(Objection::Incapable(wanted.capability));
    let labels = wanted.labels.iter().filter_map(|(key, wanted)| {
        let has = candidate.labels.get(key).map(String::as_str);
        (has != Some(wanted)).then_some(Objection::Label { key, wanted, has })
    });
    let apart = wanted.apart.as_ref().and_then(|apart| {
        let machine = apart.taken.get(&candidate.id)?;
        Some(Objection::Apart { machine, group: apart.group })
    });
    // What makes no machine is gone soon.
    let kept = candidate.set_aside.filter(|task| wanted.waiting != Some(*task) && wanted.amount.vms > 0);
    let kept = kept.map(Objection::SetAside);
    let port = wanted.ports.get(&candidate.id).map(Objection::Port);
    // What there is too little of is said last, and only looked at when it is asked for.
    let room = std::iter::once_with(|| short(candidate, &wanted.amount).map(Objection::Room)).flatten();
    state
        .into_iter()
        .chain(revoked)
        .chain(silent)
        .chain(incapable)
        .chain(labels)
        .chain(apart)
        .chain(kept)
        .chain(port)
        .chain(room)
}

/// What there is too little of.
fn short(candidate: &Candidate, amount: &Resources) -> Option<String> {
    let free = candidate.schedulable - candidate.book.total().room();
    let short: Vec<String> = amount
        .each()
        .into_iter()
        .zip(free.each())
        .filter(|((_, asked), (_, free))| *asked > 0 && asked > free)
        .map(|((name, asked), (_, free))| format!("{name}: {asked} asked, {} free", free.max(0)))
        .collect();
    (!short.is_empty()).then(|| short.join("; "))
}

fn score(candidate: &Candidate, wanted: &Wanted<'_>, weights: &Weights) -> f64 {
    let left = candidate.schedulable - candidate.book.total().room() - wanted.amount;
    let share = |left: i64, all: i64| if all > 0 { left as f64 / all as f64 } else { 0.0 };
    let all = candidate.schedulable;
    weights.vcpus * share(left.vcpus, all.vcpus)
        + weights.memory * share(left.memory_mib, all.memory_mib)
        + weights.disk * share(left.disk_gib, all.disk_gib)
        - if candidate.paused { PAUSED } else { 0.0 }
        + if wanted.image.is_some_and(|image| candidate.facts.images.contains(&image.0)) { weights.image } else { 0.0 }
}

/// Of two nodes that will do, how the first stands to the second.
fn better(a: &Candidate, of_a: f64, b: &Candidate, of_b: f64) -> Ordering {
    of_a.total_cmp(&of_b).then(b.id.cmp(&a.id))
}
