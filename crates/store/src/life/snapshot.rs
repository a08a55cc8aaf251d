//! What happens to snapshots within a step: with the task that makes or removes them, with their machine, and by what
//! their node says it has.

use hostler_db::Result;
use hostler_model::{
    NodeId, SnapshotId, VmId,
    alloc::{Allocation, Hold, Owner, Settlement},
    amounts::Amounts,
    kind::{KindName, SnapshotDeleteOutput},
    snapshot::{self, Known, Snapshot, SnapshotChange, SnapshotState, Use},
    task::Verdict,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{snapshot as snapshots, task::TaskRow, work::Work};

impl Work<'_> {
    /// The snapshot that a task's parameters name, as it is now.
    pub(crate) fn snapshot_of(&mut self, row: &TaskRow) -> Result<Option<Snapshot>> {
        if row.task.kind.spec().snapshot == Use::None {
            return Ok(None);
        }
        match snapshot::named_by(&row.task.params) {
            Some(id) => self.snapshot(id),
            None => Ok(None),
        }
    }

    /// A snapshot as it is now.
    pub(crate) fn snapshot(&mut self, id: SnapshotId) -> Result<Option<Snapshot>> {
        if !self.snapshots.has(&id) {
            for row in snapshots::by_ids(self.tx, &[id])? {
                self.snapshots.read(row.snapshot.id, row);
            }
        }
        Ok(self.snapshots.get(&id).map(|row| row.snapshot.clone()))
    }

    /// A machine's snapshots that are not deleted, as they are now.
    pub(crate) fn snapshots_of(&mut self, vm: VmId) -> Result<Vec<Snapshot>> {
        for row in snapshots::on_vms(self.tx, &[vm])? {
            self.snapshots.read(row.snapshot.id, row);
        }
        let all = self.snapshots.all().map(|row| &row.snapshot);
        Ok(all.filter(|one| one.vm == vm && one.state != SnapshotState::Deleted).cloned().collect())
    }

    /// A task was leased that removes a snapshot: it is being deleted from now on.
    pub(crate) fn begin_on_snapshot(&mut self, row: &TaskRow) -> Result<()> {
        if row.task.kind.spec().snapshot != Use::Remove {
            return Ok(());
        }
        let Some(snapshot) = self.snapshot_of(row)? else { return Ok(()) };
        if let Some(row_of_snapshot) = self.snapshots.change(&snapshot.id) {
            row_of_snapshot.snapshot.task = Some(row.task.id);
        }
        if snapshot.state != SnapshotState::Deleting {
            let change = SnapshotChange { detail: snapshot.detail, ..SnapshotChange::to(SnapshotState::Deleting) };
            self.change_snapshot(snapshot.id, change, json!({"task": row.task.id}));
        }
        Ok(())
    }

    /// What a task's end does to its snapshot.
    pub(super) fn end_on_snapshot(&mut self, row: &TaskRow, verdict: &Verdict) -> Result<()> {
        let Some(before) = self.snapshot_of(row)? else { return Ok(()) };
        let (change, settlement) = snapshot::settle(row.task.kind.spec().snapshot, &before, verdict);
        // Its machine may be gone, and all of its snapshots with it: nothing brings them back.
        let change = change.filter(|_| before.state != SnapshotState::Deleted);
        if before.task == Some(row.task.id)
            && let Some(row) = self.snapshots.change(&before.id)
        {
            row.snapshot.task = None;
        }
        if let Some(change) = change {
            self.change_snapshot(before.id, change, json!({"task": row.task.id}));
        }
        self.settle_allocation(Owner::Snapshot(before.id), settlement)?;
        match (row.task.kind, verdict) {
            (KindName::SnapshotDelete, Verdict::Succeeded { output }) => self.share_out(before.vm, output),
            _ => Ok(()),
        }
    }

    /// A snapshot's layer became part of another's, or is one's that stands on it: that one is charged for it.
    fn share_out(&mut self, vm: VmId, output: &Value) -> Result<()> {
        // An agent that says nothing of it has flattened nothing.
        let Ok(SnapshotDeleteOutput { shares, .. }) = SnapshotDeleteOutput::deserialize(output) else { return Ok(()) };
        for share in shares {
            let Some(snapshot) = self.snapshot(share.snapshot)?.filter(|snapshot| snapshot.vm == vm) else { continue };
            let Some(written) = snapshot::grown(&snapshot, share.disk_bytes) else { continue };
            let now = self.now;
            if let Some(row) = self.snapshots.change(&snapshot.id) {
                (row.snapshot.written, row.snapshot.updated_at) = (Some(written), now);
            }
            self.settle_allocation(Owner::Snapshot(snapshot.id), Settlement::Use(written.charge()))?;
        }
        Ok(())
    }

    /// A machine is no more, and with it all its snapshots.
    pub(crate) fn delete_snapshots_of(&mut self, vm: VmId) -> Result<()> {
        for snapshot in self.snapshots_of(vm)? {
            self.change_snapshot(snapshot.id, SnapshotChange::to(SnapshotState::Deleted), json!({"vm": vm}));
            self.settle_allocation(Owner::Snapshot(snapshot.id), Settlement::Release)?;
        }
        Ok(())
    }

    /// Compares what a node has with what is known. A snapshot that changed after `settled` (the log's number at the
    /// node's previous heartbeat) may be newer than what was seen.
    pub(crate) fn observe_snapshots(
        &mut self,
        node: NodeId,
        full: bool,
        seen: &[SnapshotId],
        settled: Option<i64>,
    ) -> Result<()> {
        let ours = self.snapshots.all().filter(|row| {
            row.snapshot.node == Some(node) && row.snapshot.task.is_none() && settled.is_some_and(|seq| row.seq <= seq)
        });
        let ours: Vec<Snapshot> = ours.map(|row| row.snapshot.clone()).collect();
        for snapshot in ours {
            let present = seen.contains(&snapshot.id);
            if !present && !full {
                continue;
            }
            if let Some(change) = snapshot::observe(&snapshot, present) {
                self.change_snapshot(snapshot.id, change, json!("observed"));
            }
            match (present, snapshot.state) {
                (false, SnapshotState::Ready | SnapshotState::Error) => {
                    self.settle_allocation(Owner::Snapshot(snapshot.id), Settlement::Release)?;
                }
                (true, SnapshotState::Error) => self.charge_snapshot(&snapshot)?,
                (true, SnapshotState::Ready)
                | (_, SnapshotState::Creating | SnapshotState::Deleting | SnapshotState::Deleted) => {}
            }
        }
        Ok(())
    }

    /// Charges for a snapshot that is there although nothing is booked for it any more.
    fn charge_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let owner = Owner::Snapshot(snapshot.id);
        let Some(written) = snapshot.written else { return Ok(()) };
        if self.allocation(owner)?.is_some() {
            return Ok(());
        }
        let (tenant, node) = (snapshot.tenant, snapshot.node);
        let amount = Amounts { snapshots: 1, ..written.charge().into() };
        self.set_allocation(owner, Some(Allocation { owner, tenant, node, amount, hold: Hold::Used }))
    }

    /// Changes what is known of a snapshot, and says so.
    fn change_snapshot(&mut self, id: SnapshotId, change: SnapshotChange, why: Value) {
        let now = self.now;
        let Some(row) = self.snapshots.change(&id) else { return };
        let snapshot = &mut row.snapshot;
        snapshot.state = change.state;
        // A text column ends at a NUL; an agent's words may have one.
        snapshot.detail = change.detail.map(|detail| detail.replace('\0', "\u{fffd}"));
        match change.known {
            Known::AsBefore => {}
            Known::Now(made) => (snapshot.written, snapshot.quiesced) = (Some(made.written), made.quiesced),
            Known::NoMore => snapshot.written = None,
        }
        if change.state == SnapshotState::Deleted {
            snapshot.task = None;
        }
        snapshot.updated_at = now;
        let data = json!({"name": snapshot.name, "vm": snapshot.vm, "node": snapshot.node, "cause": why});
        let (tenant, kind) = (snapshot.tenant, word(snapshot.state));
        self.event(Some(tenant), "snapshot", kind, id.0, data);
    }
}

const fn word(state: SnapshotState) -> &'static str {
    match state {
        SnapshotState::Creating => "snapshot.creating",
        SnapshotState::Ready => "snapshot.ready",
        SnapshotState::Deleting => "snapshot.deleting",
        SnapshotState::Deleted => "snapshot.deleted",
        SnapshotState::Error => "snapshot.error",
    }
}
