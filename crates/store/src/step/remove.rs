//! Removing a node. What is left there keeps it, unless an operator says that the host is gone for good: that word is the
//! evidence that nothing of it is left, and it is audited.
//!
//! ```text
//! nothing left, and drained or silent ──► removed
//! something left, and lost, by force  ──► its tasks end, its machines and snapshots are deleted and charged no more ──► removed
//! ```

use std::collections::BTreeSet;

use hostler_db::Result;
use hostler_model::{
    Code, NodeId, Refusal, TaskId, VmId,
    event::Actor,
    node::{Drain, Freshness, Node, NodeState, Removal},
    task::Event,
    vm::{VmChange, VmReason, VmState},
};
use serde_json::json;

use super::{drain, join::not_found};
use crate::{Answer, Force, allocation, node, task, token, vm, work::Work};

/// Removes a node, or says what keeps it.
pub(crate) fn remove(
    work: &mut Work<'_>,
    id: NodeId,
    force: Force,
    dry_run: bool,
    actor: &Actor,
) -> Result<Answer<Removal>> {
    let Some(row) = node::by_ids(work.tx, &[id], work.usual())?.pop() else { return Ok(Err(not_found(id))) };
    let node = row.node;
    let (vms, tasks) = drain::left(work.tx, id)?;
    let left = Drain::of(&vms, &tasks, |_| true);
    if let Err(refusal) = may_go(&node, &left, force) {
        return Ok(Err(refusal));
    }
    let removal = Removal { node, vms: left.vms, tasks: tasks.len() };
    if dry_run {
        return Ok(Ok(removal));
    }
    end_tasks(work, id, actor)?;
    give_up(work, &removal.node)?;
    for taken in allocation::on_node(work.tx, id)? {
        work.set_allocation(taken.owner, None)?;
    }
    let name = &removal.node.name;
    work.removed.insert(id);
    token::use_up_of(work.tx, name, work.now)?;
    work.trust_changed();
    let data = json!({"name": name, "forced": force == Force::Yes, "vms": removal.vms, "tasks": removal.tasks});
    work.event(None, "node", "node.removed", id.0, data.clone());
    work.audit(actor, None, "node", "node.remove", id.0, data);
    Ok(Ok(removal))
}

/// Whether a node may be removed.
fn may_go(node: &Node, left: &Drain, force: Force) -> Answer<()> {
    let Node { id, name, state, freshness, .. } = node;
    let conflict = |detail: String| {
        let refusal = Refusal::new(Code::NodeStateConflict, detail).with("node", id.to_string());
        Err(refusal.with("state", state.as_str()).with("freshness", freshness.as_str()).with("left", json!(left)))
    };
    let first = match state {
        NodeState::Pending | NodeState::Drained => None,
        NodeState::Ready | NodeState::Cordoned => {
            Some(format!("drain it with `hostler node drain {name}`, and remove it once it is drained"))
        }
        NodeState::Draining if left.is_empty() => {
            Some("nothing is left there: it is drained within a few seconds; remove it then".to_owned())
        }
        NodeState::Draining => {
            Some(format!("{}; end that or wait for its end, and remove it once it is drained", left.said()))
        }
    };
    if let Some(first) = first.filter(|_| *freshness == Freshness::Fresh) {
        return conflict(format!("the node {name} is {state} and its agent is heard; {first}"));
    }
    if left.is_empty() {
        return Ok(());
    }
    match (force, freshness) {
        (Force::No, _) => conflict(format!(
            "{} ({name}); wait for their end or end them. Where the host is gone for good, --force gives them up with it",
            left.said()
        )),
        (Force::Yes, Freshness::Lost) => Ok(()),
        (Force::Yes, Freshness::Fresh | Freshness::Stale) => conflict(format!(
            "the node {name} was heard a moment ago, so what it has is not gone for good: {}; stop its agent and wait \
             until it is lost, or drain it",
            left.said()
        )),
    }
}

/// Ends what has not ended there. That the host is gone is an operator's word.
fn end_tasks(work: &mut Work<'_>, id: NodeId, actor: &Actor) -> Result<()> {
    let rows = task::on_node(work.tx, id)?;
    let ids: Vec<TaskId> = rows.iter().map(|row| row.task.id).collect();
    work.adopt(rows)?;
    for id in ids {
        work.cancel(id, actor)?;
        // A denial means that the cancel ended it.
        drop(work.apply(id, Event::Force)?);
    }
    Ok(())
}

/// The node's machines are no more, and their snapshots neither.
fn give_up(work: &mut Work<'_>, node: &Node) -> Result<()> {
    let ids: BTreeSet<VmId> = vm::on_nodes(work.tx, &[node.id])?.into_iter().map(|row| row.vm.id).collect();
    work.read_vms(&ids)?;
    for id in ids {
        if work.vms.get(&id).is_none_or(|row| row.vm.state == VmState::Deleted) {
            continue;
        }
        let detail = format!("its host {} was removed for good by an operator", node.name);
        work.change_vm(id, &VmChange::because(VmState::Deleted, VmReason::NodeLost, detail), json!("node_removed"));
        if let Some(row) = work.vms.change(&id) {
            row.vm.task = None;
        }
        work.delete_snapshots_of(id)?;
    }
    Ok(())
}
