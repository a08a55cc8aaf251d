//! Heartbeats: a node is heard, its leases are renewed, and what it has is compared with what is known.
//!
//! An inventory is older than its arrival. Heartbeats of one agent follow one another, so an inventory was taken after
//! the previous heartbeat was received: it may speak only of machines that did not change since that one. The order is
//! that of the log's numbers, not of clocks.

use std::collections::{BTreeMap, BTreeSet};

use hostler_db::Result;
use hostler_model::{
    NodeId, SnapshotId, TaskId, VmId,
    alloc::Owner,
    event::Actor,
    internal::{HeartbeatAnswer, HeldLease},
    node::Freshness,
    refused::Refused,
    task::TaskState,
    vm::{self, Missing, Observation, VmChange, VmReason, VmState},
};
use serde_json::json;

use super::{edit, identify, unassigned, waiting};
use crate::{
    Answer, Beat, HeardBeat,
    group::Step,
    node::{self, Identity},
    snapshot::{self as snapshots, SnapshotRow},
    vm as vms,
    work::Work,
};

/// The step.
#[derive(Debug)]
pub(crate) struct Hear;

impl Step for Hear {
    type Item = Beat;
    type Output = HeardBeat;
    const LABEL: &'static str = "store.heartbeat";
    const MOST: usize = 256;

    fn run(work: &mut Work<'_>, beats: &[Beat]) -> Result<Vec<Answer<HeardBeat>>> {
        let known = read(work, beats)?;
        compared(work, beats, &known)?;
        let mut heard = BTreeSet::new();
        beats
            .iter()
            .map(|beat| {
                if let Err(refusal) = identify(&known, beat.node, beat.enrolment) {
                    return Ok(Err(refusal));
                }
                // Of two heartbeats in one batch the second cannot tell what was seen between them.
                let first = heard.insert(beat.node);
                hear(work, beat, first).map(Ok)
            })
            .collect()
    }
}

/// Reads the nodes, the machines that are on them or said to be, and the tasks they hold.
fn read(work: &mut Work<'_>, beats: &[Beat]) -> Result<BTreeMap<NodeId, Identity>> {
    let nodes: Vec<NodeId> = BTreeSet::from_iter(beats.iter().map(|beat| beat.node)).into_iter().collect();
    for row in node::by_ids(work.tx, &nodes, work.usual())? {
        work.nodes.read(row.node.id, row);
    }
    for row in vms::on_nodes(work.tx, &nodes)? {
        work.vms.read(row.vm.id, row);
    }
    for row in snapshots::on_nodes(work.tx, &nodes)? {
        work.snapshots.read(row.snapshot.id, row);
    }
    let reported = beats.iter().flat_map(|beat| &beat.heartbeat.inventory.vms);
    let elsewhere: BTreeSet<VmId> = reported.map(|seen| seen.vm).filter(|id| !work.vms.has(id)).collect();
    if !elsewhere.is_empty() {
        for row in vms::by_ids(work.tx, &Vec::from_iter(elsewhere))? {
            work.vms.read(row.vm.id, row);
        }
    }
    let tasks: Vec<TaskId> = beats.iter().flat_map(|beat| &beat.heartbeat.leases).map(|held| held.task).collect();
    work.read_task_rows(&tasks)?;
    node::identities(work.tx, &nodes)
}

/// Nodes that say all that they have for the first time since the store was restored get tasks again.
fn compared(work: &mut Work<'_>, beats: &[Beat], known: &BTreeMap<NodeId, Identity>) -> Result<()> {
    let new = |beat: &&Beat| {
        let who = known.get(&beat.node);
        beat.heartbeat.inventory.full && who.is_some_and(|who| !who.compared && who.enrolment == Some(beat.enrolment))
    };
    let nodes: BTreeSet<NodeId> = beats.iter().filter(new).map(|beat| beat.node).collect();
    if !nodes.is_empty() {
        node::compared(work.tx, &Vec::from_iter(nodes.iter().copied()))?;
        nodes.into_iter().for_each(|node| work.wake(Some(node)));
    }
    Ok(())
}

