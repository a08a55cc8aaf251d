//! `snapshot.delete`: removes a snapshot, and the layers that nothing stands on any more.
//!
//! A removal that has begun cannot be undone, only completed; so that is what stopping it does.

use hostler_model::kind::{SnapshotDelete, SnapshotDeleteOutput};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for SnapshotDelete {
    async fn run(job: &Job<SnapshotDelete>) -> Result<SnapshotDeleteOutput, Failure> {
        let ((vm, _), id) = (job.vm()?, super::snapshot_id::<SnapshotDelete>(&job.params.snapshot)?);
        let removed = job.tools.vms.remove_snapshot(vm, id).await?;
        Ok(SnapshotDeleteOutput { existed: removed.existed, layer_kept: removed.layer_kept })
    }

    async fn undo(job: &Job<SnapshotDelete>, begun: Begun) -> Undo<SnapshotDeleteOutput> {
        match begun {
            Begun::No => Undo::Undone,
            Begun::Yes => match Self::run(job).await {
                Ok(output) => Undo::Done(output),
                Err(failure) => Undo::Remains(Some(failure.detail)),
            },
        }
    }
}
