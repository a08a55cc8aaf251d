//! The task that drives one machine: it owns the machine's handle, takes requests one after another, and notices when
//! the process ends by itself. Programs run beside each other under it.
//!
//! The stages and what is taken in each are drawn in [`super::admit`]. Never here: locks across an await, the books.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use hostler_model::{
    VmId,
    error::Code,
    kind::{VmExecOutput, VmExecParams},
    vm::{Observation, VmReason, VmState},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    Glance, Inner, Made,
    admit::{Admission, Ask, Stage, admit},
};
use crate::{
    handler::Failure,
    hypervisor::{DriverError, Exit, Found, Hypervisor, Machine, MachinePlan, Phases},
};

type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// What is asked of a machine. Dropping the receiver gives a create or an exec up; a removal goes on.
pub(super) enum Request {
    Create { plan: Box<MachinePlan>, ready: Duration, phases: Phases, reply: Reply<Made> },
    Exec { epoch: u32, params: VmExecParams, reply: Reply<VmExecOutput> },
    Remove { epoch: u32, reply: Reply<bool> },
}

/// A request on its way to the task. Who asks can tell one that nobody has read from one that was taken and dropped.
pub(super) struct Posted {
    request: Request,
    taken: Arc<AtomicBool>,
}

impl Posted {
    /// With what says whether it was taken.
    pub(super) fn new(request: Request) -> (Posted, Arc<AtomicBool>) {
        let taken = Arc::new(AtomicBool::new(false));
        (Posted { request, taken: taken.clone() }, taken)
    }

    fn take(self) -> Request {
        self.taken.store(true, Ordering::Release);
        self.request
    }
}

/// What the task works on, besides programs.
enum Done {
    Made(Result<Arc<dyn Machine>, DriverError>, Reply<Made>),
    GivenUp,
    Removed(Result<bool, DriverError>),
}

/// Whether the task goes on.
#[derive(PartialEq, Eq)]
enum Then {
    Continue,
    End,
}

/// One machine and what is known of it.
pub(super) struct Drive {
    pub(super) id: VmId,
    pub(super) life: u64,
    vms: Arc<Inner>,
    epoch: u32,
    stage: Stage,
    ready: bool,
    /// Why it is not as it should be.
    trouble: Option<(VmState, Option<VmReason>, String)>,
    machine: Option<Arc<dyn Machine>>,
    work: Option<BoxFuture<'static, Done>>,
    removers: Vec<Reply<bool>>,
    programs: JoinSet<()>,
}

impl Drive {
    /// A machine of which there is nothing yet.
    pub(super) fn absent(vms: Arc<Inner>, id: VmId) -> Drive {
        Drive {
            id,
            life: 0,
            vms,
            epoch: 0,
            stage: Stage::Absent,
            ready: false,
            trouble: None,
            machine: None,
            work: None,
            removers: Vec::new(),
            programs: JoinSet::new(),
        }
    }

    /// A machine that an earlier agent left.
    pub(super) fn found(vms: Arc<Inner>, found: &Found, machine: Option<Arc<dyn Machine>>) -> Drive {
        let gone = |text: &str| Some((VmState::Error, Some(VmReason::Crashed), text.to_owned()));
        // A task that still has it under way makes it anew; should there be none, this is what it stays.
        let half = |text: &str| Some((VmState::Error, Some(VmReason::CreateFailed), text.to_owned()));
        let (stage, trouble) = match (found.complete, machine.is_some()) {
            (true, true) => (Stage::Running, None),
            (true, false) => (Stage::Ended, gone("its process was not there when the agent started")),
            (false, true) => (Stage::Partial, half("its guest had not answered when the agent before this one ended")),
            (false, false) => (Stage::Partial, half("it was half made when the agent before this one ended")),
        };
        let ready = stage == Stage::Running;
        Drive { epoch: found.epoch, stage, ready, trouble, machine, ..Drive::absent(vms, found.id) }
    }

    pub(super) fn glance(&self) -> Glance {
        Glance { stage: self.stage, alive: self.machine.is_some() }
    }

