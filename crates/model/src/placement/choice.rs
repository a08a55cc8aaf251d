//! What was chosen and why, node by node: for refusals and dry runs.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Candidate, PortTaken, Wanted, objections, score};
use crate::{
    error::{Code, Refusal},
    id::TaskId,
    name::Name,
    node::{Freshness, NodeState},
    placement::Weights,
};

/// How many nodes an answer explains: a page's worth.
const LISTED: usize = 100;
/// How many of them its sentence names.
const SAID: usize = 8;

/// Which node would be taken, and what speaks for or against each.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Choice {
    /// The node that would be taken; none where none will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// Each node that was considered, the best first; at most 100.
    pub nodes: Vec<Considered>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// One node that was considered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Considered {
    /// Which.
    pub node: Name,
    /// What speaks for it, where it would do: the highest is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Why it would not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The same as words for programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
}

/// A kind of reason why a node would not do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// What an operator decided about it.
    State,
    /// Its agent was not heard lately.
    Freshness,
    /// Its agent cannot do this.
    Capability,
    /// It lacks a label.
    Labels,
    /// A machine of the same group is there.
    AntiAffinity,
    /// It is kept for a machine that has waited longer.
    SetAside,
    /// Somebody has a port there that is to be forwarded.
    Port,
    /// It has too little left.
    Room,
}

impl Reason {
    /// What may be done about it.
    const fn advice(self) -> &'static str {
        match self {
            Reason::State => "approve or uncordon a node",
            Reason::Freshness => "see why agents are silent",
            Reason::Capability => "add a node that can do this",
            Reason::Labels => "ask for other labels, or label a node with `hostler node label`",
            Reason::AntiAffinity => "add a node, or leave the group out",
            Reason::SetAside => "wait too, with wait_for_capacity",
            Reason::Port => "ask for another host port, or leave it out to have one chosen",
            Reason::Room => "ask for less, delete something, or add a node",
        }
    }
}

/// A reason with what it is about.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Objection<'a> {
    State(NodeState),
    Revoked,
    Silent(Freshness),
    Incapable(&'a str),
    Label { key: &'a str, wanted: &'a str, has: Option<&'a str> },
    Apart { machine: &'a Name, group: &'a Name },
    SetAside(TaskId),
    Port(&'a PortTaken),
    Room(String),
}

impl Objection<'_> {
    fn reason(&self) -> Reason {
        match self {
            Objection::State(_) | Objection::Revoked => Reason::State,
            Objection::Silent(_) => Reason::Freshness,
            Objection::Incapable(_) => Reason::Capability,
            Objection::Label { .. } => Reason::Labels,
            Objection::Apart { .. } => Reason::AntiAffinity,
            Objection::SetAside(_) => Reason::SetAside,
            Objection::Port(_) => Reason::Port,
            Objection::Room(_) => Reason::Room,
        }
    }
}

impl fmt::Display for Objection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::State(state) => write!(f, "it is {state}"),
            Objection::Revoked => f.write_str("its certificate was revoked"),
            Objection::Silent(freshness) => write!(f, "it is {}: its agent was not heard lately", freshness.as_str()),
            Objection::Incapable(kind) => write!(f, "it cannot do {kind}"),
            Objection::Label { key, wanted, has: Some(has) } => write!(f, "its label {key} is {has}, not {wanted}"),
            Objection::Label { key, wanted, has: None } => write!(f, "it has no label {key}={wanted}"),
            Objection::Apart { machine, group } => write!(f, "{machine} of the group {group} is there"),
            Objection::SetAside(task) => {
                write!(f, "it is kept for a machine that has waited longer for room (task {task})")
            }
            Objection::Port(PortTaken { forward, by }) => write!(f, "its port {} is taken by {by}", forward.host()),
            Objection::Room(short) => f.write_str(short),
        }
    }
}

impl Considered {
    fn of(candidate: &Candidate, wanted: &Wanted<'_>, weights: &Weights) -> Considered {
        let against: Vec<Objection<'_>> = objections(candidate, wanted).collect();
        Considered::against(candidate, &against, || (score(candidate, wanted, weights) * 1000.0).round() / 1000.0)
    }

    fn against(candidate: &Candidate, against: &[Objection<'_>], score: impl Fn() -> f64) -> Considered {
        let words: Vec<String> = against.iter().map(Objection::to_string).collect();
        Considered {
            node: candidate.name.clone(),
            score: against.is_empty().then(score),
            why: (!against.is_empty()).then(|| words.join("; ")),
            reasons: BTreeSet::from_iter(against.iter().map(Objection::reason)).into_iter().collect(),
        }
    }
}

/// What speaks for and against each node that may be meant.
pub fn explain(candidates: &[Candidate], wanted: &Wanted<'_>, weights: &Weights) -> Choice {
    let fits = |candidate: &Candidate| objections(candidate, wanted).next().is_none();
    let worth = |candidate: &Candidate| if fits(candidate) { score(candidate, wanted, weights) } else { f64::MIN };
    let meant = candidates.iter().filter(|candidate| wanted.means(candidate));
    let mut meant: Vec<(&Candidate, f64)> = meant.map(|candidate| (candidate, worth(candidate))).collect();
    meant.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let left_out = meant.len().saturating_sub(LISTED);
    let listed = meant.into_iter().take(LISTED);
    let nodes = listed.map(|(candidate, _)| Considered::of(candidate, wanted, weights)).collect();
    let node = super::best(candidates, wanted, weights).map(|candidate| candidate.name.clone());
    Choice { node, nodes, left_out }
}

impl Choice {
    /// The refusal where none of them will do.
    pub(super) fn refusal(self, wanted: &Wanted<'_>) -> Refusal {
        let detail = if self.nodes.is_empty() {
            "there is no node that could take this; start an agent, or name another node".to_owned()
        } else {
            format!("no node can take this ({}); {}", self.each(), self.advice())
        };
        let refusal = Refusal::new(Code::NoCapacity, detail).with("asked", json!(wanted.amount));
        let refusal = refusal.with("nodes", json!(self.nodes));
        if self.left_out == 0 { refusal } else { refusal.with("nodes_left_out", self.left_out) }
    }

    /// Each with its reasons, for people.
    fn each(&self) -> String {
        let told = |node: &Considered| format!("{}: {}", node.node, node.why.as_deref().unwrap_or("it would do"));
        let mut each: Vec<String> = self.nodes.iter().take(SAID).map(told).collect();
        let more = self.nodes.len().saturating_sub(SAID) + self.left_out;
        if more > 0 {
            each.push(format!("and {more} more"));
        }
        each.join(" | ")
    }

    fn advice(&self) -> String {
        let reasons: BTreeSet<Reason> = self.nodes.iter().flat_map(|node| node.reasons.iter().copied()).collect();
        reasons.into_iter().map(Reason::advice).collect::<Vec<_>>().join("; ")
    }
}

/// The refusal of one node that has too little left.
pub(super) fn short_of(candidate: &Candidate, short: String, asked: &crate::unit::Resources) -> Refusal {
    let name = &candidate.name;
    let detail = format!("the node {name} has no room for this ({short}); ask for less, or delete something there");
    let node = Considered::against(candidate, &[Objection::Room(short)], || 0.0);
    Refusal::new(Code::NoCapacity, detail).with("nodes", json!([node])).with("asked", json!(asked))
}
