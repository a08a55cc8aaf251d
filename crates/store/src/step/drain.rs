//! Draining: a node takes nothing new, and what is there ends where it is. Nothing moves a disk between hosts, so only
//! what nobody has begun goes elsewhere; the rest is named, with what ends it.
//!
//! ```text
//! draining ──what nobody has begun goes elsewhere── the rest ends by itself or by its owner ──► drained
//! ```

use hostler_db::{Result, Tx};
use hostler_model::{
    NodeId, TaskId,
    broker::Transport,
    node::{NodeEvent, NodeState},
    task::Task,
    vm::Vm,
};
use serde_json::json;

use super::place::{self, Groups};
use crate::{Swept, node, task, vm, work::Work};

/// What is left on a node: machines, and tasks that have not ended.
pub(crate) fn left(tx: &Tx<'_>, node: NodeId) -> Result<(Vec<Vm>, Vec<Task>)> {
    let vms = vm::on_nodes(tx, &[node])?.into_iter().map(|row| row.vm).collect();
    let tasks = task::on_node(tx, node)?.into_iter().map(|row| row.task).collect();
    Ok((vms, tasks))
}

/// One pass over the nodes that are being drained.
pub(crate) fn drain_nodes(work: &mut Work<'_>) -> Result<Swept> {
    let mut swept = Swept::default();
    for id in node::draining(work.tx)? {
        let (vms, tasks) = left(work.tx, id)?;
        swept.changed += if vms.is_empty() && tasks.is_empty() { emptied(work, id)? } else { move_away(work, id)? };
    }
    Ok(swept)
}

/// The last of it is gone.
fn emptied(work: &mut Work<'_>, id: NodeId) -> Result<usize> {
    let Some(mut row) = node::by_ids(work.tx, &[id], work.usual())?.pop() else { return Ok(0) };
    let Some(after) = row.node.state.after(NodeEvent::Emptied) else { return Ok(0) };
    let data = json!({"name": row.node.name, "was": row.node.state, "state": after, "since": row.node.state_since});
    (row.node.state, row.node.state_since) = (after, Some(work.now));
    work.nodes.insert(id, row);
    work.event(None, "node", "node.drained", id.0, data);
    Ok(1)
}

/// Places machines elsewhere that nobody has begun to make, where another node will do. What is offered by a broker may be
/// begun at any moment, and stays.
pub(super) fn move_away(work: &mut Work<'_>, id: NodeId) -> Result<usize> {
    let fresh: Vec<_> = task::on_node(work.tx, id)?.into_iter().filter(place::is_fresh).collect();
    if fresh.is_empty() || !is_polled(work, id)? {
        return Ok(0);
    }
    let ids: Vec<TaskId> = fresh.iter().map(|row| row.task.id).collect();
    work.adopt(fresh)?;
    // As it is from now on: the row may not be written yet.
    work.candidates()?;
    for candidate in work.candidates.iter_mut().flatten().filter(|candidate| candidate.id == id) {
        candidate.state = NodeState::Draining;
    }
    let machines: Vec<_> = ids.into_iter().filter_map(|id| place::machine_of(work, id)).collect();
    let mut groups = Groups::read(work.tx, machines.iter().map(|(_, vm)| (vm.tenant, &vm.spec.placement)))?;
    let mut moved = 0;
    for (row, vm) in machines {
        if let Some(to) = place::anew(work, &groups, &row, &vm)? {
            place::put(work, &mut groups, &vm, to)?;
            moved += 1;
        }
    }
    Ok(moved)
}

fn is_polled(work: &mut Work<'_>, id: NodeId) -> Result<bool> {
    let known = node::identities(work.tx, &[id])?;
    Ok(known.get(&id).is_some_and(|known| known.transport == Transport::Poll))
}
