//! Nodes join, and operators change what they are for.

use std::collections::BTreeMap;

use hostler_db::Result;
use hostler_model::{
    Code, NodeId, Refusal, Resources, TokenId,
    book::Book,
    broker::Transport,
    event::{Actor, RequestOrigin},
    id::EnrolmentId,
    join_token::{self, Good},
    name::Name,
    node::{Freshness, Node, NodeEvent, NodePatch, NodeState, OwnOvercommit},
    refused::Heard,
};
use serde_json::json;

use super::{drain, identify};
use crate::{
    Answer, JoinNode, NodeCertificate, Queue,
    node::{self, NodeRow},
    proof, token,
    work::Work,
};

/// Spends a token; a node of a known name keeps its id and gets a new enrolment, and its old leases are left to lapse.
pub(crate) fn join(work: &mut Work<'_>, join: &JoinNode) -> Result<Answer<Node>> {
    let Some(token) = token::join(work.tx, &join.token_hash)? else {
        return Ok(Err(join_token::unknown(&join.name)));
    };
    match token.judge(&join.name, &join.key, work.now) {
        Ok(Good::Join) => {}
        Ok(Good::Again { node, enrolment }) => return again(work, &join.name, node, enrolment),
        Err(refusal) => return Ok(Err(refusal)),
    }
    let known = node::by_name(work.tx, &join.name, work.usual())?;
    if known.is_some()
        && let Err(refusal) = token.takes_place(&join.name)
    {
        return Ok(Err(refusal));
    }
    let again = known.is_some();
    let mut row = known.unwrap_or_else(|| new_node(work, join));
    row.node.facts = join.facts.clone();
    row.node.promise(work.usual());
    row.node.enrolment = Some(join.enrolment);
    row.node.transport = join.facts.transport.unwrap_or_default();
    (row.node.freshness, row.node.last_seen) = (Freshness::Fresh, Some(work.now));
    (row.lost_at, row.beat_seq) = (None, None);
    if row.node.revoked_at.take().is_some() {
        work.trust_changed();
    }
    if token.approve {
        let after = row.node.state.after(NodeEvent::Approve);
        row.node.state_since = after.map_or(row.node.state_since, |_| Some(work.now));
        row.node.state = after.unwrap_or(row.node.state);
    }
    let node = row.node.clone();
    token::use_join(work.tx, join, node.id, work.now)?;
    work.nodes.insert(node.id, row);
    tell(work, &node, again, token.id, join.origin);
    work.reroute(node.id);
    Ok(Ok(node))
}

/// Gives the answer once more to a host that has not heard it: who it is stands, unless something was decided since.
fn again(work: &Work<'_>, name: &Name, id: NodeId, enrolment: EnrolmentId) -> Result<Answer<Node>> {
    let row = node::by_ids(work.tx, &[id], work.usual())?.pop();
    let node = row.map(|row| row.node).filter(|node| node.enrolment == Some(enrolment));
    Ok(node.ok_or_else(|| join_token::used_before(name)))
}

/// Notes that a node asks for its next certificate; `late`: the one that it has is over.
pub(crate) fn renew(
    work: &mut Work<'_>,
    id: NodeId,
    enrolment: EnrolmentId,
    late: bool,
    origin: RequestOrigin,
    certificate: &NodeCertificate,
) -> Result<Answer<()>> {
    let known = node::identities(work.tx, &[id])?;
    if let Err(refusal) = identify(&known, id, enrolment) {
        return Ok(Err(refusal));
    }
    proof::keep(work.tx, certificate, work.now, work.context.timing.history)?;
    let actor = Actor::node(id, "certificate").within(origin);
    work.audit(&actor, None, "node", "node.renew", id.0, json!({"enrolment": enrolment, "late": late}));
    Ok(Ok(()))
}

