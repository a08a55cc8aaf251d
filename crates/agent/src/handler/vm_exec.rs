//! `vm.exec`: runs a program in a guest, through the machine's driving task.
//!
//! What a program did in a guest cannot be taken back, so an exec that does not succeed always says that effects
//! remain. It costs nobody anything: an exec has no allocation.

use hostler_model::kind::{VmExec, VmExecOutput, VmExecParams};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for VmExec {
    async fn run(job: &Job<VmExec>) -> Result<VmExecOutput, Failure> {
        let (vm, epoch) = job.vm()?;
        // Never retried by itself: whatever failed, the program may have run.
        let once = |failure| Failure { retryable: false, ..failure };
        let stdin = job.open(&job.params.stdin).await.map_err(once)?;
        let params = VmExecParams { stdin: stdin.into(), ..job.params.clone() };
        let output = job.tools.vms.exec(vm, epoch, &params).await.map_err(once)?;
        if let Some(signal) = output.signal {
            job.log(format!("the program was ended by signal {signal}"));
        }
        if output.stdout_truncated {
            job.log("its output was cut: only the first 64 KiB are kept");
        }
        Ok(output)
    }

    async fn undo(_: &Job<VmExec>, begun: Begun) -> Undo<VmExecOutput> {
        super::cannot_be_undone(begun)
    }
}
