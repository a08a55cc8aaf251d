//! Machines that inventories found and no record knows: remembered with their node, and claimed for a tenant.

use std::collections::BTreeMap;

use hostler_db::Result;
use hostler_model::{
    Code, Refusal, VmId,
    alloc::{Allocation, Hold, Owner},
    amounts::Amounts,
    name::Name,
    quota,
    unassigned::{Orphan, Stranger},
    vm::{self, Vm, VmState},
};
use serde_json::json;

use super::{join::not_found, tenant::no_tenant};
use crate::{
    Answer, Beat, Claimed, node,
    vm::{self as vms, VmRow},
    work::{Did, Work},
};

/// Machines that are not ours: answered each time, written to the log when one appears.
pub(super) fn orphans(work: &mut Work<'_>, beat: &Beat) -> Vec<VmId> {
    let inventory = &beat.heartbeat.inventory;
    let Some(row) = work.nodes.get(&beat.node) else { return Vec::new() };
    let beat_seq = row.beat_seq;
    let before: BTreeMap<VmId, Orphan> = row.orphans.iter().map(|orphan| (orphan.seen.vm, orphan.clone())).collect();
    let is_orphan = |id: &VmId| match work.vms.get(id) {
        None => true,
        Some(row) if row.vm.node != Some(beat.node) => true,
        Some(row) => row.vm.state == VmState::Deleted && beat_seq.is_some_and(|seq| row.seq <= seq),
    };
    let told: BTreeMap<VmId, &Stranger> = inventory.strangers.iter().map(|stranger| (stranger.vm, stranger)).collect();
    let seen = inventory.vms.iter().filter(|seen| is_orphan(&seen.vm));
    let now: BTreeMap<VmId, Orphan> = seen
        .map(|seen| {
            let stranger = told.get(&seen.vm).map(|told| (*told).clone());
            let stranger = stranger.or_else(|| before.get(&seen.vm)?.stranger.clone());
            (seen.vm, Orphan { seen: seen.clone(), stranger })
        })
        .collect();
    let is_new = |id: &&VmId| !before.contains_key(*id);
    if now != before && (inventory.full || before.keys().all(|id| now.contains_key(id))) {
        for id in now.keys().filter(is_new) {
            work.event(None, "node", "node.orphan", beat.node.0, json!({"vm": id}));
        }
        if let Some(row) = work.nodes.change(&beat.node) {
            row.orphans = now.values().cloned().collect();
        }
    }
    now.into_keys().collect()
}

/// Makes a record of a machine that no record knows, of what its host says of it. It is charged as one that is there: its
/// room is taken, and its tenant's quota must allow it. Claimed once more in the same words it is as it was.
pub(crate) fn claim(work: &mut Work<'_>, claim: &Claimed) -> Result<Answer<Vm>> {
    let Some(row) = node::by_ids(work.tx, &[claim.node], work.usual())?.pop() else {
        return Ok(Err(not_found(claim.node)));
    };
    let Some(tenant) = work.tenant(claim.tenant)? else { return Ok(Err(no_tenant(claim.tenant))) };
    if let Some(known) = vms::by_ids(work.tx, &[claim.vm])?.pop() {
        return Ok(again(known.vm, claim));
    }
    let Some(orphan) = row.orphans.iter().find(|orphan| orphan.seen.vm == claim.vm).cloned() else {
        return Ok(Err(unknown(claim.vm)));
    };
    let named = orphan.known().and_then(|stranger| Ok((name(claim, stranger)?, stranger.clone())));
    let (name, stranger) = match named {
        Ok(named) => named,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some(other) = vms::by_names(work.tx, &[(tenant.id, name.clone())])?.pop() {
        return Ok(Err(super::submit::name_taken(&name, other.vm.id)));
    }
    let runs = vm::runs(orphan.seen.state, orphan.seen.reason, false);
    let amount = Amounts { running_vms: i64::from(runs), ..stranger.spec.charge().into() };
    if let Err(refusal) = quota::check(&tenant.limits, &tenant.book, &amount) {
        return Ok(Err(refusal));
    }
    let vm = record(work, claim, name, &orphan, stranger);
    let data = json!({"name": vm.name, "node": vm.node, "state": vm.state});
    work.act(&claim.actor, Some(vm.tenant), "vm", Did { kind: "vm.claimed", by: "vm.claim" }, vm.id.0, &data);
    work.vms.insert(vm.id, VmRow { seq: 0, vm: vm.clone(), reaped_at: None, tries: Vec::new() });
    let owner = Owner::Vm(vm.id);
    let taken = Allocation { owner, tenant: vm.tenant, node: vm.node, amount, hold: Hold::Used };
    work.set_allocation(owner, Some(taken))?;
    work.nodes.read(claim.node, row);
    if let Some(row) = work.nodes.change(&claim.node) {
        row.orphans.retain(|other| other.seen.vm != vm.id);
    }
    Ok(Ok(vm))
}

fn name(claim: &Claimed, stranger: &Stranger) -> Answer<Name> {
    match &claim.name {
        Some(name) => Ok(name.clone()),
        None => stranger.name.parse().map_err(|_| {
            Refusal::field("name", format!("it was called {:?}, which is no name here; say another", stranger.name))
        }),
    }
}

/// A machine as its node has it.
fn record(work: &Work<'_>, claim: &Claimed, name: Name, orphan: &Orphan, stranger: Stranger) -> Vm {
    let Orphan { seen, .. } = orphan;
    Vm {
        id: claim.vm,
        tenant: claim.tenant,
        name,
        state: seen.state,
        ready: seen.ready,
        reason: seen.reason,
        detail: seen.detail.clone(),
        last_state: None,
        task: None,
        node: Some(claim.node),
        epoch: seen.epoch,
        generation: 1,
        observed_generation: u32::from(!seen.restart_pending),
        protected: false,
        restart_at: None,
        expires_at: None,
        spec: stranger.spec,
        created_at: work.now,
        updated_at: work.now,
    }
}

/// A record has it already: by this claim, or by another right.
fn again(vm: Vm, claim: &Claimed) -> Answer<Vm> {
    let same = (vm.tenant, vm.node) == (claim.tenant, Some(claim.node)) && vm.state != VmState::Deleted;
    if same && claim.name.as_ref().is_none_or(|name| *name == vm.name) {
        return Ok(vm);
    }
    let detail = format!(
        "a record of the machine {} exists ({}); what is on the host beside it is for its operator to look at and to remove",
        vm.id, vm.state
    );
    Err(Refusal::new(Code::VmStateConflict, detail).with("vm", vm.id.to_string()).with("state", vm.state.as_str()))
}

fn unknown(id: VmId) -> Refusal {
    let detail =
        "the node has told of no such machine that no record knows; `hostler node orphans` shows those there are";
    Refusal::new(Code::VmNotFound, detail).with("vm", id.to_string())
}
