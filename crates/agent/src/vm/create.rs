//! A machine is made: the driver makes folder, disk and process, then the guest answers for the first time.
//!
//! Dropping the reply gives the making up; what was made stays for the removal.

use std::{sync::Arc, time::Duration};

use hostler_model::{error::Code, vm::VmReason};
use tokio::time::Instant;

use super::{
    Vms,
    admit::{Admission, Ask, Stage},
    drive::{Done, Drive, Reply, Request, Standing, Then, Trouble, answer},
};
use crate::{
    handler::Failure,
    hypervisor::{DriverError, Exit, Hypervisor, Machine, MachinePlan, Phases, Power},
};

/// A machine that was made, and whose guest has answered.
#[derive(Clone, PartialEq, Debug)]
pub struct Made {
    /// From its process's start to the guest's first answer, in milliseconds.
    pub boot_ms: f64,
    /// Its process on this host, where there is one.
    pub pid: Option<i32>,
    /// Why it is not ready although its guest runs.
    pub not_ready: Option<String>,
}

struct Create {
    plan: Box<MachinePlan>,
    ready: Duration,
    phases: Phases,
    reply: Reply<Made>,
}

impl Vms {
    /// Makes a machine and waits until its guest answers. One that is there already only has to answer.
    ///
    /// Dropping the future gives the making up; what was made stays for [`Vms::remove`].
    pub async fn create(&self, plan: &MachinePlan, ready: Duration, phases: &Phases) -> Result<Made, Failure> {
        let request = |reply| Create { plan: Box::new(plan.clone()), ready, phases: phases.clone(), reply };
        self.ask(plan.id, Code::HypervisorFailed, request).await
    }
}

impl Request for Create {
    fn ask(&self) -> Ask {
        Ask::Create
    }

    fn epoch(&self) -> u32 {
        self.plan.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        match admission {
            Admission::Accept => self.make(drive),
            Admission::Ignore => greet(drive, self.ready, self.reply),
            Admission::Refuse(denial) => answer(self.reply, Err(denial.into())),
        }
    }
}

impl Create {
    fn make(self, drive: &mut Drive) {
        let Create { plan, ready, phases, mut reply } = self;
        (drive.epoch, drive.machine, drive.answered) = (plan.epoch, None, false);
        drive.enter(Stage::Making, None);
        let hypervisor = drive.vms.hypervisor.clone();
        drive.work(async move {
            let made = tokio::select! {
                biased;
                made = make(&*hypervisor, &plan, ready, &phases) => Some(made),
                () = reply.closed() => None,
            };
            made.map_or_else(given_up, |made| ended(made, reply))
        });
    }
}

fn ended(made: Result<(Arc<dyn Machine>, Option<String>), DriverError>, reply: Reply<Made>) -> Done {
    Box::new(move |drive| {
        match made {
            Ok((machine, not_ready)) => {
                let made = of(&*machine, not_ready);
                drive.rest(Standing::Up(machine, Power::Running, made.not_ready.is_none()));
                answer(reply, Ok(made));
            }
            Err(error) => {
                let trouble = Trouble::error(VmReason::CreateFailed, error.detail.as_str());
                drive.enter(Stage::Partial, Some(trouble));
                answer(reply, Err(error.into()));
            }
        }
        Then::Continue
    })
}

fn of(machine: &dyn Machine, not_ready: Option<String>) -> Made {
    Made { boot_ms: machine.boot_ms(), pid: machine.pid(), not_ready }
}

fn given_up() -> Done {
    Box::new(|drive| {
        let trouble = Trouble::error(VmReason::CreateFailed, "its making was given up");
        drive.enter(Stage::Partial, Some(trouble));
        Then::Continue
    })
}

/// The machine is there: its guest only has to answer.
fn greet(drive: &mut Drive, ready: Duration, mut reply: Reply<Made>) {
    let Some(machine) = drive.machine.clone() else { return };
    drive.programs.spawn(async move {
        tokio::select! {
            biased;
            shown = shown(&*machine, ready, || {}) => {
                answer(reply, shown.map(|not_ready| of(&*machine, not_ready)).map_err(Failure::from));
            }
            () = reply.closed() => {}
        }
    });
}

async fn make(
    hypervisor: &dyn Hypervisor,
    plan: &MachinePlan,
    ready: Duration,
    phases: &Phases,
) -> Result<(Arc<dyn Machine>, Option<String>), DriverError> {
    let machine: Arc<dyn Machine> = hypervisor.create(plan, phases).await?.into();
    // Nobody may be listening any more.
    let _ = phases.send("boot");
    let answered = || {
        if plan.spec.ready.goes_on() {
            let _ = phases.send("ready");
        }
    };
    let not_ready = tokio::select! {
        biased;
        shown = shown(&*machine, ready, answered) => shown?,
        exit = machine.exited() => return Err(died_in_boot(&exit)),
    };
    Ok((machine, not_ready))
}

/// Waits until the guest has shown that it is ready, or why it will not be: all of it within `patience`.
async fn shown(
    machine: &dyn Machine,
    patience: Duration,
    answered: impl FnOnce(),
) -> Result<Option<String>, DriverError> {
    let end = Instant::now() + patience;
    machine.ready(patience).await?;
    answered();
    machine.settled(end.saturating_duration_since(Instant::now())).await
}

/// The same for a machine that was there before: one that will not be ready is an error.
pub(super) async fn answered(machine: &dyn Machine, patience: Duration) -> Result<(), DriverError> {
    match shown(machine, patience, || {}).await? {
        None => Ok(()),
        Some(why) => Err(DriverError { code: Code::GuestNotReady, detail: why, retryable: false }),
    }
}

/// That the process ended while its guest was waited for.
pub(super) fn died_in_boot(exit: &Exit) -> DriverError {
    let detail = format!("the machine's process ended before its guest answered: {exit}");
    DriverError { code: Code::HypervisorFailed, detail, retryable: true }
}