    pub(super) fn seen(&self) -> Option<Observation> {
        let (state, reason, detail) = match (self.stage, &self.trouble) {
            (Stage::Absent, _) => return None,
            (_, Some((state, reason, detail))) => (*state, *reason, Some(detail.clone())),
            (Stage::Making | Stage::Partial, None) => (VmState::Provisioning, None, None),
            (Stage::Running, None) => (VmState::Running, None, None),
            (Stage::Ended, None) => (VmState::Stopped, None, None),
            (Stage::Removing, None) => (VmState::Stopped, None, None),
        };
        Some(Observation { vm: self.id, epoch: self.epoch, state, ready: self.ready, reason, detail })
    }

    /// Until the machine is gone or the agent ends.
    pub(super) async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Posted>) {
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(posted) => self.take(posted.take()),
                    None => return,
                },
                done = working(&mut self.work) => {
                    self.work = None;
                    if self.done(done) == Then::End {
                        break;
                    }
                }
                exit = exited(self.stage, self.machine.as_ref()) => self.ended(exit),
                Some(_) = self.programs.join_next() => {}
            }
        }
        // What nobody has taken is dropped here, and asked of the next task.
        requests.close();
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Create { plan, ready, phases, reply } => {
                match admit(self.stage, self.epoch, Ask::Create, plan.epoch) {
                    Admission::Accept => self.make(plan, ready, phases, reply),
                    Admission::Ignore => self.greet(ready, reply),
                    Admission::Refuse(denial) => answer(reply, Err(denial.into())),
                }
            }
            Request::Exec { epoch, params, reply } => match admit(self.stage, self.epoch, Ask::Exec, epoch) {
                Admission::Accept | Admission::Ignore => self.exec(params, reply),
                Admission::Refuse(denial) => answer(reply, Err(denial.into())),
            },
            Request::Remove { epoch, reply } => match admit(self.stage, self.epoch, Ask::Remove, epoch) {
                Admission::Accept => self.remove(reply),
                Admission::Ignore => self.removers.push(reply),
                Admission::Refuse(denial) => answer(reply, Err(denial.into())),
            },
        }
    }

    fn make(&mut self, plan: Box<MachinePlan>, ready: Duration, phases: Phases, mut reply: Reply<Made>) {
        self.epoch = plan.epoch;
        self.machine = None;
        self.enter(Stage::Making, None);
        let hypervisor = self.vms.hypervisor.clone();
        self.work = Some(Box::pin(async move {
            let made = tokio::select! {
                made = make(&*hypervisor, &plan, ready, &phases) => Some(made),
                () = reply.closed() => None,
            };
            made.map_or(Done::GivenUp, |made| Done::Made(made, reply))
        }));
    }

    /// The machine is there: its guest only has to answer.
    fn greet(&mut self, ready: Duration, mut reply: Reply<Made>) {
        let Some(machine) = self.machine.clone() else { return };
        self.programs.spawn(async move {
            tokio::select! {
                answered = machine.ready(ready) => {
                    answer(reply, answered.map(|()| made(&*machine)).map_err(Failure::from));
                }
                () = reply.closed() => {}
            }
        });
    }

    fn exec(&mut self, params: VmExecParams, mut reply: Reply<VmExecOutput>) {
        let Some(machine) = self.machine.clone() else { return };
        self.programs.spawn(async move {
            tokio::select! {
                output = machine.exec(&params) => answer(reply, output.map_err(Failure::from)),
                exit = machine.exited() => answer(reply, Err(broken_off(&exit))),
                () = reply.closed() => {}
            }
        });
    }

    fn remove(&mut self, reply: Reply<bool>) {
        self.removers.push(reply);
        self.machine = None;
        self.ready = false;
        // Their callers hear that what became of them is not known.
        self.programs.abort_all();
        self.stage = Stage::Removing;
        self.vms.publish(self);
        let (hypervisor, id) = (self.vms.hypervisor.clone(), self.id);
        self.work = Some(Box::pin(async move { Done::Removed(hypervisor.remove(id).await) }));
    }

    fn done(&mut self, done: Done) -> Then {
        match done {
            Done::Made(Ok(machine), reply) => {
                let made = made(&*machine);
                self.machine = Some(machine);
                self.enter(Stage::Running, None);
                answer(reply, Ok(made));
            }
            Done::Made(Err(error), reply) => {
                self.enter(Stage::Partial, Some((VmState::Error, Some(VmReason::CreateFailed), error.detail.clone())));
                answer(reply, Err(error.into()));
            }
            Done::GivenUp => {
                let detail = "its making was given up".to_owned();
                self.enter(Stage::Partial, Some((VmState::Error, Some(VmReason::CreateFailed), detail)));
            }
            Done::Removed(Ok(existed)) => {
                self.stage = Stage::Absent;
                self.vms.forget(self);
                self.removers.drain(..).for_each(|reply| answer(reply, Ok(existed)));
                return Then::End;
            }
            Done::Removed(Err(error)) => {
                let trouble = (VmState::Error, Some(VmReason::DeleteFailed), error.detail.clone());
                self.enter(Stage::Partial, Some(trouble));
                let failure = Failure::from(error);
                self.removers.drain(..).for_each(|reply| answer(reply, Err(failure.clone())));
            }
        }
        Then::Continue
    }

    /// The process ended by itself.
    fn ended(&mut self, exit: Exit) {
        let trouble = match exit {
            Exit::GuestShutdown => {
                (VmState::Stopped, Some(VmReason::GuestShutdown), "the guest turned itself off".to_owned())
            }
            Exit::Requested => (VmState::Stopped, None, "its process was told to end".to_owned()),
            Exit::Crashed(detail) => (VmState::Error, Some(VmReason::Crashed), detail),
        };
        tracing::warn!(vm.id = %self.id, state = %trouble.0, detail = trouble.2, "a machine's process has ended");
        self.machine = None;
        self.enter(Stage::Ended, Some(trouble));
        self.vms.stirred.notify_one();
    }

    fn enter(&mut self, stage: Stage, trouble: Option<(VmState, Option<VmReason>, String)>) {
        (self.stage, self.trouble) = (stage, trouble);
        self.ready = stage == Stage::Running;
        self.vms.publish(self);
    }
}

