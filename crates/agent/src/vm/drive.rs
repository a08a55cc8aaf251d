//! The task that drives one machine: it owns the machine's handle, takes requests one after another, and notices when
//! the process ends by itself. Programs run beside each other under it.
//!
//! ```text
//! request ──admit──► taken (its own file: create, exec, power, remove) ──► work, one at a time ──► where it stands now
//! ```
//!
//! The stages and what is taken in each are drawn in [`super::admit`]. Never here: locks across an await, the books,
//! what a request does.

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
    vm::{Observation, VmReason, VmState},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    Glance, Inner,
    admit::{Admission, Ask, Denial, Stage, admit, waits},
    create,
};
use crate::{
    handler::Failure,
    hypervisor::{Exit, Found, Hypervisor, Machine, Power},
};

/// How long one wait for a guest lasts that did not answer in the time it had. The next one follows.
const LATE: Duration = Duration::from_secs(3600);

/// Where the answer to a request goes. Who asked may have gone: then it is closed.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// What is asked of a machine.
pub(super) trait Request: Send {
    /// What it is, for admission.
    fn ask(&self) -> Ask;

    /// The epoch of the placement that it is about.
    fn epoch(&self) -> u32;

    /// Does it, begins it, shares what is so already, or says why not.
    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission);
}

/// A request on its way to the task. Who asks can tell one that nobody has read from one that was taken and dropped.
pub(super) struct Posted {
    request: Box<dyn Request>,
    taken: Arc<AtomicBool>,
}

impl Posted {
    /// With what says whether it was taken.
    pub(super) fn new(request: Box<dyn Request>) -> (Posted, Arc<AtomicBool>) {
        let taken = Arc::new(AtomicBool::new(false));
        (Posted { request, taken: taken.clone() }, taken)
    }

    fn take(self) -> Box<dyn Request> {
        self.taken.store(true, Ordering::Release);
        self.request
    }
}

/// What follows from a piece of work: it is applied to the machine, and answers who asked.
pub(super) type Done = Box<dyn FnOnce(&mut Drive) -> Then + Send>;

/// Whether the task goes on.
#[derive(PartialEq, Eq)]
pub(super) enum Then {
    Continue,
    End,
}

/// Why a machine is not as it should be.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) state: VmState,
    pub(super) reason: Option<VmReason>,
    pub(super) detail: String,
}

impl Trouble {
    /// An error.
    pub(super) fn error(reason: VmReason, detail: impl Into<String>) -> Trouble {
        Trouble { state: VmState::Error, reason: Some(reason), detail: detail.into() }
    }

    /// What it means that a host cannot read or write a machine's disk.
    fn io_error() -> Trouble {
        let detail = "its node could not read or write its disk, so the hypervisor holds it; make room on the node's disk, \
                      or mend it, then resume the VM: nothing is lost";
        Trouble { state: VmState::Paused, reason: Some(VmReason::IoError), detail: detail.to_owned() }
    }

    /// What it means that the process ended; nothing when that was asked for.
    pub(super) fn of(exit: &Exit) -> Option<Trouble> {
        match exit {
            Exit::Requested => None,
            // Seen by the next agent: the host is back.
            Exit::HostGoesDown => Some(Trouble {
                state: VmState::Stopped,
                reason: Some(VmReason::HostWentDown),
                detail: "it was stopped because its host was going down".to_owned(),
            }),
            Exit::GuestShutdown => Some(Trouble {
                state: VmState::Stopped,
                reason: Some(VmReason::GuestShutdown),
                detail: "the guest turned itself off".to_owned(),
            }),
            Exit::Crashed(detail) => Some(Trouble::error(VmReason::Crashed, detail.as_str())),
            Exit::HostWentDown => Some(Trouble::error(VmReason::HostWentDown, "its host was restarted")),
        }
    }
}

