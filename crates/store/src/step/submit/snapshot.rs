//! What a submission does with a snapshot: makes one, needs one, removes one.

use hostler_db::Result;
use hostler_model::{
    Code, NodeId, Refusal, Resources, SnapshotId,
    alloc::{Allocation, Hold, Owner},
    amounts::Amounts,
    kind::Admission,
    quota,
    snapshot::{self, LIMIT, Snapshot, SnapshotState, Use},
    vm::{Vm, VmState},
};
use serde_json::json;

use crate::{Answer, NewSnapshot, Submission, snapshot::SnapshotRow, work::Work};

/// What becomes of a snapshot with an accepted submission.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) snapshot: Snapshot,
    /// For one to be made.
    pub(super) allocation: Option<Allocation>,
}

/// Whether the submission may have to do with its snapshot. `waits`: others are at work on the machine before it, so
/// that what is there now does not matter yet.
pub(super) fn decide(
    work: &mut Work<'_>,
    item: &Submission,
    vm: &Vm,
    node: NodeId,
    waits: bool,
) -> Result<Answer<Option<Part>>> {
    match (item.kind.spec().snapshot, &item.snapshot) {
        (Use::None, _) => Ok(Ok(None)),
        (Use::Make, Some(new)) if new.memory && vm.state == VmState::Stopped && !waits => Ok(Err(no_memory(vm))),
        (Use::Make, Some(new)) => Ok(make(work, item, new, vm, node)?.map(Some)),
        (Use::Make, None) => {
            Ok(Err(Refusal::field("snapshot", "this kind makes a snapshot, and the submission describes none")))
        }
        (usage @ (Use::Read | Use::Remove), _) => Ok(existing(work, item, usage, vm, waits)?.map(Some)),
    }
}

fn make(work: &mut Work<'_>, item: &Submission, new: &NewSnapshot, vm: &Vm, node: NodeId) -> Result<Answer<Part>> {
    let there = work.snapshots_of(vm.id)?;
    if let Some(taken) = there.iter().find(|one| one.name == new.name) {
        let detail = format!("the VM has a snapshot named {}; choose another name, or delete that one first", new.name);
        return Ok(Err(Refusal::new(Code::NameTaken, detail)
            .with("name", new.name.as_str())
            .with("snapshot", taken.id.to_string())));
    }
    if there.len() >= LIMIT {
        let detail = format!("the VM has {} snapshots, as many as it may have; delete one first", there.len());
        return Ok(Err(Refusal::new(Code::SnapshotLimit, detail).with("limit", LIMIT).with("vm", vm.id.to_string())));
    }
    let amount = one(snapshot::most(&vm.spec, new.memory));
    if let Err(refusal) = room(work, item, node, &amount)? {
        return Ok(Err(refusal));
    }
    let snapshot = Snapshot {
        id: new.id,
        tenant: vm.tenant,
        vm: vm.id,
        name: new.name.clone(),
        state: SnapshotState::Creating,
        detail: None,
        memory: new.memory,
        quiesced: None,
        written: None,
        task: Some(item.task),
        node: Some(node),
        spec: vm.spec.clone(),
        created_at: work.now,
        updated_at: work.now,
    };
    let owner = Owner::Snapshot(new.id);
    let allocation = Allocation { owner, tenant: vm.tenant, node: Some(node), amount, hold: Hold::Held };
    Ok(Ok(Part { snapshot, allocation: Some(allocation) }))
}

/// The time of a task has come that makes a snapshot: it is of the machine as it is now, whose name for it is kept since
/// it was asked for.
pub(super) fn come(work: &mut Work<'_>, item: &Submission, vm: &Vm, node: NodeId, waits: bool) -> Result<Answer<()>> {
    if item.kind.spec().snapshot != Use::Make {
        return Ok(Ok(()));
    }
    let found = snapshot::named_by(&item.params).map(|id| work.snapshot(id)).transpose()?.flatten();
    let Some(snapshot) = found else { return Ok(Ok(())) };
    if snapshot.memory && vm.state == VmState::Stopped && !waits {
        return Ok(Err(no_memory(vm)));
    }
    let (owner, amount) = (Owner::Snapshot(snapshot.id), one(snapshot::most(&vm.spec, snapshot.memory)));
    let held = work.allocation(owner)?.map_or(0, |held| held.amount.disk_gib);
    if amount.disk_gib > held {
        // What was held for it counts as free.
        work.set_allocation(owner, None)?;
        if let Err(refusal) = room(work, item, node, &amount)? {
            return Ok(Err(refusal));
        }
    }
    let allocation = Allocation { owner, tenant: vm.tenant, node: Some(node), amount, hold: Hold::Held };
    work.set_allocation(owner, Some(allocation))?;
    let now = work.now;
    if let Some(row) = work.snapshots.change(&snapshot.id) {
        (row.snapshot.spec, row.snapshot.updated_at) = (vm.spec.clone(), now);
    }
    Ok(Ok(()))
}

