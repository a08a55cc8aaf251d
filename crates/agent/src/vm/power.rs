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
    admit::Ask,
    create::{answered, died_in_boot},
    drive::{Done, Drive, Reply, Standing, Trouble, answer, done, note_end},
    verb::{Before, Verb},
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
        self.change(vm, epoch, Start { ready, phases: phases.clone() }).await
    }

    /// Stops a machine: its guest has `patience` to turn itself off, then its process is ended. Dropping the future
    /// gives it up where it is. `why` is remembered of one that has a process.
    pub async fn stop(&self, vm: VmId, epoch: u32, patience: Duration, why: Exit) -> Result<StopHow, Failure> {
        self.change(vm, epoch, Stop { patience, why }).await
    }

    /// Restarts a machine: its guest has `patience` to do so, then the reset button is pressed; without any, at once.
    pub async fn reboot(
        &self,
        vm: VmId,
        epoch: u32,
        patience: Option<Duration>,
        phases: &Phases,
    ) -> Result<Rebooted, Failure> {
        self.change(vm, epoch, Reboot { patience, phases: phases.clone() }).await
    }

    /// Holds a machine's processors; says whether they were held before.
    pub async fn pause(&self, vm: VmId, epoch: u32) -> Result<bool, Failure> {
        self.change(vm, epoch, Pause).await
    }

    /// Lets a machine's processors run; says whether they ran before, and whether its guest had answered.
    pub async fn resume(&self, vm: VmId, epoch: u32) -> Result<(bool, bool), Failure> {
        self.change(vm, epoch, Resume).await
    }
}

#[derive(Clone)]
struct Start {
    ready: Option<Duration>,
    phases: Phases,
}

impl Verb for Start {
    type Answer = Started;
    const ASK: Ask = Ask::Start;

    fn begin(self, drive: &mut Drive, mut reply: Reply<Started>) {
        let Start { ready, phases } = self;
        let Before { hypervisor, id, trouble, .. } = Before::of(drive);
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
    fn already(self, drive: &mut Drive, mut reply: Reply<Started>) {
        let (hypervisor, id) = (drive.vms.hypervisor.clone(), drive.id);
        let Some(machine) = drive.machine.clone() else { return };
        drive.programs.spawn(async move {
            let greeted = async {
                let plan = hypervisor.plan(id).await?.ok_or_else(|| no_plan(id))?;
                answered(&*machine, self.ready.unwrap_or_else(|| plan.ready_timeout())).await?;
                Ok(Started { anew: false, boot_ms: machine.boot_ms() })
            };
            tokio::select! {
                biased;
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

pub(super) fn no_plan(id: VmId) -> DriverError {
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

#[derive(Clone)]
struct Stop {
    patience: Duration,
    why: Exit,
}

impl Verb for Stop {
    type Answer = StopHow;
    const ASK: Ask = Ask::Stop;

    fn begin(self, drive: &mut Drive, reply: Reply<StopHow>) {
        let before = Before::of(drive);
        drive.change(self.carry_out(before, reply));
    }

    /// It has stopped by itself: from now on it is stopped because somebody wants it to be. A process that lives all the
    /// same is ended.
    fn already(self, drive: &mut Drive, reply: Reply<StopHow>) {
        let before = Before::of(drive);
        drive.change(async move {
            let Before { hypervisor, id, .. } = &before;
            match hypervisor.attach(*id).await {
                Ok(Some(machine)) => {
                    let machine: Arc<dyn Machine> = machine.into();
                    let power = machine.power().await.unwrap_or(Power::Running);
                    self.carry_out(Before { live: Some((machine, power)), answered: false, ..before }, reply).await
                }
                // That its host goes down is no reason for one that stood still before.
                Ok(None) if self.why == Exit::HostGoesDown => done(before.now().await, reply, Ok(StopHow::Already)),
                Ok(None) => {
                    note_end(&**hypervisor, *id, &self.why).await;
                    done(Standing::Down(None), reply, Ok(StopHow::Already))
                }
                Err(error) => done(before.now().await, reply, Err(error.into())),
            }
        });
    }
}

impl Stop {
    async fn carry_out(self, before: Before, mut reply: Reply<StopHow>) -> Done {
        let Stop { patience, why } = self;
        let Some((machine, power)) = before.live.clone() else {
            return done(before.now().await, reply, Ok(StopHow::Already));
        };
        let stopped = tokio::select! {
            biased;
            stopped = halt(&*machine, power, patience) => stopped.map_err(Failure::from),
            () = reply.closed() => Err(given_up()),
        };
        if stopped.is_err() {
            return done(before.now().await, reply, stopped);
        }
        note_end(&*before.hypervisor, before.id, &why).await;
        done(Standing::Down(None), reply, stopped)
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

#[derive(Clone)]
struct Reboot {
    patience: Option<Duration>,
    phases: Phases,
}

impl Verb for Reboot {
    type Answer = Rebooted;
    const ASK: Ask = Ask::Reboot;
    const LOST: Code = Code::OutcomeUnknown;

    fn begin(self, drive: &mut Drive, mut reply: Reply<Rebooted>) {
        let Reboot { patience, phases } = self;
        let before = Before::of(drive);
        let Some((machine, _)) = before.live.clone() else { return };
        drive.change(async move {
            let (hypervisor, id) = (before.hypervisor.clone(), before.id);
            let restarted = restart(&*hypervisor, id, machine, patience, &phases, &mut reply).await;
            let (machine, how, ready) = match restarted {
                Ok(restarted) => restarted,
                Err(failure) => return done(before.found().await, reply, Err(failure)),
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
            biased;
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

#[derive(Clone)]
struct Pause;

impl Verb for Pause {
    type Answer = bool;
    const ASK: Ask = Ask::Pause;

    fn begin(self, drive: &mut Drive, reply: Reply<bool>) {
        let before = Before::of(drive);
        let Some((machine, _)) = before.live.clone() else { return };
        drive.change(async move {
            let paused = machine.pause().await.map(|()| false).map_err(Failure::from);
            done(before.now().await, reply, paused)
        });
    }

    fn already(self, _: &mut Drive, reply: Reply<bool>) {
        answer(reply, Ok(true));
    }
}

#[derive(Clone)]
struct Resume;

impl Verb for Resume {
    type Answer = (bool, bool);
    const ASK: Ask = Ask::Resume;

    fn begin(self, drive: &mut Drive, reply: Reply<(bool, bool)>) {
        let before = Before::of(drive);
        let Some((machine, _)) = before.live.clone() else { return };
        drive.change(async move {
            let resumed = machine.resume().await.map(|()| (false, before.answered)).map_err(Failure::from);
            done(before.now().await, reply, resumed)
        });
    }

    fn already(self, drive: &mut Drive, reply: Reply<(bool, bool)>) {
        answer(reply, Ok((true, drive.answered)));
    }
}
