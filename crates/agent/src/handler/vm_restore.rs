//! `vm.restore`: phases `check`, `stop`, `disk`, `start`, `boot`.
//!
//! A restore that an agent did not bring to its end is done again from the beginning: the snapshot is still there. What
//! a stopped one did cannot be taken back; the node's next inventory says what the machine is.

use hostler_model::kind::{VmRestore, VmRestoreOutput};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for VmRestore {
    async fn run(job: &Job<VmRestore>) -> Result<VmRestoreOutput, Failure> {
        let ((vm, epoch), id) = (job.vm()?, super::snapshot_id::<VmRestore>(&job.params.snapshot)?);
        let now = job.tools.clock.now().as_micros().saturating_mul(1000);
        let vms = &job.tools.vms;
        let restoring = |phases| async move { vms.restore(vm, epoch, id, now, &phases).await };
        let back = super::with_phases(job, restoring).await?;
        let down_ms = back.down.as_secs_f64() * 1e3;
        Ok(VmRestoreOutput { memory: back.memory, down_ms, clock_set: back.clock_set })
    }

    async fn undo(_: &Job<VmRestore>, begun: Begun) -> Undo<VmRestoreOutput> {
        super::cannot_be_undone(begun)
    }
}