/// What a snapshot takes that takes so much disk.
fn one(room: Resources) -> Amounts {
    Amounts { snapshots: 1, ..room.into() }
}

fn no_memory(vm: &Vm) -> Refusal {
    let detail = "the VM is stopped and has no memory to keep; take a snapshot of its disk, or start it first";
    Refusal::new(Code::VmStateConflict, detail).with("vm", vm.id.to_string()).with("state", vm.state.as_str())
}

/// The tenant's quota and the node's room: a snapshot lies where its machine is, whatever else the node may take.
fn room(work: &mut Work<'_>, item: &Submission, node: NodeId, amount: &Amounts) -> Result<Answer<()>> {
    if let Some(tenant) = work.tenant(item.tenant)?
        && let Err(refusal) = quota::check(&tenant.limits, &tenant.book, amount)
    {
        return Ok(Err(refusal));
    }
    let Some(candidate) = work.candidates()?.iter().find(|candidate| candidate.id == node) else { return Ok(Ok(())) };
    let free = candidate.schedulable.disk_gib - candidate.book.total().disk_gib;
    if amount.disk_gib <= free {
        return Ok(Ok(()));
    }
    let detail = format!(
        "the snapshot may take up to {} GiB, and the VM's node {} has {} GiB free; delete snapshots or machines there",
        amount.disk_gib,
        candidate.name,
        free.max(0)
    );
    Ok(Err(Refusal::new(Code::NoCapacity, detail).with("asked", json!(amount.room())).with("free_gib", free.max(0))))
}

fn existing(work: &mut Work<'_>, item: &Submission, usage: Use, vm: &Vm, waits: bool) -> Result<Answer<Part>> {
    let id = snapshot::named_by(&item.params);
    let found = match id {
        Some(id) => work.snapshot(id)?.filter(|one| one.vm == vm.id && one.state != SnapshotState::Deleted),
        None => None,
    };
    let Some(snapshot) = found else { return Ok(Err(not_found(id))) };
    if usage == Use::Remove
        && snapshot.state == SnapshotState::Deleting
        && item.not_before <= work.now
        && let Some(task) = snapshot.task
    {
        let detail = format!("the task {task} is deleting the snapshot already; wait for it, or cancel it");
        return Ok(Err(Refusal::new(Code::SnapshotStateConflict, detail)
            .with("snapshot", snapshot.id.to_string())
            .with("state", snapshot.state.as_str())
            .with("task", task.to_string())));
    }
    if !waits {
        if let Admission::Refuse(code, detail) = snapshot::admit(usage, snapshot.state) {
            return Ok(Err(Refusal::new(code, detail)
                .with("snapshot", snapshot.id.to_string())
                .with("state", snapshot.state.as_str())));
        }
        if usage == Use::Read
            && let Err(refusal) = snapshot::fits(&snapshot, &vm.spec)
        {
            return Ok(Err(refusal));
        }
    }
    Ok(Ok(Part { snapshot, allocation: None }))
}

fn not_found(id: Option<SnapshotId>) -> Refusal {
    let detail = "the VM has no such snapshot; `hostler snapshot list` shows those there are";
    Refusal::new(Code::SnapshotNotFound, detail).with("snapshot", json!(id))
}

/// Puts what was decided into the working set.
pub(super) fn accept(work: &mut Work<'_>, item: &Submission, part: Part) -> Result<()> {
    let Part { snapshot, allocation } = part;
    let Some(allocation) = allocation else { return Ok(()) };
    work.set_allocation(allocation.owner, Some(allocation))?;
    let data = json!({"name": snapshot.name, "vm": snapshot.vm, "node": snapshot.node, "task": item.task});
    work.event(Some(item.tenant), "snapshot", "snapshot.creating", snapshot.id.0, data);
    work.snapshots.insert(snapshot.id, SnapshotRow { seq: 0, snapshot });
    Ok(())
}