/// Where a complete machine stands.
pub(super) enum Standing {
    /// Its process lives; with whether its guest has answered.
    Up(Arc<dyn Machine>, Power, bool),
    /// It has none.
    Down(Option<Trouble>),
}

impl Standing {
    /// As the machine says itself, after something that may have come to nothing. Who cannot be asked goes on as before.
    /// An end that is seen here is noted.
    pub(super) async fn of(
        hypervisor: &dyn Hypervisor,
        id: VmId,
        machine: Arc<dyn Machine>,
        before: Power,
        answered: bool,
    ) -> Standing {
        tokio::select! {
            biased;
            exit = machine.exited() => {
                note_end(hypervisor, id, &exit).await;
                Standing::Down(Trouble::of(&exit))
            }
            power = machine.power() => Standing::Up(machine.clone(), power.unwrap_or(before), answered),
        }
    }

    /// The same after something that may have put another process in the place of this one.
    pub(super) async fn after(
        hypervisor: &dyn Hypervisor,
        id: VmId,
        machine: Arc<dyn Machine>,
        before: Power,
        answered: bool,
    ) -> Standing {
        match Standing::of(hypervisor, id, machine, before, answered).await {
            Standing::Down(trouble) => Standing::found(hypervisor, id, trouble).await,
            up @ Standing::Up(..) => up,
        }
    }

    /// As the host says, of a machine of whose process we know nothing: a start that failed may have left one.
    pub(super) async fn found(hypervisor: &dyn Hypervisor, id: VmId, trouble: Option<Trouble>) -> Standing {
        match hypervisor.attach(id).await {
            Ok(Some(machine)) => Standing::of(hypervisor, id, machine.into(), Power::Running, false).await,
            Ok(None) => Standing::Down(trouble),
            Err(error) => {
                let detail = format!("whether its process lives is not known: {error}; stop it, then start it again");
                Standing::Down(Some(Trouble::error(VmReason::OutcomeUnknown, detail)))
            }
        }
    }
}

