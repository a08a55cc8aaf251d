//! `vm.rename`: tells the machine's folder its new name, which its process and its guest get with the next start.

use hostler_model::{
    error::Code,
    kind::{VmRename, VmRenameOutput},
};

use super::{Begun, Failure, Handler, Job, Undo};
use crate::{hypervisor::NotApplied, vm::edit::Change};

impl Handler for VmRename {
    async fn run(job: &Job<VmRename>) -> Result<VmRenameOutput, Failure> {
        let (vm, epoch) = job.vm()?;
        let change = Change { shape: None, name: Some(job.params.name.to_string()) };
        match job.tools.vms.edit(vm, epoch, change).await {
            Ok(Ok(_)) => Ok(VmRenameOutput { told: true }),
            Ok(Err(NotApplied { error, .. })) => Err(error.into()),
            // Of one that is not here, or was never completed, nothing will be started.
            Err(failure) if failure.code == Code::VmStateConflict => Ok(VmRenameOutput { told: false }),
            Err(failure) => Err(failure),
        }
    }

    /// The name is the server's record: it is brought here rather than taken back.
    async fn undo(job: &Job<VmRename>, begun: Begun) -> Undo<VmRenameOutput> {
        if begun == Begun::No {
            return Undo::Undone;
        }
        Self::run(job).await.map_or(Undo::Undone, Undo::Done)
    }
}
