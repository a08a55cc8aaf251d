//! `vm.start`: phases `start`, `boot`. One that was told to stop is undone: the machine is stopped again. A guest that
//! does not answer is left as it is: the machine runs.

use std::time::Duration;

use hostler_model::kind::{StartHow, VmStart, VmStartOutput};

use super::{Begun, Failure, Handler, Job, Undo};
use crate::{hypervisor::Exit, vm::admit::Stage};

impl Handler for VmStart {
    async fn run(job: &Job<VmStart>) -> Result<VmStartOutput, Failure> {
        let (vm, epoch) = job.vm()?;
        let ready = job.params.ready_timeout_seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let vms = &job.tools.vms;
        let started =
            super::with_phases(job, |phases| async move { vms.start(vm, epoch, ready, &phases).await }).await?;
        let how = if started.anew { StartHow::Started } else { StartHow::Already };
        Ok(VmStartOutput { how, boot_ms: started.anew.then_some(started.boot_ms) })
    }

    async fn undo(job: &Job<VmStart>, begun: Begun) -> Undo<VmStartOutput> {
        if begun == Begun::No {
            return Undo::Undone;
        }
        let Ok((vm, epoch)) = job.vm() else { return Undo::Undone };
        if job.is_stopped() {
            return match job.tools.vms.stop(vm, epoch, Duration::ZERO, Exit::Requested).await {
                Ok(_) => Undo::Undone,
                Err(failure) => Undo::Remains(Some(failure.detail)),
            };
        }
        match job.tools.vms.glance(vm).map(|glance| glance.stage) {
            // Nothing runs that did not before.
            Some(Stage::Ended | Stage::Absent) | None => Undo::Undone,
            Some(
                Stage::Making | Stage::Partial | Stage::Running | Stage::Paused | Stage::Changing | Stage::Removing,
            ) => Undo::Remains(None),
        }
    }
}