/// One machine and what is known of it.
pub(super) struct Drive {
    pub(super) id: VmId,
    pub(super) life: u64,
    pub(super) vms: Arc<Inner>,
    pub(super) epoch: u32,
    pub(super) stage: Stage,
    /// Whether its guest has answered since its process began.
    pub(super) answered: bool,
    pub(super) trouble: Option<Trouble>,
    /// Whether its process runs with something else than its folder says.
    pub(super) behind: bool,
    pub(super) machine: Option<Arc<dyn Machine>>,
    work: Option<BoxFuture<'static, Done>>,
    /// What is asked of it while it is being changed.
    waiting: Vec<Box<dyn Request>>,
    pub(super) removers: Vec<Reply<bool>>,
    pub(super) programs: JoinSet<()>,
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
            answered: false,
            trouble: None,
            behind: false,
            machine: None,
            work: None,
            waiting: Vec::new(),
            removers: Vec::new(),
            programs: JoinSet::new(),
        }
    }

    /// A machine that an earlier agent left.
    pub(super) fn found(vms: Arc<Inner>, found: &Found, live: Option<(Arc<dyn Machine>, Power)>) -> Drive {
        // A task that still has it under way makes it anew; should there be none, this is what it stays.
        let half = |text: &str| Some(Trouble::error(VmReason::CreateFailed, text));
        let lost = || Exit::Crashed("its process was not there when the agent started".to_owned());
        let (stage, trouble) = match (found.complete, &live) {
            (true, Some((_, Power::Running))) => (Stage::Running, None),
            (true, Some((_, Power::Paused))) => (Stage::Paused, None),
            (true, Some((_, Power::IoError))) => (Stage::Paused, Some(Trouble::io_error())),
            (true, None) => (Stage::Ended, Trouble::of(&found.ended.clone().unwrap_or_else(lost))),
            (false, Some(_)) => {
                (Stage::Partial, half("its guest had not answered when the agent before this one ended"))
            }
            (false, None) => (Stage::Partial, half("it was half made when the agent before this one ended")),
        };
        let machine = live.map(|(machine, _)| machine);
        let answered = found.complete && found.answered;
        Drive { epoch: found.epoch, stage, answered, trouble, machine, ..Drive::absent(vms, found.id) }
    }

    pub(super) fn glance(&self) -> Glance {
        Glance { stage: self.stage, alive: self.machine.is_some() }
    }

    pub(super) fn seen(&self) -> Option<Observation> {
        let (state, reason, detail) = match (self.stage, &self.trouble) {
            (Stage::Absent, _) => return None,
            (_, Some(trouble)) => (trouble.state, trouble.reason, Some(trouble.detail.clone())),
            (Stage::Making | Stage::Partial, None) => (VmState::Provisioning, None, None),
            (Stage::Running, None) => (VmState::Running, None, None),
            (Stage::Paused, None) => (VmState::Paused, None, None),
            // The task that changes it says what it becomes.
            (Stage::Changing, None) if self.machine.is_some() => (VmState::Running, None, None),
            (Stage::Ended | Stage::Changing | Stage::Removing, None) => (VmState::Stopped, None, None),
        };
        let (ready, restart_pending) = (self.ready(), self.behind);
        Some(Observation { vm: self.id, epoch: self.epoch, state, ready, reason, detail, restart_pending })
    }

    /// The machine whose process lives, and what its processors do.
    pub(super) fn live(&self) -> Option<(Arc<dyn Machine>, Power)> {
        let held_by_itself = || self.trouble.as_ref().is_some_and(|trouble| trouble.reason == Some(VmReason::IoError));
        let power = match self.stage {
            Stage::Paused if held_by_itself() => Power::IoError,
            Stage::Paused => Power::Paused,
            Stage::Absent
            | Stage::Making
            | Stage::Partial
            | Stage::Running
            | Stage::Ended
            | Stage::Changing
            | Stage::Removing => Power::Running,
        };
        self.machine.clone().map(|machine| (machine, power))
    }

    /// Whether its guest would answer now.
    fn ready(&self) -> bool {
        self.answered && self.stage == Stage::Running
    }

    /// Until the machine is gone or the agent ends.
    pub(super) async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Posted>) {
        loop {
            let live = self.live();
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(posted) => self.take(posted.take()),
                    None => return,
                },
                done = working(&mut self.work) => {
                    self.work = None;
                    if done(&mut self) == Then::End {
                        break;
                    }
                    std::mem::take(&mut self.waiting).into_iter().for_each(|request| self.take(request));
                }
                exit = exited(self.stage, self.machine.as_ref()) => self.ended(exit),
                power = turned(self.stage, live) => self.turned(power),
                () = late(self.stage, self.answered, self.machine.as_ref()) => self.answers(),
                Some(_) = self.programs.join_next() => {}
            }
        }
        for request in std::mem::take(&mut self.waiting) {
            request.take(&mut self, Admission::Refuse(Denial::Absent));
        }
        // What nobody has taken is dropped here, and asked of the next task.
        requests.close();
    }

    fn take(&mut self, request: Box<dyn Request>) {
        if waits(self.stage, request.ask()) {
            return self.waiting.push(request);
        }
        let admission = admit(self.stage, self.epoch, request.ask(), request.epoch());
        request.take(self, admission);
    }

    /// Works on the machine, in place of what was worked on before.
    pub(super) fn work(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        self.work = Some(Box::pin(work));
    }

    /// Changes the whole of a complete machine.
    pub(super) fn change(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        self.enter(Stage::Changing, None);
        self.work(work);
    }

    /// Where a complete machine stands after a piece of work.
    pub(super) fn rest(&mut self, standing: Standing) {
        match standing {
            Standing::Up(machine, power, answered) => {
                // A process that was started anew runs with what the folder says.
                self.behind &= self.machine.as_ref().is_some_and(|before| Arc::ptr_eq(before, &machine));
                (self.machine, self.answered) = (Some(machine), answered);
                let (stage, trouble) = match power {
                    Power::Running => (Stage::Running, None),
                    Power::Paused => (Stage::Paused, None),
                    Power::IoError => (Stage::Paused, Some(Trouble::io_error())),
                };
                self.enter(stage, trouble);
            }
            Standing::Down(trouble) => {
                self.behind = false;
                (self.machine, self.answered) = (None, false);
                self.enter(Stage::Ended, trouble);
            }
        }
    }

    /// The same, with what is known of whether the process runs with something else than its folder says.
    pub(super) fn rest_behind(&mut self, standing: Standing, behind: bool) {
        if let Standing::Up(machine, ..) = &standing {
            (self.machine, self.behind) = (Some(machine.clone()), behind);
        }
        self.rest(standing);
    }

    /// The process ended by itself.
    fn ended(&mut self, exit: Exit) {
        tracing::warn!(vm.id = %self.id, ?exit, "a machine's process has ended");
        self.rest(Standing::Down(Trouble::of(&exit)));
        let (hypervisor, id) = (self.vms.hypervisor.clone(), self.id);
        self.vms.tether.spawn(async move { note_end(&*hypervisor, id, &exit).await });
        self.vms.stirred.notify_one();
    }

    /// Its processors are held, or run again, and nobody asked for it.
    fn turned(&mut self, power: Power) {
        let Some(machine) = self.machine.clone() else { return };
        tracing::warn!(vm.id = %self.id, ?power, "a machine's processors turned by themselves");
        self.rest(Standing::Up(machine, power, self.answered));
        self.vms.stirred.notify_one();
    }

    /// The guest answers at last.
    fn answers(&mut self) {
        self.answered = true;
        self.vms.publish(self);
        self.vms.stirred.notify_one();
    }

    pub(super) fn enter(&mut self, stage: Stage, trouble: Option<Trouble>) {
        (self.stage, self.trouble) = (stage, trouble);
        self.vms.publish(self);
    }
}