fn hear(work: &mut Work<'_>, beat: &Beat, compare: bool) -> Result<HeardBeat> {
    let mut answer = HeartbeatAnswer {
        next_ms: u64::try_from(work.context.timing.heartbeat.as_millis()).unwrap_or(u64::MAX),
        ..HeartbeatAnswer::default()
    };
    freshen(work, beat);
    let refused = refused(work, beat);
    waiting::come_back(work, beat.node, &beat.heartbeat)?;
    for held in &beat.heartbeat.leases {
        renew(work, beat, held, &mut answer);
    }
    if compare {
        observe(work, beat)?;
        answer.orphans = unassigned::orphans(work, beat);
        answer.orphan_snapshots = observe_snapshots(work, beat)?;
    }
    work.heard.push(beat.node);
    Ok(HeardBeat { answer, refused })
}

/// What an agent refused, beyond what is there already, is in the audit: somebody may be sending it what is not for it. An agent
/// has one line for each reason.
fn refused(work: &mut Work<'_>, beat: &Beat) -> Vec<Refused> {
    let before = work.nodes.get(&beat.node).map(|row| row.refused.clone());
    let (Some(said), Some(mut heard)) = (&beat.heartbeat.refused, before) else { return Vec::new() };
    let news = heard.news(said);
    if news.is_empty() {
        return news;
    }
    if let Some(row) = work.nodes.change(&beat.node) {
        row.refused = heard;
    }
    let node = Actor::node(beat.node, "certificate");
    for refused in &news {
        work.audit(&node, None, "node", "task.refused", beat.node.0, json!(refused));
    }
    news
}

/// The node is fresh; its facts are written when they differ.
fn freshen(work: &mut Work<'_>, beat: &Beat) {
    let now = work.now;
    let Some(row) = work.nodes.get(&beat.node) else { return };
    let (before, same) = (row.node.freshness, row.node.facts == beat.heartbeat.facts);
    if before == Freshness::Fresh && same {
        return;
    }
    let Some(row) = work.nodes.change(&beat.node) else { return };
    row.node.facts = beat.heartbeat.facts.clone();
    row.node.freshness = Freshness::Fresh;
    row.lost_at = None;
    row.node.last_seen = Some(now);
    let transport = row.node.transport.told(row.node.facts.transport);
    if transport != std::mem::replace(&mut row.node.transport, transport) {
        work.reroute(beat.node);
    }
    let Some(row) = work.nodes.get(&beat.node) else { return };
    if before != Freshness::Fresh {
        let data = json!({"name": row.node.name, "was": before});
        work.event(None, "node", "node.fresh", beat.node.0, data);
    }
}

fn renew(work: &mut Work<'_>, beat: &Beat, held: &HeldLease, answer: &mut HeartbeatAnswer) {
    let Some(row) = work.tasks.get(&held.task).filter(|row| row.task.node == Some(beat.node)) else {
        answer.over.push(*held);
        return;
    };
    if row.ended() || row.task.fence != held.fence {
        answer.over.push(*held);
        return;
    }
    if row.task.state == TaskState::Aborting {
        answer.abort.push(held.task);
    }
    // A lease that lapsed, or that an earlier enrolment had, is not renewed: the attempt may still report.
    if row.lease.is_some_and(|lease| lease.enrolment == beat.enrolment) {
        work.renewed.push(held.task);
    }
}

