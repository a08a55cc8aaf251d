//! Machines that wait for a node with room. Their quota is taken; a loop gives each a node when one will do: after a
//! deletion, an uncordon, a node that joins, an overcommitment that was raised.
//!
//! ```text
//! no node will do ──► queued, waiting for capacity ──room──► placed, waiting for its node
//!                                                └──its time in the queue is over──► failed, with what each node lacked
//! ```

use std::collections::{BTreeMap, BTreeSet};

use hostler_db::Result;
use hostler_model::{
    Code, NodeId, TaskId,
    placement::{PATIENCE, most_kept},
    task::Event,
};

use super::place::{self, Groups};
use crate::{Swept, node, task, work::Work};

/// How many that wait one pass looks at.
const PIECE: usize = 500;

/// One pass: each that waits, in its order, gets what will do; then nodes are kept for those that have waited long.
pub(crate) fn place_waiting(work: &mut Work<'_>) -> Result<Swept> {
    let rows = task::unplaced(work.tx, PIECE)?;
    let kept = node::set_aside(work.tx)?;
    if rows.is_empty() && kept.is_empty() {
        return Ok(Swept::default());
    }
    let ids: Vec<TaskId> = rows.iter().map(|row| row.task.id).collect();
    let waiting = BTreeSet::from_iter(ids.iter().copied());
    work.adopt(rows)?;
    work.candidates()?;
    for candidate in work.candidates.iter_mut().flatten() {
        candidate.set_aside = candidate.set_aside.filter(|task| waiting.contains(task));
    }
    let machines: Vec<_> = ids.into_iter().filter_map(|id| place::machine_of(work, id)).collect();
    let mut groups = Groups::read(work.tx, machines.iter().map(|(_, vm)| (vm.tenant, &vm.spec.placement)))?;
    let (mut swept, mut left) = (Swept::default(), Vec::new());
    for (row, vm) in machines {
        match place::anew(work, &groups, &row, &vm)? {
            Ok(node) => {
                place::put(work, &mut groups, &vm, node)?;
                release(work, row.task.id);
                swept.changed += 1;
            }
            Err(_) => left.push((row, vm)),
        }
    }
    left.sort_by_key(|(row, _)| row.seq);
    let most = most_kept(work.candidates()?.len());
    let mut keep: BTreeMap<NodeId, TaskId> = BTreeMap::new();
    for (row, vm) in left.iter().filter(|(row, _)| work.now.since(row.task.created_at) >= PATIENCE) {
        if keep.len() == most {
            break;
        }
        if let Some(node) = place::keep(work, &groups, row, vm)? {
            keep.insert(node, row.task.id);
            for candidate in work.candidates.iter_mut().flatten().filter(|candidate| candidate.id == node) {
                candidate.set_aside = Some(row.task.id);
            }
        }
    }
    let nodes = kept.keys().chain(keep.keys()).copied().collect::<BTreeSet<_>>();
    let changes = nodes.into_iter().map(|node| (node, keep.get(&node).copied()));
    let changes = changes.filter(|(node, task)| kept.get(node) != task.as_ref()).collect();
    node::keep(work.tx, &changes)?;
    Ok(swept)
}

/// Nothing is kept for it any more.
fn release(work: &mut Work<'_>, id: TaskId) {
    for candidate in work.candidates.iter_mut().flatten().filter(|candidate| candidate.set_aside == Some(id)) {
        candidate.set_aside = None;
    }
}

/// A machine whose time to wait is over gets a node at the last moment; or it ends, and this is how.
pub(super) fn last_look(work: &mut Work<'_>, id: TaskId) -> Result<Option<Event>> {
    let Some((row, vm)) = place::machine_of(work, id) else { return Ok(Some(Event::MissQueueDeadline)) };
    let mut groups = Groups::read(work.tx, std::iter::once((vm.tenant, &vm.spec.placement)))?;
    match place::anew(work, &groups, &row, &vm)? {
        Ok(node) => {
            place::put(work, &mut groups, &vm, node)?;
            Ok(None)
        }
        Err(refusal) => {
            let detail = format!("no node had room for it in time: {}", refusal.detail);
            Ok(Some(Event::Refuse { code: Code::DeadlineExceeded, detail }))
        }
    }
}
