//! `vm.delete`: ends a machine's programs and its process, and removes all it had.
//!
//! A removal that has begun cannot be undone, only completed; so that is what stopping it does.

use hostler_model::kind::{VmDelete, VmDeleteOutput};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for VmDelete {
    async fn run(job: &Job<VmDelete>) -> Result<VmDeleteOutput, Failure> {
        let existed = super::remove(job).await?;
        job.log(if existed { "the machine and all it had are removed" } else { "there was nothing of it any more" });
        Ok(VmDeleteOutput { existed })
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