/// Writes a node down whose agent is somebody else's: it gets its tasks in plain form, and never joins.
pub(crate) fn add(work: &mut Work<'_>, new: &JoinNode, actor: &Actor) -> Result<Answer<Node>> {
    if let Some(known) = node::by_name(work.tx, &new.name, work.usual())? {
        let detail = format!("a node named {} exists; choose another name, or change its transport", new.name);
        return Ok(Err(Refusal::new(Code::NameTaken, detail).with("node", known.node.id.to_string())));
    }
    let mut row = new_node(work, new);
    row.node.promise(work.usual());
    (row.node.state, row.node.transport) = (NodeState::Ready, Transport::Plain);
    // What is leased to it needs somebody to be leased to.
    (row.node.enrolment, row.node.last_seen) = (Some(new.enrolment), Some(work.now));
    let (node, data) = (row.node.clone(), json!({"name": new.name, "transport": Transport::Plain}));
    work.nodes.insert(node.id, row);
    work.event(None, "node", "node.added", node.id.0, data.clone());
    work.audit(actor, None, "node", "node.add", node.id.0, data);
    Ok(Ok(node))
}

/// Sends a node's tasks by another road from now on.
pub(crate) fn transport(work: &mut Work<'_>, id: NodeId, to: Transport, actor: &Actor) -> Result<Answer<Node>> {
    let Some(mut row) = node::by_ids(work.tx, &[id], work.usual())?.pop() else { return Ok(Err(not_found(id))) };
    let before = std::mem::replace(&mut row.node.transport, to);
    let (node, data) = (row.node.clone(), json!({"name": row.node.name, "was": before, "transport": to}));
    if before != to {
        work.nodes.insert(id, row);
        work.event(None, "node", "node.rerouted", id.0, data.clone());
    }
    work.audit(actor, None, "node", "node.transport", id.0, data);
    work.reroute(id);
    Ok(Ok(node))
}

fn new_node(work: &Work<'_>, join: &JoinNode) -> NodeRow {
    let node = Node {
        id: join.node,
        name: join.name.clone(),
        state: NodeState::Pending,
        state_since: Some(work.now),
        drain: None,
        freshness: Freshness::Fresh,
        transport: Transport::default(),
        enrolment: None,
        generation: 1,
        labels: BTreeMap::new(),
        overcommit: OwnOvercommit::default(),
        facts: join.facts.clone(),
        book: Book::default(),
        schedulable: Resources::ZERO,
        paused_at: None,
        revoked_at: None,
        last_seen: None,
        created_at: work.now,
    };
    NodeRow { node, set_aside: None, lost_at: None, beat_seq: None, orphans: Vec::new(), refused: Heard::default() }
}

fn tell(work: &mut Work<'_>, node: &Node, again: bool, token: TokenId, origin: RequestOrigin) {
    let data = json!({"name": node.name, "state": node.state, "again": again});
    let actor = Actor { credential: Some(token), ..Actor::node(node.id, "join token").within(origin) };
    work.event(None, "node", "node.joined", node.id.0, data.clone());
    work.audit(&actor, None, "node", "node.join", node.id.0, data);
}

/// Pauses a node's queue, or resumes it. What is so already stays as it is; the wish is written down all the same.
pub(crate) fn queue(work: &mut Work<'_>, id: NodeId, queue: Queue, actor: &Actor) -> Result<Answer<Node>> {
    let Some(mut row) = node::by_ids(work.tx, &[id], work.usual())?.pop() else { return Ok(Err(not_found(id))) };
    let before = row.node.paused_at;
    row.node.paused_at = match queue {
        Queue::Paused => Some(before.unwrap_or(work.now)),
        Queue::Open => None,
    };
    let (node, verb, word) = match queue {
        Queue::Paused => (row.node.clone(), "node.pause", "node.paused"),
        Queue::Open => (row.node.clone(), "node.resume", "node.resumed"),
    };
    let data = json!({"name": node.name});
    if before != node.paused_at {
        work.nodes.insert(id, row);
        work.event(None, "node", word, id.0, data.clone());
    }
    work.audit(actor, None, "node", verb, id.0, data);
    work.wake(Some(id));
    Ok(Ok(node))
}

