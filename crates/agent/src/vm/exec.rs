//! Programs in a guest: they run beside each other, for as long as somebody waits for them and the process lives.

use hostler_model::{
    VmId,
    error::Code,
    kind::{VmExecOutput, VmExecParams},
};

use super::{
    Vms,
    admit::{Admission, Ask},
    drive::{Drive, Reply, Request, answer},
};
use crate::{handler::Failure, hypervisor::Exit};

struct Exec {
    epoch: u32,
    params: VmExecParams,
    reply: Reply<VmExecOutput>,
}

impl Vms {
    /// Runs a program in a machine. Dropping the future stops waiting for it.
    pub async fn exec(&self, vm: VmId, epoch: u32, params: &VmExecParams) -> Result<VmExecOutput, Failure> {
        self.is_here(vm)?;
        self.ask(vm, Code::OutcomeUnknown, |reply| Exec { epoch, params: params.clone(), reply }).await
    }
}

impl Request for Exec {
    fn ask(&self) -> Ask {
        Ask::Exec
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        match admission {
            Admission::Accept | Admission::Ignore => self.run(drive),
            Admission::Refuse(denial) => answer(self.reply, Err(denial.into())),
        }
    }
}

impl Exec {
    fn run(self, drive: &mut Drive) {
        let Exec { params, mut reply, .. } = self;
        let Some(machine) = drive.machine.clone() else { return };
        drive.programs.spawn(async move {
            tokio::select! {
                biased;
                output = machine.exec(&params) => answer(reply, output.map_err(Failure::from)),
                exit = machine.exited() => answer(reply, Err(broken_off(&exit))),
                () = reply.closed() => {}
            }
        });
    }
}

fn broken_off(exit: &Exit) -> Failure {
    let detail = format!("the machine's process ended while the program ran: {exit}");
    Failure { code: Code::GuestFailed, detail, retryable: false }
}
