//! `vm.stop`: the guest is asked to turn itself off, and when its time is up its process is ended.
//!
//! That a guest was asked cannot be taken back: a stop that did not come to its end says that effects remain, and the
//! node's next inventory says what the machine is.

use std::time::Duration;

use hostler_model::kind::{STOP_TIMEOUT_SECONDS, VmStop, VmStopOutput};

use super::{Begun, Failure, Handler, Job, Undo};
use crate::hypervisor::Exit;

impl Handler for VmStop {
    async fn run(job: &Job<VmStop>) -> Result<VmStopOutput, Failure> {
        let (vm, epoch) = job.vm()?;
        let seconds = job.params.timeout_seconds.unwrap_or(STOP_TIMEOUT_SECONDS);
        let why = if job.params.host_goes_down { Exit::HostGoesDown } else { Exit::Requested };
        let how = job.tools.vms.stop(vm, epoch, Duration::from_secs(u64::from(seconds)), why).await?;
        Ok(VmStopOutput { how })
    }

    async fn undo(_: &Job<VmStop>, begun: Begun) -> Undo<VmStopOutput> {
        super::cannot_be_undone(begun)
    }
}