fn made(machine: &dyn Machine) -> Made {
    Made { boot_ms: machine.boot_ms(), pid: machine.pid() }
}

fn answer<T>(reply: Reply<T>, answer: Result<T, Failure>) {
    // Who asked may have gone.
    drop(reply.send(answer));
}

async fn working(work: &mut Option<BoxFuture<'static, Done>>) -> Done {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

async fn exited(stage: Stage, machine: Option<&Arc<dyn Machine>>) -> Exit {
    match (stage, machine) {
        (Stage::Running, Some(machine)) => machine.exited().await,
        _ => pending().await,
    }
}

async fn make(
    hypervisor: &dyn Hypervisor,
    plan: &MachinePlan,
    ready: Duration,
    phases: &Phases,
) -> Result<Arc<dyn Machine>, DriverError> {
    let machine: Arc<dyn Machine> = hypervisor.create(plan, phases).await?.into();
    // Nobody may be listening any more.
    let _ = phases.send("boot");
    tokio::select! {
        biased;
        answered = machine.ready(ready) => answered?,
        exit = machine.exited() => return Err(died_in_boot(&exit)),
    }
    Ok(machine)
}

fn died_in_boot(exit: &Exit) -> DriverError {
    let detail = format!("the machine's process ended before its guest answered: {}", describe(exit));
    DriverError { code: Code::HypervisorFailed, detail, retryable: true }
}

fn broken_off(exit: &Exit) -> Failure {
    let detail = format!("the machine's process ended while the program ran: {}", describe(exit));
    Failure { code: Code::GuestFailed, detail, retryable: false }
}

fn describe(exit: &Exit) -> &str {
    match exit {
        Exit::GuestShutdown => "the guest turned itself off",
        Exit::Requested => "it was told to end",
        Exit::Crashed(detail) => detail,
    }
}
