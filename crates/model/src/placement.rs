//! Placement: which node a new thing goes to, and, when none, why not for each.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::{
    book::Book,
    error::{Code, Refusal},
    id::{ImageDigest, NodeId},
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
    /// Whether its queue is paused.
    pub paused: bool,
    /// What its agent says.
    pub facts: NodeFacts,
    /// What is taken.
    pub book: Book,
    /// What may be taken in all.
    pub schedulable: Resources,
}

/// What is to be placed.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted<'a> {
    /// What it takes.
    pub amount: Resources,
    /// What its node must be able to do.
    pub capability: &'a str,
    /// The image it needs, for locality.
    pub image: Option<&'a ImageDigest>,
    /// The only node that will do.
    pub node: Option<NodeId>,
}

/// What a paused queue weighs: more than all that speaks for a node.
const PAUSED: f64 = 10.0;

/// Chooses a node: of those that qualify the one with the most room left, weighted 0.5 processors, 0.3 memory, 0.2
/// disk; then one that has the image; then the lowest id, so that the choice is the same everywhere. A node whose queue
/// is paused is taken only when no other will do.
pub fn place(candidates: &[Candidate], wanted: &Wanted<'_>) -> Result<NodeId, Refusal> {
    let mut refused: Vec<Value> = Vec::new();
    let mut best: Option<(&Candidate, f64)> = None;
    for candidate in candidates.iter().filter(|c| wanted.node.is_none_or(|named| named == c.id)) {
        match qualifies(candidate, wanted) {
            Ok(()) => {
                let score = score(candidate, wanted);
                if best.is_none_or(|(other, most)| better(candidate, score, other, most)) {
                    best = Some((candidate, score));
                }
            }
            Err(why) => refused.push(json!({"node": candidate.name.as_str(), "why": why})),
        }
    }
    match best {
        Some((candidate, _)) => Ok(candidate.id),
        None => Err(no_capacity(refused, wanted)),
    }
}

/// Whether a capability is among those advertised; `network.*` covers `network.create`.
pub fn capable(advertised: &[String], wanted: &str) -> bool {
    advertised.iter().any(|have| match have.strip_suffix('*') {
        Some(prefix) => wanted.starts_with(prefix),
        None => have == wanted,
    })
}

/// Whether a machine that is on this node may grow by so much there.
///
/// # Errors
/// With what there is too little of.
pub fn grow(candidate: &Candidate, growth: &Resources) -> Result<(), Refusal> {
    short(candidate, growth).map_err(|why| {
        let name = &candidate.name;
        let detail = format!("the node {name} has no room for this ({why}); ask for less, or delete something there");
        let nodes = vec![json!({"node": name.as_str(), "why": why})];
        Refusal::new(Code::NoCapacity, detail).with("nodes", nodes).with("asked", json!(growth))
    })
}

fn qualifies(candidate: &Candidate, wanted: &Wanted<'_>) -> Result<(), String> {
    if !candidate.state.takes_new() {
        return Err(format!("it is {}", candidate.state));
    }
    if candidate.freshness != Freshness::Fresh {
        return Err(format!("it is {}: its agent was not heard lately", candidate.freshness.as_str()));
    }
    if !capable(&candidate.facts.capabilities, wanted.capability) {
        return Err(format!("it cannot do {}", wanted.capability));
    }
    short(candidate, &wanted.amount)
}

/// What there is too little of.
fn short(candidate: &Candidate, amount: &Resources) -> Result<(), String> {
    let free = candidate.schedulable - candidate.book.total().room();
    let short: Vec<String> = amount
        .each()
        .into_iter()
        .zip(free.each())
        .filter(|((_, asked), (_, free))| *asked > 0 && asked > free)
        .map(|((name, asked), (_, free))| format!("{name}: {asked} asked, {} free", free.max(0)))
        .collect();
    if short.is_empty() { Ok(()) } else { Err(short.join("; ")) }
}

fn score(candidate: &Candidate, wanted: &Wanted<'_>) -> f64 {
    let left = candidate.schedulable - candidate.book.total().room() - wanted.amount;
    let share = |left: i64, all: i64| if all > 0 { left as f64 / all as f64 } else { 0.0 };
    let all = candidate.schedulable;
    0.5 * share(left.vcpus, all.vcpus)
        + 0.3 * share(left.memory_mib, all.memory_mib)
        + 0.2 * share(left.disk_gib, all.disk_gib)
        - if candidate.paused { PAUSED } else { 0.0 }
        + if wanted.image.is_some_and(|image| candidate.facts.images.contains(&image.0)) { 0.05 } else { 0.0 }
}

