//! The power of a machine: started from what its folder says, stopped, restarted, paused, resumed.
//!
//! ```text
//! ended ──start: process, then the guest's answer──► running ──stop: the guest is asked, then the plug is pulled──► ended
//! ```
//!
//! A start, a stop or a reboot is given up when nobody waits for it any more: where the machine stands then is asked of
//! the machine. Pausing and resuming take a moment and are never broken off.

use std::{future::pending, sync::Arc, time::Duration};

use hostler_model::{
    VmId,
    error::Code,
    kind::{RebootHow, StopHow},
};
use tokio::time::{Instant, sleep};

use super::{
    Vms,
    admit::{Admission, Ask},
    create::{answered, died_in_boot},
    drive::{Done, Drive, Reply, Request, Standing, Trouble, answer, done, note_end},
};
use crate::{
    handler::Failure,
    hypervisor::{DriverError, Exit, Hypervisor, Machine, MachinePlan, Phases, Power, Restart},
};

/// A machine that was restarted, and whose guest has answered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rebooted {
    /// Who did it.
    pub how: RebootHow,
    /// From the restart to the guest's first answer, in milliseconds.
    pub boot_ms: f64,
}

/// A machine that runs, and whose guest has answered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Started {
    /// Whether its process was started for it.
    pub anew: bool,
    /// From its process's start to the guest's first answer, in milliseconds.
    pub boot_ms: f64,
}

impl Vms {
    /// Starts a machine from what its folder says, and waits until its guest answers: for `ready`, or for as long as its
    /// spec says. One that runs only has to answer. A guest that does not leaves the machine running.
    ///
    /// Dropping the future gives the wait up.
    pub async fn start(
        &self,
        vm: VmId,
        epoch: u32,
        ready: Option<Duration>,
        phases: &Phases,
    ) -> Result<Started, Failure> {
        self.is_here(vm)?;
        let request = |reply| Start { epoch, ready, phases: phases.clone(), reply };
        self.ask(vm, Code::HypervisorFailed, request).await
    }

    /// Stops a machine: its guest has `patience` to turn itself off, then its process is ended. Dropping the future
    /// gives it up where it is.
    pub async fn stop(&self, vm: VmId, epoch: u32, patience: Duration) -> Result<StopHow, Failure> {
        self.is_here(vm)?;
        self.ask(vm, Code::HypervisorFailed, |reply| Stop { epoch, patience, reply }).await
    }

    /// Restarts a machine: its guest has `patience` to do so, then the reset button is pressed; without any, at once.
    pub async fn reboot(
        &self,
        vm: VmId,
        epoch: u32,
        patience: Option<Duration>,
        phases: &Phases,
    ) -> Result<Rebooted, Failure> {
        self.is_here(vm)?;
        let request = |reply| Reboot { epoch, patience, phases: phases.clone(), reply };
        self.ask(vm, Code::OutcomeUnknown, request).await
    }

    /// Holds a machine's processors; says whether they were held before.
    pub async fn pause(&self, vm: VmId, epoch: u32) -> Result<bool, Failure> {
        self.is_here(vm)?;
        self.ask(vm, Code::HypervisorFailed, |reply| Pause { epoch, reply }).await
    }

    /// Lets a machine's processors run; says whether they ran before, and whether its guest had answered.
    pub async fn resume(&self, vm: VmId, epoch: u32) -> Result<(bool, bool), Failure> {
        self.is_here(vm)?;
        self.ask(vm, Code::HypervisorFailed, |reply| Resume { epoch, reply }).await
    }
}

struct Start {
    epoch: u32,
    ready: Option<Duration>,
    phases: Phases,
    reply: Reply<Started>,
}

impl Request for Start {
    fn ask(&self) -> Ask {
        Ask::Start
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        match admission {
            Admission::Accept => self.begin(drive),
            Admission::Ignore => self.share(drive),
            Admission::Refuse(denial) => answer(self.reply, Err(denial.into())),
        }
    }
}

impl Start {
    fn begin(self, drive: &mut Drive) {
        let Start { ready, phases, mut reply, .. } = self;
        let (hypervisor, id, trouble) = (drive.vms.hypervisor.clone(), drive.id, drive.trouble.clone());
        drive.change(async move {
            let (plan, machine) = match bring_up(&*hypervisor, id, &phases).await {
                Ok(up) => up,
                Err(error) => {
                    return done(Standing::found(&*hypervisor, id, trouble).await, reply, Err(error.into()));
                }
            };
            let ready = ready.unwrap_or_else(|| plan.ready_timeout());
            let (standing, answered) = booted(&*hypervisor, id, machine, ready, &phases, &mut reply).await;
            let started = answered.map(|boot_ms| Started { anew: true, boot_ms });
            done(standing, reply, started)
        });
    }

