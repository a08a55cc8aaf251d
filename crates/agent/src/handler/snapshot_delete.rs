//! `snapshot.delete`: phases `remove`, then `flatten`: its layer of the disk becomes part of what stands on it, and with
//! it every other layer that no snapshot needs.
//!
//! A removal that has begun cannot be undone, only completed. To stop it stops the copying: what is left of the snapshot
//! is a layer that stays charged, until it is deleted again.

use std::time::Duration;

use hostler_model::{
    SnapshotId, VmId,
    kind::{SnapshotDelete, SnapshotDeleteOutput, SnapshotShare},
};
use tokio::{sync::mpsc, time::timeout};

use super::{Begun, Failure, Handler, Job, Undo};
use crate::{hypervisor::Flat, vm::Vms};

/// How long whoever stops it waits for what may be nearly done.
const NEARLY_DONE: Duration = Duration::from_secs(5);

impl Handler for SnapshotDelete {
    async fn run(job: &Job<SnapshotDelete>) -> Result<SnapshotDeleteOutput, Failure> {
        let ((vm, _), id) = (job.vm()?, super::snapshot_id::<SnapshotDelete>(&job.params.snapshot)?);
        job.phase("remove");
        let existed = job.tools.vms.remove_snapshot(vm, id).await?.existed;
        job.phase("flatten");
        let flat = flatten(&job.tools.vms, vm, id, |percent| job.percent(percent)).await?;
        let share =
            |(snapshot, bytes)| SnapshotShare { snapshot, disk_bytes: i64::try_from(bytes).unwrap_or(i64::MAX) };
        let shares = flat.shares.into_iter().map(share).collect();
        Ok(SnapshotDeleteOutput { existed, layer_kept: flat.layer_kept, shares })
    }

    async fn undo(job: &Job<SnapshotDelete>, begun: Begun) -> Undo<SnapshotDeleteOutput> {
        if begun == Begun::No {
            return Undo::Undone;
        }
        match timeout(NEARLY_DONE, Self::run(job)).await {
            Ok(Ok(output)) => Undo::Done(output),
            Ok(Err(failure)) => Undo::Remains(Some(failure.detail)),
            Err(_) => Undo::Remains(Some(LEFT.to_owned())),
        }
    }
}

const LEFT: &str = "the snapshot is no more, but its layer is still part of the machine's disk; delete it again";

/// Makes a disk flat, and tells how far that is.
async fn flatten(vms: &Vms, vm: VmId, removed: SnapshotId, tell: impl Fn(u8)) -> Result<Flat, Failure> {
    let (percents, mut done) = mpsc::unbounded_channel();
    let flattening = vms.flatten(vm, removed, &percents);
    tokio::pin!(flattening);
    loop {
        tokio::select! {
            biased;
            Some(percent) = done.recv() => tell(percent),
            flat = &mut flattening => return flat,
        }
    }
}

/// Removes a snapshot for which nobody has asked, or not any more; why something of it is left, if it is.
pub(super) async fn take_back(vms: &Vms, vm: VmId, id: SnapshotId, patience: Duration) -> Result<(), String> {
    let removed = async {
        // Nothing of it is left, and nobody's copy is waited for: another layer of the disk is not this one's affair.
        if vms.remove_snapshot(vm, id).await?.layer_left {
            flatten(vms, vm, id, |_| {}).await?;
        }
        Ok::<(), Failure>(())
    };
    match timeout(patience, removed).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(failure.detail),
        Err(_) => Err(LEFT.to_owned()),
    }
}