fn better(candidate: &Candidate, score: f64, other: &Candidate, most: f64) -> bool {
    score.partial_cmp(&most).unwrap_or(Ordering::Equal).then(other.id.cmp(&candidate.id)) == Ordering::Greater
}

fn no_capacity(refused: Vec<Value>, wanted: &Wanted<'_>) -> Refusal {
    let detail = if refused.is_empty() {
        "there is no node that could take this; start an agent, or name another node".to_owned()
    } else {
        let each: Vec<String> = refused
            .iter()
            .map(|r| format!("{}: {}", r["node"].as_str().unwrap_or("?"), r["why"].as_str().unwrap_or("?")))
            .collect();
        format!("no node can take this ({}); ask for less, delete something, or add a node", each.join(" | "))
    };
    Refusal::new(Code::NoCapacity, detail).with("nodes", refused).with("asked", json!(wanted.amount))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn candidate(n: u8, state: NodeState, freshness: Freshness, free: i64) -> Candidate {
        Candidate {
            id: NodeId(Uuid::from_u128(u128::from(n))),
            name: format!("node-{n}").parse().unwrap(),
            state,
            freshness,
            paused: false,
            facts: NodeFacts { capabilities: vec!["vm.*".into()], ..NodeFacts::default() },
            book: Book { used: Resources { vcpus: 10 - free, ..Resources::ZERO }.into(), ..Book::default() },
            schedulable: Resources { vcpus: 10, memory_mib: 10, disk_gib: 10, vms: 10 },
        }
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (
            prop::sample::select(&NodeState::ALL[..]),
            prop::sample::select(&[Freshness::Fresh, Freshness::Stale, Freshness::Lost][..]),
            0i64..=10,
        );
        prop::collection::vec(one, 0..8).prop_map(|all| {
            all.into_iter()
                .enumerate()
                .map(|(n, (state, fresh, free))| candidate(n as u8, state, fresh, free))
                .collect()
        })
    }

    fn wanted(vcpus: i64) -> Wanted<'static> {
        Wanted { amount: Resources { vcpus, ..Resources::ZERO }, capability: "vm.create", image: None, node: None }
    }

    proptest! {
        #[test]
        fn the_chosen_node_qualifies_and_a_refusal_explains_every_node(all in candidates(), vcpus in 1i64..12) {
            let fits = |c: &Candidate| c.state == NodeState::Ready && c.freshness == Freshness::Fresh && 10 - c.book.used.vcpus >= vcpus;
            match place(&all, &wanted(vcpus)) {
                Ok(id) => {
                    let chosen = all.iter().find(|c| c.id == id).unwrap();
                    prop_assert!(fits(chosen));
                    let most = all.iter().filter(|c| fits(c)).map(|c| 10 - c.book.used.vcpus).max().unwrap();
                    prop_assert_eq!(10 - chosen.book.used.vcpus, most);
                }
                Err(refusal) => {
                    prop_assert!(!all.iter().any(fits));
                    prop_assert_eq!(refusal.facts["nodes"].as_array().unwrap().len(), all.len());
                }
            }
        }
    }

    #[test]
    fn a_named_node_that_does_not_qualify_is_not_replaced_by_another() {
        let all = [
            candidate(1, NodeState::Ready, Freshness::Fresh, 10),
            candidate(2, NodeState::Cordoned, Freshness::Fresh, 10),
        ];
        let named = Wanted { node: Some(all[1].id), ..wanted(1) };
        assert_eq!(place(&all, &named).unwrap_err().code, Code::NoCapacity);
    }

    #[test]
    fn an_image_that_is_there_decides_between_equals() {
        let mut all = [
            candidate(1, NodeState::Ready, Freshness::Fresh, 10),
            candidate(2, NodeState::Ready, Freshness::Fresh, 10),
        ];
        assert_eq!(place(&all, &wanted(1)).unwrap(), all[0].id);
        all[1].facts.images.push("abc".into());
        let digest = ImageDigest("abc".into());
        assert_eq!(place(&all, &Wanted { image: Some(&digest), ..wanted(1) }).unwrap(), all[1].id);
    }

    #[test]
    fn wildcards_cover_what_they_begin() {
        assert!(capable(&["network.*".into()], "network.create"));
        assert!(!capable(&["network.*".into()], "vm.create"));
        assert!(capable(&["vm.create".into()], "vm.create"));
    }
}
