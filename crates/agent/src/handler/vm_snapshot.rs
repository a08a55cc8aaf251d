//! `vm.snapshot`: phases `memory` or `freeze`, then `disk`. One that failed or was stopped is removed.

use hostler_model::{
    SnapshotId,
    error::Code,
    kind::{VmSnapshot, VmSnapshotOutput},
};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for VmSnapshot {
    async fn run(job: &Job<VmSnapshot>) -> Result<VmSnapshotOutput, Failure> {
        let ((vm, epoch), id, memory) = (job.vm()?, id(job)?, job.params.memory);
        let vms = &job.tools.vms;
        // One that is whole already is answered as it was made.
        let taking = |phases| async move { vms.take_snapshot(vm, epoch, id, memory, &phases).await };
        let made = super::with_phases(job, taking).await?;
        if let Some(warning) = &made.warning {
            job.log(warning);
        }
        Ok(VmSnapshotOutput {
            disk_bytes: made.written.disk_bytes,
            memory_bytes: made.written.memory_bytes,
            quiesced: made.quiesced,
            paused_ms: made.paused_ms,
        })
    }

    async fn undo(job: &Job<VmSnapshot>, _: Begun) -> Undo<VmSnapshotOutput> {
        let (Ok((vm, _)), Ok(id)) = (job.vm(), id(job)) else { return Undo::Undone };
        match job.tools.vms.remove_snapshot(vm, id).await {
            Ok(_) => Undo::Undone,
            Err(failure) => Undo::Remains(Some(failure.detail)),
        }
    }
}

fn id(job: &Job<VmSnapshot>) -> Result<SnapshotId, Failure> {
    job.params.snapshot.ok_or_else(|| Failure {
        code: Code::TaskRefused,
        detail: "a vm.snapshot must say which snapshot is made, and this one does not".to_owned(),
        retryable: false,
    })
}
