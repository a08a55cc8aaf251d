//! `vm.pause`: holds a machine's processors.

use hostler_model::kind::{VmPause, VmPauseOutput};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for VmPause {
    async fn run(job: &Job<VmPause>) -> Result<VmPauseOutput, Failure> {
        let (vm, epoch) = job.vm()?;
        Ok(VmPauseOutput { already: job.tools.vms.pause(vm, epoch).await? })
    }

    async fn undo(_: &Job<VmPause>, begun: Begun) -> Undo<VmPauseOutput> {
        super::cannot_be_undone(begun)
    }
}
