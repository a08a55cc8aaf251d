//! `vm.resume`: lets a machine's processors run again.

use hostler_model::kind::{VmResume, VmResumeOutput};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for VmResume {
    async fn run(job: &Job<VmResume>) -> Result<VmResumeOutput, Failure> {
        let (vm, epoch) = job.vm()?;
        let (already, ready) = job.tools.vms.resume(vm, epoch).await?;
        Ok(VmResumeOutput { already, ready })
    }

    async fn undo(_: &Job<VmResume>, begun: Begun) -> Undo<VmResumeOutput> {
        super::cannot_be_undone(begun)
    }
}