    /// It runs: its guest only has to answer, in a time that its folder says.
    fn share(self, drive: &mut Drive) {
        let Start { ready, mut reply, .. } = self;
        let (hypervisor, id) = (drive.vms.hypervisor.clone(), drive.id);
        let Some(machine) = drive.machine.clone() else { return };
        drive.programs.spawn(async move {
            let greeted = async {
                let plan = hypervisor.plan(id).await?.ok_or_else(|| no_plan(id))?;
                answered(&*machine, ready.unwrap_or_else(|| plan.ready_timeout())).await?;
                Ok(Started { anew: false, boot_ms: machine.boot_ms() })
            };
            tokio::select! {
                greeted = greeted => answer(reply, greeted.map_err(|error: DriverError| error.into())),
                () = reply.closed() => {}
            }
        });
    }
}

/// The machine's process, from what its folder says.
async fn bring_up(
    hypervisor: &dyn Hypervisor,
    id: VmId,
    phases: &Phases,
) -> Result<(MachinePlan, Arc<dyn Machine>), DriverError> {
    let plan = hypervisor.plan(id).await?.ok_or_else(|| no_plan(id))?;
    let machine = hypervisor.start(&plan, phases).await?.into();
    Ok((plan, machine))
}

fn no_plan(id: VmId) -> DriverError {
    let detail = format!("what machine {id} is made of is not written in its folder; delete it and create another");
    DriverError { code: Code::HypervisorFailed, detail, retryable: false }
}

/// Waits for the guest's first answer, for as long as somebody wants to know: how long it took since the process began.
pub(super) async fn booted<T>(
    hypervisor: &dyn Hypervisor,
    id: VmId,
    machine: Arc<dyn Machine>,
    ready: Duration,
    phases: &Phases,
    reply: &mut Reply<T>,
) -> (Standing, Result<f64, Failure>) {
    // Nobody may be listening any more.
    let _ = phases.send("boot");
    tokio::select! {
        biased;
        exit = machine.exited() => {
            note_end(hypervisor, id, &exit).await;
            (Standing::Down(Trouble::of(&exit)), Err(died_in_boot(&exit).into()))
        }
        shown = answered(&*machine, ready) => {
            let boot_ms = shown.map(|()| machine.boot_ms()).map_err(Failure::from);
            (Standing::of(hypervisor, id, machine, Power::Running, boot_ms.is_ok()).await, boot_ms)
        }
        () = reply.closed() => {
            (Standing::of(hypervisor, id, machine, Power::Running, false).await, Err(given_up()))
        }
    }
}

/// What nobody hears: who asked is gone.
fn given_up() -> Failure {
    Failure { code: Code::Cancelled, detail: "it was given up".to_owned(), retryable: false }
}

struct Stop {
    epoch: u32,
    patience: Duration,
    reply: Reply<StopHow>,
}

impl Request for Stop {
    fn ask(&self) -> Ask {
        Ask::Stop
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        match admission {
            Admission::Accept => self.begin(drive),
            Admission::Ignore => self.settle(drive),
            Admission::Refuse(denial) => answer(self.reply, Err(denial.into())),
        }
    }
}

impl Stop {
    fn begin(self, drive: &mut Drive) {
        let Some((machine, power)) = drive.live() else { return };
        let (hypervisor, id, answered) = (drive.vms.hypervisor.clone(), drive.id, drive.answered);
        drive.change(async move { self.carry_out(&*hypervisor, id, machine, power, answered).await });
    }

    /// It has stopped by itself: from now on it is stopped because somebody wants it to be. A process that lives all the
    /// same is ended.
    fn settle(self, drive: &mut Drive) {
        let (hypervisor, id, trouble) = (drive.vms.hypervisor.clone(), drive.id, drive.trouble.clone());
        drive.change(async move {
            match hypervisor.attach(id).await {
                Ok(Some(machine)) => {
                    let machine: Arc<dyn Machine> = machine.into();
                    let power = machine.power().await.unwrap_or(Power::Running);
                    self.carry_out(&*hypervisor, id, machine, power, false).await
                }
                Ok(None) => {
                    note_end(&*hypervisor, id, &Exit::Requested).await;
                    done(Standing::Down(None), self.reply, Ok(StopHow::Already))
                }
                Err(error) => done(Standing::Down(trouble), self.reply, Err(error.into())),
            }
        });
    }

    async fn carry_out(
        self,
        hypervisor: &dyn Hypervisor,
        id: VmId,
        machine: Arc<dyn Machine>,
        power: Power,
        answered: bool,
    ) -> Done {
        let Stop { patience, mut reply, .. } = self;
        let stopped = tokio::select! {
            stopped = halt(&*machine, power, patience) => stopped.map_err(Failure::from),
            () = reply.closed() => Err(given_up()),
        };
        let standing = match stopped {
            Ok(_) => {
                note_end(hypervisor, id, &Exit::Requested).await;
                Standing::Down(None)
            }
            Err(_) => Standing::of(hypervisor, id, machine, power, answered).await,
        };
        done(standing, reply, stopped)
    }
}

/// Ends a machine's process: by its guest, if that obeys in the time it has, and otherwise by force.
async fn halt(machine: &dyn Machine, power: Power, patience: Duration) -> Result<StopHow, DriverError> {
    if !patience.is_zero() && obeyed(machine, power, patience).await {
        return Ok(StopHow::Graceful);
    }
    machine.end().await?;
    Ok(StopHow::Hard)
}