/// The end of a piece of work on a complete machine.
pub(super) fn done<T: Send + 'static>(standing: Standing, reply: Reply<T>, outcome: Result<T, Failure>) -> Done {
    Box::new(move |drive| {
        drive.rest(standing);
        answer(reply, outcome);
        Then::Continue
    })
}

pub(super) fn answer<T>(reply: Reply<T>, answer: Result<T, Failure>) {
    // Who asked may have gone.
    drop(reply.send(answer));
}

/// Remembers how a process ended. Should that fail, an agent started anew takes it for a crash.
pub(super) async fn note_end(hypervisor: &dyn Hypervisor, id: VmId, exit: &Exit) {
    if let Err(error) = hypervisor.note_end(id, exit).await {
        tracing::warn!(vm.id = %id, %error, "how a machine ended cannot be remembered");
    }
}

async fn working(work: &mut Option<BoxFuture<'static, Done>>) -> Done {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

async fn exited(stage: Stage, machine: Option<&Arc<dyn Machine>>) -> Exit {
    match (stage, machine) {
        (Stage::Running | Stage::Paused, Some(machine)) => machine.exited().await,
        _ => pending().await,
    }
}

async fn turned(stage: Stage, live: Option<(Arc<dyn Machine>, Power)>) -> Power {
    match (stage, live) {
        (Stage::Running | Stage::Paused, Some((machine, power))) => machine.turned(power).await,
        _ => pending().await,
    }
}

/// Waits for a guest that has not answered yet.
async fn late(stage: Stage, answered: bool, machine: Option<&Arc<dyn Machine>>) {
    if let (Stage::Running, false, Some(machine)) = (stage, answered, machine)
        && create::answered(&**machine, LATE).await.is_ok()
    {
        return;
    }
    pending().await
}
