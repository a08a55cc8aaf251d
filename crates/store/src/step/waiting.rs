//! Machines that wait for a node with room. Their quota is taken; a loop gives each a node when one will do: after a
//! deletion, an uncordon, a node that joins, an overcommitment that was raised.
//!
//! ```text
//! no node will do ──► queued, waiting for capacity ──room──► placed, waiting for its node
//!                                                └──its time in the queue is over──► failed, with what each node lacked
//! ```
//!
//! What waited when a copy was made of the store may have been given a node since, of which a restored store knows nothing.
//! It is placed where a node says that it has it; anywhere else once every node has said what it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hostler_db::Result;
use hostler_model::{
    Code, NodeId, Resources, TaskId, VmId,
    forward::PortForward,
    internal::Heartbeat,
    placement::{PATIENCE, Placement, most_kept},
    task::{Event, Left},
    vm::{Vm, VmSpec},
};

use super::place::{self, Groups};
use crate::{Swept, node, task, task::TaskRow, work::Work};

/// How many that wait one pass looks at.
const PIECE: usize = 500;

/// How much longer waits what may be at a node that has not said what it has since the store was restored.
const ANOTHER_LOOK: Duration = Duration::from_secs(60);

/// What waits for room, and its machine.
type Waiting = (TaskRow, Vm);

/// One pass: each that waits, in its order, gets what will do; then nodes are kept for those that have waited long.
pub(crate) fn place_waiting(work: &mut Work<'_>) -> Result<Swept> {
    let rows = task::unplaced(work.tx, PIECE)?;
    let kept = node::set_aside(work.tx)?;
    if rows.is_empty() && kept.is_empty() {
        return Ok(Swept::default());
    }
    let rows = placeable(work, rows)?;
    let ids: Vec<TaskId> = rows.iter().map(|row| row.task.id).collect();
    work.adopt(rows)?;
    work.candidates()?;
    keep_only_for(work, &ids);
    let machines: Vec<Waiting> = ids.into_iter().filter_map(|id| place::machine_of(work, id)).collect();
    let mut groups = Groups::read(work.tx, machines.iter().map(|(_, vm)| (vm.tenant, &vm.spec.placement)))?;
    let (changed, left) = place_each(work, &mut groups, machines)?;
    let keep = keep_for(work, &groups, left)?;
    let nodes = kept.keys().chain(keep.keys()).copied().collect::<BTreeSet<_>>();
    let changes = nodes.into_iter().map(|node| (node, keep.get(&node).copied()));
    let changes: BTreeMap<_, _> = changes.filter(|(node, task)| kept.get(node) != task.as_ref()).collect();
    node::keep(work.tx, &changes)?;
    work.set_aside = !changes.is_empty();
    Ok(Swept { changed, more: changed == PIECE })
}

/// Those that nobody can have begun.
fn placeable(work: &mut Work<'_>, mut rows: Vec<TaskRow>) -> Result<Vec<TaskRow>> {
    let epoch = work.head()?.store_epoch;
    let is_older = |row: &TaskRow| row.task.fence.store_epoch < epoch;
    if rows.iter().any(is_older) && !node::all_compared(work.tx)? {
        rows.retain(|row| !is_older(row));
    }
    Ok(rows)
}

/// Gives each, in its order, what will do; how many that were, and the others.
fn place_each(work: &mut Work<'_>, groups: &mut Groups, machines: Vec<Waiting>) -> Result<(usize, Vec<Waiting>)> {
    let (mut placed, mut left, mut vain) = (0, Vec::new(), Vain::default());
    for (row, vm) in machines {
        let amount = place::amount(work, &vm)?;
        let found = match vain.covers(work, &row, &vm, amount) {
            true => None,
            false => place::anew(work, groups, &row, &vm)?,
        };
        match found {
            Some(node) => {
                place::put(work, groups, &vm, node)?;
                keep_no_more(work, row.task.id);
                placed += 1;
            }
            None => {
                vain.note(&row, &vm, amount);
                left.push((row, vm));
            }
        }
    }
    Ok((placed, left))
}

/// What found no node in this pass: whatever asks for as much of the same nodes will find none either, for room only
/// gets less. Where a node was kept and is no more, the next pass finds that out.
#[derive(Default)]
struct Vain(Vec<(Option<NodeId>, Placement, Vec<PortForward>, Resources)>);

impl Vain {
    fn note(&mut self, row: &TaskRow, vm: &Vm, amount: Resources) {
        if vm.spec.placement.anti_affinity.is_none() {
            let VmSpec { placement, port_forwards, .. } = &vm.spec;
            self.0.push((row.task.target.node, placement.clone(), port_forwards.clone(), amount));
        }
    }

