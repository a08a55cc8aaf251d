//! `vm.reboot`: phases `restart`, `boot`. It is done once: an agent that finds its own unfinished reboot does not repeat
//! it, and one that fails is not tried again.

use std::time::Duration;

use hostler_model::kind::{STOP_TIMEOUT_SECONDS, VmReboot, VmRebootOutput};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for VmReboot {
    async fn run(job: &Job<VmReboot>) -> Result<VmRebootOutput, Failure> {
        let (vm, epoch) = job.vm()?;
        let seconds = job.params.timeout_seconds.unwrap_or(STOP_TIMEOUT_SECONDS);
        let patience = (!job.params.hard).then_some(Duration::from_secs(u64::from(seconds)));
        let vms = &job.tools.vms;
        let rebooted =
            super::with_phases(job, |phases| async move { vms.reboot(vm, epoch, patience, &phases).await }).await;
        let rebooted = rebooted.map_err(|failure| Failure { retryable: false, ..failure })?;
        Ok(VmRebootOutput { how: rebooted.how, boot_ms: rebooted.boot_ms })
    }

    async fn undo(_: &Job<VmReboot>, begun: Begun) -> Undo<VmRebootOutput> {
        super::cannot_be_undone(begun)
    }
}
