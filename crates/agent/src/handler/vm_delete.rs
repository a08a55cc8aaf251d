//! `vm.delete`: ends a machine's programs and its process, and removes all it had.
//!
//! A removal that has begun cannot be undone, only completed; so that is what stopping it does.

use hostler_model::kind::{VmDelete, VmDeleteOutput};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for VmDelete {
    async fn run(job: &Job<VmDelete>) -> Result<VmDeleteOutput, Failure> {
        Ok(VmDeleteOutput { existed: super::remove(job).await? })
    }

    async fn undo(job: &Job<VmDelete>, begun: Begun) -> Undo<VmDeleteOutput> {
        match begun {
            Begun::No => Undo::Undone,
            Begun::Yes => match Self::run(job).await {
                Ok(output) => Undo::Done(output),
                Err(failure) => Undo::Remains(Some(failure.detail)),
            },
        }
    }
}