    /// One for which a node is kept may find room where others do not.
    fn covers(&self, work: &Work<'_>, row: &TaskRow, vm: &Vm, amount: Resources) -> bool {
        let kept = work.candidates.iter().flatten().any(|candidate| candidate.set_aside == Some(row.task.id));
        let same = |node: Option<NodeId>, placement: &Placement| {
            node == row.task.target.node && placement.labels == vm.spec.placement.labels
        };
        let less = |other: &Resources| other.each().iter().zip(amount.each()).all(|((_, a), (_, b))| *a <= b);
        // More ports than asked for in vain are in vain, too.
        let as_many = |ports: &[PortForward]| ports.iter().all(|port| vm.spec.port_forwards.contains(port));
        let covers = |(node, placement, ports, other): &(_, _, Vec<PortForward>, _)| {
            same(*node, placement) && as_many(ports) && less(other)
        };
        !kept && self.0.iter().any(covers)
    }
}

/// The nodes to be kept, for those that have waited longest.
fn keep_for(work: &mut Work<'_>, groups: &Groups, mut left: Vec<Waiting>) -> Result<BTreeMap<NodeId, TaskId>> {
    left.retain(|(row, _)| work.now.since(row.task.created_at) >= PATIENCE);
    left.sort_by_key(|(row, _)| row.seq);
    let most = most_kept(work.candidates()?.len());
    let mut keep = BTreeMap::new();
    for (row, vm) in &left {
        if keep.len() == most {
            break;
        }
        if let Some(node) = place::keep(work, groups, row, vm)? {
            keep.insert(node, row.task.id);
            for candidate in work.candidates.iter_mut().flatten().filter(|candidate| candidate.id == node) {
                candidate.set_aside = Some(row.task.id);
            }
        }
    }
    Ok(keep)
}

/// Nodes are kept for these only.
fn keep_only_for(work: &mut Work<'_>, ids: &[TaskId]) {
    let ids: BTreeSet<TaskId> = ids.iter().copied().collect();
    for candidate in work.candidates.iter_mut().flatten() {
        candidate.set_aside = candidate.set_aside.filter(|task| ids.contains(task));
    }
}

/// Nothing is kept for it any more.
fn keep_no_more(work: &mut Work<'_>, id: TaskId) {
    for candidate in work.candidates.iter_mut().flatten().filter(|candidate| candidate.set_aside == Some(id)) {
        candidate.set_aside = None;
    }
}

/// A machine whose time to wait is over gets a node at the last moment; or it ends, and this is how.
pub(super) fn last_look(work: &mut Work<'_>, id: TaskId) -> Result<Option<Event>> {
    let Some((row, vm)) = place::machine_of(work, id) else { return Ok(Some(Event::MissQueueDeadline)) };
    if placeable(work, vec![row.clone()])?.is_empty() {
        // A node that is away may have it: that its time went by is no evidence that nobody has.
        let until = work.now.plus(ANOTHER_LOOK);
        if let Some(row) = work.tasks.change(&id) {
            row.task.queue_deadline = until;
        }
        return Ok(None);
    }
    let mut groups = Groups::read(work.tx, std::iter::once((vm.tenant, &vm.spec.placement)))?;
    match place::anew(work, &groups, &row, &vm)? {
        Some(node) => {
            place::put(work, &mut groups, &vm, node)?;
            Ok(None)
        }
        None => {
            let refusal = place::why_none(work, &groups, &row, &vm)?;
            let detail = format!("no node had room for it in time: {}", refusal.detail);
            Ok(Some(Event::Refuse { code: Code::DeadlineExceeded, detail }))
        }
    }
}

/// A node says that it has what waited for one before the store was restored, or works on it.
pub(super) fn come_back(work: &mut Work<'_>, node: NodeId, heartbeat: &Heartbeat) -> Result<()> {
    let seen = heartbeat.inventory.vms.iter().map(|seen| (seen.vm, seen.epoch));
    let is_unplaced = |id: &VmId| work.vms.get(id).is_some_and(|row| row.vm.node.is_none());
    let seen = seen.filter(|(id, _)| is_unplaced(id));
    let is_unplaced = |row: &&TaskRow| row.task.node.is_none();
    let held = heartbeat.leases.iter().filter_map(|held| work.tasks.get(&held.task).filter(is_unplaced));
    let held = held.filter_map(|row| Some((row.task.target.vm?, 1)));
    let back: Vec<(VmId, u32)> = seen.chain(held).collect();
    back.into_iter().try_for_each(|(id, epoch)| take_back(work, node, id, epoch))
}

/// Under the epoch in which the node has it. Nobody knows what is left of the attempt that made it.
fn take_back(work: &mut Work<'_>, node: NodeId, id: VmId, epoch: u32) -> Result<()> {
    let (queue, present) = (work.queue(id)?, work.head()?.store_epoch);
    let Some(vm) = work.vms.get(&id).map(|row| row.vm.clone()).filter(|vm| vm.node.is_none()) else { return Ok(()) };
    let is_create = |id: &TaskId| work.tasks.get(id).is_some_and(|row| row.task.fence.store_epoch < present);
    let Some(create) = queue.into_iter().find(is_create) else { return Ok(()) };
    let mut groups = Groups::read(work.tx, std::iter::empty())?;
    place::put(work, &mut groups, &vm, node)?;
    if let Some(row) = work.vms.change(&id) {
        row.vm.epoch = epoch;
    }
    if let Some(row) = work.tasks.change(&create) {
        row.left = Left::Unknown;
    }
    Ok(())
}
