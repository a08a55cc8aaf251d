//! `vm.snapshot`: phases `memory` or `freeze`, then `disk`. One that failed or was stopped is removed.

use std::time::Duration;

use hostler_model::{
    SnapshotId,
    error::Code,
    kind::{VmSnapshot, VmSnapshotOutput},
};

use super::{Begun, Failure, Handler, Job, Undo, snapshot_delete};

/// How long the machine's other tasks wait while one that was whole already is removed, and its layer made part of the
/// machine's own.
const PATIENCE: Duration = Duration::from_secs(30);

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
        match snapshot_delete::take_back(&job.tools.vms, vm, id, PATIENCE).await {
            Ok(()) => Undo::Undone,
            Err(why) => Undo::Remains(Some(why)),
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