/// Edits a node's record; what nothing differs in is not written.
pub(crate) fn edit(
    work: &mut Work<'_>,
    id: NodeId,
    patch: &NodePatch,
    expected: Option<&[u32]>,
    actor: &Actor,
) -> Result<Answer<Node>> {
    let Some(mut row) = node::by_ids(work.tx, &[id], work.usual())?.pop() else { return Ok(Err(not_found(id))) };
    let changed = match row.node.check_generation(expected).and_then(|()| patch.apply(&mut row.node)) {
        Ok(changed) => changed,
        Err(refusal) => return Ok(Err(refusal)),
    };
    row.node.promise(work.usual());
    let node = row.node.clone();
    if let Some(changed) = changed {
        work.nodes.insert(id, row);
        let data = json!({"name": node.name, "generation": node.generation, "changed": changed});
        work.event(None, "node", "node.edited", id.0, data.clone());
        work.audit(actor, None, "node", "node.edit", id.0, data);
    }
    Ok(Ok(node))
}

pub(super) fn not_found(id: NodeId) -> Refusal {
    Refusal::new(Code::NodeNotFound, "there is no such node; `hostler node list` shows those there are")
        .with("node", id.to_string())
}

/// Makes a node's certificate good for nothing: with no enrolment nothing that it says or asks is taken, by whichever server.
/// What ran there is judged as that of a node that is silent. Tokens that name it are used up; with a new one it may join
/// again, and waits for its approval unless that token gives it.
pub(crate) fn revoke(work: &mut Work<'_>, id: NodeId, actor: &Actor) -> Result<Answer<Node>> {
    let Some(mut row) = node::by_ids(work.tx, &[id], work.usual())?.pop() else { return Ok(Err(not_found(id))) };
    let before = row.node.state;
    (row.node.enrolment, row.node.state) = (None, NodeState::Pending);
    row.node.revoked_at.get_or_insert(work.now);
    token::use_up_of(work.tx, &row.node.name, work.now)?;
    let node = row.node.clone();
    work.nodes.insert(id, row);
    let data = json!({"name": node.name, "was": before});
    work.event(None, "node", "node.revoked", id.0, data.clone());
    work.audit(actor, None, "node", "node.revoke", id.0, data);
    work.trust_changed();
    work.wake(Some(id));
    Ok(Ok(node))
}

/// What an operator does to a node.
pub(crate) fn change(work: &mut Work<'_>, id: NodeId, event: NodeEvent, actor: &Actor) -> Result<Answer<Node>> {
    let Some(mut row) = node::by_ids(work.tx, &[id], work.usual())?.pop() else { return Ok(Err(not_found(id))) };
    let before = row.node.state;
    let Some(after) = before.after(event) else { return Ok(Err(conflict(&row.node.name, before, event))) };
    if before != after {
        (row.node.state, row.node.state_since) = (after, Some(work.now));
    }
    let node = row.node.clone();
    work.nodes.insert(id, row);
    let data = json!({"name": node.name, "was": before, "state": after});
    if before != after {
        work.event(None, "node", &format!("node.{after}"), id.0, data.clone());
    }
    work.audit(actor, None, "node", &format!("node.{}", verb(event)), id.0, data);
    if after == NodeState::Draining {
        drain::move_away(work, id)?;
    }
    work.wake(Some(id));
    Ok(Ok(node))
}

const fn verb(event: NodeEvent) -> &'static str {
    match event {
        NodeEvent::Approve => "approve",
        NodeEvent::Cordon => "cordon",
        NodeEvent::Uncordon => "uncordon",
        NodeEvent::Drain => "drain",
        NodeEvent::Emptied => "emptied",
    }
}

fn conflict(name: &Name, state: NodeState, event: NodeEvent) -> Refusal {
    let detail = format!("the node {name} is {state}: {} does not apply", verb(event));
    Refusal::new(Code::NodeStateConflict, detail).with("state", state.as_str())
}