/// Machines of this node that no task is changing become what was seen of them.
///
/// What was seen, or not seen, of a machine that changed since the node's previous heartbeat may be older than that
/// change. That a machine's process has ended is news all the same: the agent says so at once, and people wait for it.
/// So is whatever is seen of a machine that is unknown: that state asserts nothing that could be newer.
fn observe(work: &mut Work<'_>, beat: &Beat) -> Result<()> {
    let inventory = &beat.heartbeat.inventory;
    let seen: BTreeMap<VmId, &Observation> = inventory.vms.iter().map(|seen| (seen.vm, seen)).collect();
    let beat_seq = work.nodes.get(&beat.node).and_then(|row| row.beat_seq);
    let ours: Vec<(VmId, VmState, bool)> = work
        .vms
        .all()
        .filter(|row| row.vm.node == Some(beat.node) && row.vm.task.is_none() && row.vm.state != VmState::Deleted)
        .map(|row| (row.vm.id, row.vm.state, beat_seq.is_some_and(|seq| row.seq <= seq)))
        .collect();
    for (id, state, settled) in ours {
        let news = |seen: &Observation| seen.state == VmState::Error || state == VmState::Unknown;
        match seen.get(&id) {
            Some(seen) if settled || news(seen) => observe_one(work, id, seen)?,
            None if settled && inventory.full => miss(work, id)?,
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// The node's snapshots become what was seen of them; those that are not ours are named.
fn observe_snapshots(work: &mut Work<'_>, beat: &Beat) -> Result<Vec<SnapshotId>> {
    let inventory = &beat.heartbeat.inventory;
    let beat_seq = work.nodes.get(&beat.node).and_then(|row| row.beat_seq);
    work.observe_snapshots(beat.node, inventory.full, &inventory.snapshots, beat_seq)?;
    let mut orphans = Vec::new();
    for id in &inventory.snapshots {
        if !work.snapshots.has(id) {
            // Not among those that are on this node and not deleted: deleted just now, or not ours.
            let known = snapshots::by_ids(work.tx, &[*id])?;
            let lately = |row: &SnapshotRow| beat_seq.is_none_or(|seq| row.seq > seq);
            if !known.iter().any(|row| row.snapshot.node == Some(beat.node) && lately(row)) {
                orphans.push(*id);
            }
        }
    }
    Ok(orphans)
}

fn observe_one(work: &mut Work<'_>, id: VmId, seen: &Observation) -> Result<()> {
    let Some(row) = work.vms.get(&id) else { return Ok(()) };
    let (state, ready, reason, epoch) = (row.vm.state, row.vm.ready, row.vm.reason, row.vm.epoch);
    let node = row.vm.node;
    if let Some(change) = vm::observe(state, ready, reason, epoch, seen) {
        work.change_vm(id, &change, json!("observed"));
        if matches!(state, VmState::Error | VmState::Unknown) {
            work.charge_again(id)?;
        }
        if state == VmState::Unknown {
            // Tasks may have waited to know.
            work.wake(node);
        }
    }
    edit::observe(work, id, seen)
}

fn miss(work: &mut Work<'_>, id: VmId) -> Result<()> {
    let Some(row) = work.vms.get(&id) else { return Ok(()) };
    match vm::missing(row.vm.state) {
        Missing::AsExpected => Ok(()),
        Missing::Lost => {
            let change = VmChange::because(VmState::Error, VmReason::Missing, "its node has nothing of it any more");
            work.change_vm(id, &change, json!("missing"));
            work.set_allocation(Owner::Vm(id), None)
        }
        Missing::Absent => release_absent(work, id),
    }
}

/// A VM in error of which nothing is left is no longer charged; it stays in error until somebody deletes it.
fn release_absent(work: &mut Work<'_>, id: VmId) -> Result<()> {
    if work.allocation(Owner::Vm(id))?.is_none() {
        return Ok(());
    }
    work.set_allocation(Owner::Vm(id), None)?;
    let Some(row) = work.vms.change(&id) else { return Ok(()) };
    let (tenant, data) = (row.vm.tenant, json!({"name": row.vm.name, "node": row.vm.node, "cause": "missing"}));
    work.event(Some(tenant), "vm", "vm.released", id.0, data);
    Ok(())
}