async fn obeyed(machine: &dyn Machine, power: Power, patience: Duration) -> bool {
    let asked = async {
        // A guest that is held hears nothing.
        let woken = match power {
            Power::Paused | Power::IoError => machine.resume().await,
            Power::Running => Ok(()),
        };
        match woken {
            Ok(()) => machine.shutdown().await,
            Err(error) => Err(error),
        }
    };
    let refused = async {
        match asked.await {
            Ok(()) => pending().await,
            Err(error) => tracing::warn!(%error, "a guest cannot be asked to turn itself off; its process is ended"),
        }
    };
    tokio::select! {
        biased;
        _ = machine.exited() => true,
        () = refused => false,
        () = sleep(patience) => false,
    }
}

struct Reboot {
    epoch: u32,
    patience: Option<Duration>,
    phases: Phases,
    reply: Reply<Rebooted>,
}

impl Request for Reboot {
    fn ask(&self) -> Ask {
        Ask::Reboot
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        match admission {
            Admission::Accept | Admission::Ignore => self.begin(drive),
            Admission::Refuse(denial) => answer(self.reply, Err(denial.into())),
        }
    }
}

impl Reboot {
    fn begin(self, drive: &mut Drive) {
        let Reboot { patience, phases, mut reply, .. } = self;
        let Some((machine, power)) = drive.live() else { return };
        let (hypervisor, id, answered) = (drive.vms.hypervisor.clone(), drive.id, drive.answered);
        drive.change(async move {
            let restarted = restart(&*hypervisor, id, machine.clone(), patience, &phases, &mut reply).await;
            let (machine, how, ready) = match restarted {
                Ok(restarted) => restarted,
                Err(failure) => {
                    let standing = Standing::after(&*hypervisor, id, machine, power, answered).await;
                    return done(standing, reply, Err(failure));
                }
            };
            let begun = Instant::now();
            let (standing, answered) = booted(&*hypervisor, id, machine, ready, &phases, &mut reply).await;
            let boot_ms = begun.elapsed().as_secs_f64() * 1e3;
            done(standing, reply, answered.map(|_| Rebooted { how, boot_ms }))
        });
    }
}

/// Makes the guest begin anew: how that was done, and how long it may take to answer. A guest that turns itself off
/// where it should have restarted is started again. Only the wait for the guest is given up when nobody wants to know.
async fn restart(
    hypervisor: &dyn Hypervisor,
    id: VmId,
    machine: Arc<dyn Machine>,
    patience: Option<Duration>,
    phases: &Phases,
    reply: &mut Reply<Rebooted>,
) -> Result<(Arc<dyn Machine>, RebootHow, Duration), Failure> {
    let plan = hypervisor.plan(id).await?.ok_or_else(|| no_plan(id))?;
    let _ = phases.send("restart");
    let asked = match patience {
        Some(patience) => tokio::select! {
            asked = machine.reboot(patience) => asked?,
            () = reply.closed() => return Err(given_up()),
        },
        None => Restart::Ignored,
    };
    let (machine, how) = match asked {
        Restart::Begun => (machine, RebootHow::Graceful),
        Restart::Off => (hypervisor.start(&plan, phases).await?.into(), RebootHow::Graceful),
        Restart::Ignored => {
            machine.reset().await?;
            (machine, RebootHow::Hard)
        }
    };
    Ok((machine, how, plan.ready_timeout()))
}

struct Pause {
    epoch: u32,
    reply: Reply<bool>,
}

impl Request for Pause {
    fn ask(&self) -> Ask {
        Ask::Pause
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        let (hypervisor, id, answered) = (drive.vms.hypervisor.clone(), drive.id, drive.answered);
        match (admission, drive.live()) {
            (Admission::Accept, Some((machine, power))) => drive.change(async move {
                let paused = machine.pause().await.map(|()| false).map_err(Failure::from);
                done(Standing::of(&*hypervisor, id, machine, power, answered).await, self.reply, paused)
            }),
            (admission, _) => answer(self.reply, admitted(admission, true)),
        }
    }
}

struct Resume {
    epoch: u32,
    reply: Reply<(bool, bool)>,
}

impl Request for Resume {
    fn ask(&self) -> Ask {
        Ask::Resume
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        let (hypervisor, id, answered) = (drive.vms.hypervisor.clone(), drive.id, drive.answered);
        match (admission, drive.live()) {
            (Admission::Accept, Some((machine, power))) => drive.change(async move {
                let resumed = machine.resume().await.map(|()| (false, answered)).map_err(Failure::from);
                done(Standing::of(&*hypervisor, id, machine, power, answered).await, self.reply, resumed)
            }),
            (admission, _) => answer(self.reply, admitted(admission, (true, answered))),
        }
    }
}

/// What is so already, or why not.
fn admitted<T>(admission: Admission, already: T) -> Result<T, Failure> {
    match admission {
        Admission::Accept | Admission::Ignore => Ok(already),
        Admission::Refuse(denial) => Err(denial.into()),
    }
}
