//! A machine is removed, with all it had. It goes on when nobody waits for it any more.

use hostler_model::{VmId, error::Code, vm::VmReason};

use super::{
    Vms,
    admit::{Admission, Ask, Stage},
    drive::{Done, Drive, Reply, Request, Then, Trouble, answer},
};
use crate::{handler::Failure, hypervisor::DriverError};

struct Remove {
    epoch: u32,
    reply: Reply<bool>,
}

impl Vms {
    /// Ends and removes a machine, and says whether there was anything. It goes on when the future is dropped.
    pub async fn remove(&self, vm: VmId, epoch: u32) -> Result<bool, Failure> {
        self.ask(vm, Code::HypervisorFailed, |reply| Remove { epoch, reply }).await
    }
}

impl Request for Remove {
    fn ask(&self) -> Ask {
        Ask::Remove
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        match admission {
            Admission::Accept => begin(drive, self.reply),
            Admission::Ignore => drive.removers.push(self.reply),
            Admission::Refuse(denial) => answer(self.reply, Err(denial.into())),
        }
    }
}

fn begin(drive: &mut Drive, reply: Reply<bool>) {
    drive.removers.push(reply);
    (drive.machine, drive.answered) = (None, false);
    // Their callers hear that what became of them is not known.
    drive.programs.abort_all();
    drive.stage = Stage::Removing;
    drive.vms.publish(drive);
    let (hypervisor, id) = (drive.vms.hypervisor.clone(), drive.id);
    drive.work(async move { ended(hypervisor.remove(id).await) });
}

fn ended(removed: Result<bool, DriverError>) -> Done {
    Box::new(move |drive| match removed {
        Ok(existed) => {
            drive.stage = Stage::Absent;
            drive.vms.forget(drive);
            drive.removers.drain(..).for_each(|reply| answer(reply, Ok(existed)));
            Then::End
        }
        Err(error) => {
            drive.enter(Stage::Partial, Some(Trouble::error(VmReason::DeleteFailed, error.detail.as_str())));
            let failure = Failure::from(error);
            drive.removers.drain(..).for_each(|reply| answer(reply, Err(failure.clone())));
            Then::Continue
        }
    })
}
