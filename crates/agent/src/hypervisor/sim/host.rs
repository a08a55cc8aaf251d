//! The simulated host: what is on its disk, which processes live, and the counts that tests ask for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use hostler_model::{SnapshotId, VmId};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    SimConfig,
    dice::{Dice, Throw},
    edit::runs,
};
use crate::hypervisor::{DriverError, Exit, Found, MachinePlan, Power, Runs, SnapshotMade};

/// A process's number; none is ever given twice.
pub(super) type Number = u64;

/// When a process began, and how long its guest takes to answer; `None`: it never does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot {
    pub(super) began: Instant,
    pub(super) takes: Option<Duration>,
}

impl Boot {
    /// As the dice have it, from now on.
    pub(super) fn of(config: &SimConfig, dice: &mut Dice) -> Boot {
        let (fails, takes) = (dice.happens(config.boot_failures), dice.within(&config.boot));
        Boot { began: Instant::now(), takes: (!fails).then_some(takes) }
    }

    /// When the guest answers.
    pub(super) fn done(&self) -> Option<Instant> {
        Some(self.began + self.takes?)
    }
}

/// A simulated host. It outlives the drivers over it; cloning shares it.
#[derive(Clone, Default)]
pub struct SimHost(Arc<Mutex<World>>);

#[derive(Default)]
pub(super) struct World {
    pub(super) folders: BTreeMap<VmId, Folder>,
    pub(super) processes: BTreeMap<Number, Process>,
    counts: BTreeMap<(VmId, Throw), u64>,
    most: BTreeMap<VmId, usize>,
    programs: BTreeMap<(VmId, Vec<String>), usize>,
    last: Number,
}

pub(super) struct Folder {
    pub(super) plan: MachinePlan,
    boot_ms: Option<f64>,
    /// Whose guest it was that answered the last time.
    answered: Option<Number>,
    ended: Option<Exit>,
    snapshots: BTreeMap<SnapshotId, SnapshotMade>,
}

pub(super) struct Process {
    pub(super) vm: VmId,
    boot: Boot,
    /// What it was started with.
    pub(super) runs: Runs,
    power: watch::Sender<Power>,
    exit: End,
}

impl Process {
    pub(super) fn alive(&self) -> bool {
        !self.exit.is_known()
    }
}

/// How a process ended, once it has. Who waits is told in the order of their coming; a watch channel tells in any.
#[derive(Clone, Default)]
pub(super) struct End(Arc<(OnceLock<Exit>, CancellationToken)>);

impl End {
    /// The first end of a process is its only one; whether this was it.
    fn set(&self, exit: &Exit) -> bool {
        let first = self.0.0.set(exit.clone()).is_ok();
        self.0.1.cancel();
        first
    }

    fn is_known(&self) -> bool {
        self.0.0.get().is_some()
    }

    fn is_waited_for(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Waits for it.
    pub(super) async fn wait(&self) -> Option<Exit> {
        self.0.1.cancelled().await;
        self.0.0.get().cloned()
    }
}

impl std::fmt::Debug for SimHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimHost").field("alive", &self.alive_in_all()).finish()
    }
}

/// What tests ask and do.
impl SimHost {
    /// A host with nothing on it.
    pub fn new() -> SimHost {
        SimHost::default()
    }

    /// How many processes of this machine live now.
    pub fn alive(&self, id: VmId) -> usize {
        self.world().alive(id)
    }

    /// How many processes of this machine ever lived at the same time: more than one is a mistake.
    pub fn most_alive(&self, id: VmId) -> usize {
        self.world().most.get(&id).copied().unwrap_or_default()
    }

    /// The machines of which more than one process ever lived at the same time: each is a mistake.
    pub fn crowded(&self) -> Vec<VmId> {
        self.world().most.iter().filter(|(_, most)| **most > 1).map(|(id, _)| *id).collect()
    }

    /// How many processes live now.
    pub fn alive_in_all(&self) -> usize {
        self.world().processes.values().filter(|process| process.alive()).count()
    }

    /// How many processes there ever were.
    pub fn started_in_all(&self) -> u64 {
        self.world().last
    }

    /// The machines whose process lives but of which nothing else is left: each is a mistake.
    pub fn orphans(&self) -> Vec<VmId> {
        let world = self.world();
        let mut vms: Vec<VmId> =
            world.processes.values().filter(|process| process.alive()).map(|process| process.vm).collect();
        vms.retain(|vm| !world.folders.contains_key(vm));
        vms
    }

    /// How often each program was begun, by its machine and its arguments.
    pub fn programs(&self) -> BTreeMap<(VmId, Vec<String>), usize> {
        self.world().programs.clone()
    }

    /// The machines of which there is something on the disk, as their folders have them.
    pub fn plans(&self) -> Vec<MachinePlan> {
        self.world().folders.values().map(|folder| folder.plan.clone()).collect()
    }

    /// The snapshots that are on the disk, each with its machine.
    pub fn kept_snapshots(&self) -> Vec<(VmId, SnapshotId)> {
        let world = self.world();
        let of = |(vm, folder): (&VmId, &Folder)| folder.snapshots.keys().map(|id| (*vm, *id)).collect::<Vec<_>>();
        world.folders.iter().flat_map(of).collect()
    }

    /// Ends this machine's processes as a crash would; says whether one lived.
    pub fn crash(&self, id: VmId, reason: &str) -> bool {
        self.world().end(id, &Exit::Crashed(reason.to_owned()))
    }

    /// Turns a machine off as its own guest may do at any time; says whether it lived.
    pub fn turn_off(&self, id: VmId) -> bool {
        self.world().end(id, &Exit::GuestShutdown)
    }

    /// Holds a machine as a hypervisor does that cannot write its disk; says whether it lived.
    pub fn fail_io(&self, id: VmId) -> bool {
        self.living(id).is_some_and(|number| self.set_power(number, Power::IoError))
    }

    /// Turns the host off and on: every process is gone, what is on disk stays.
    pub fn reboot(&self) {
        let mut world = self.world();
        let world = &mut *world;
        for process in world.processes.values().filter(|process| process.alive()) {
            if let Some(folder) = world.folders.get_mut(&process.vm) {
                folder.ended = Some(Exit::HostWentDown);
            }
            process.exit.set(&Exit::HostWentDown);
        }
    }
}

/// What the driver does.
impl SimHost {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often this was asked before.
    pub(super) fn count(&self, id: VmId, throw: Throw) -> u64 {
        let mut world = self.world();
        let count = world.counts.entry((id, throw)).or_default();
        *count += 1;
        *count - 1
    }

    pub(super) fn epoch(&self, id: VmId) -> Option<u32> {
        self.world().folders.get(&id).map(|folder| folder.plan.epoch)
    }

    pub(super) fn has(&self, id: VmId) -> bool {
        let world = self.world();
        world.folders.contains_key(&id) || world.alive(id) > 0
    }

    /// The plan as the folder has it then, its ports chosen.
    pub(super) fn make_folder(&self, plan: &MachinePlan) -> Result<MachinePlan, DriverError> {
        let mut world = self.world();
        if let Some(folder) = world.folders.get(&plan.id) {
            return Ok(folder.plan.clone());
        }
        let plan = world.with_ports(plan)?;
        let folder =
            Folder { plan: plan.clone(), boot_ms: None, answered: None, ended: None, snapshots: BTreeMap::new() };
        world.folders.insert(plan.id, folder);
        Ok(plan)
    }

    pub(super) fn plan(&self, id: VmId) -> Option<MachinePlan> {
        self.world().folders.get(&id).map(|folder| folder.plan.clone())
    }

    /// Remembers that the machine's guest runs and will not be ready.
    pub(super) fn note_not_ready(&self, id: VmId) {
        if let Some(folder) = self.world().folders.get_mut(&id) {
            folder.answered = None;
        }
    }

    /// Writes down how the machine's process ended, unless one lives.
    pub(super) fn note_end(&self, id: VmId, exit: &Exit) {
        let mut world = self.world();
        if world.alive(id) == 0
            && let Some(folder) = world.folders.get_mut(&id)
        {
            folder.ended = Some(exit.clone());
        }
    }

    pub(super) fn start(&self, id: VmId, boot: Boot) -> Number {
        let mut world = self.world();
        world.last += 1;
        let number = world.last;
        if let Some(folder) = world.folders.get_mut(&id) {
            folder.ended = None;
        }
        // Those that ended are kept while somebody waits for them.
        world.processes.retain(|_, process| process.alive() || process.exit.is_waited_for());
        let runs = world.folders.get(&id).map(|folder| runs(&folder.plan)).unwrap_or_default();
        let process = Process { vm: id, boot, runs, power: watch::channel(Power::Running).0, exit: End::default() };
        world.processes.insert(number, process);
        let alive = world.alive(id);
        let most = world.most.entry(id).or_default();
        *most = (*most).max(alive);
        number
    }

    /// Lets the dice decide whether and when this process crashes.
    pub(super) fn fate(&self, number: Number, config: &SimConfig, dice: &mut Dice) {
        let (crashes, after) = (dice.happens(config.crashes), dice.within(&config.crash_after));
        if !crashes {
            return;
        }
        let host = self.clone();
        tokio::spawn(async move {
            sleep(after).await;
            let reason = format!(
                "the process crashed {} ms after its start, as the simulation's seed has it",
                after.as_millis()
            );
            if let Some(process) = host.world().processes.get(&number) {
                process.exit.set(&Exit::Crashed(reason));
            }
        });
    }

    pub(super) fn living(&self, id: VmId) -> Option<Number> {
        let world = self.world();
        world.processes.iter().find(|(_, process)| process.vm == id && process.alive()).map(|(number, _)| *number)
    }

    pub(super) fn boot(&self, number: Number) -> Option<Boot> {
        self.world().processes.get(&number).map(|process| process.boot)
    }

    /// The guest begins anew.
    pub(super) fn restart(&self, number: Number, boot: Boot) {
        if let Some(process) = self.world().processes.get_mut(&number) {
            process.boot = boot;
            process.power.send_replace(Power::Running);
        }
    }

    /// What the processors of a living process do.
    pub(super) fn power(&self, number: Number) -> Option<Power> {
        self.world().processes.get(&number).filter(|process| process.alive()).map(|process| *process.power.borrow())
    }

    /// What tells of its turns.
    pub(super) fn turns(&self, number: Number) -> Option<watch::Receiver<Power>> {
        self.world().processes.get(&number).map(|process| process.power.subscribe())
    }

    /// Holds the processors or lets them run; says whether the process lives.
    pub(super) fn set_power(&self, number: Number, power: Power) -> bool {
        let mut world = self.world();
        let Some(process) = world.processes.get_mut(&number).filter(|process| process.alive()) else { return false };
        process.power.send_replace(power);
        true
    }

    /// Ends one process.
    pub(super) fn end(&self, number: Number, exit: &Exit) {
        if let Some(process) = self.world().processes.get(&number) {
            process.exit.set(exit);
        }
    }

    /// What tells of the process's end; `None` when that is long past.
    pub(super) fn exit(&self, number: Number) -> Option<End> {
        self.world().processes.get(&number).map(|process| process.exit.clone())
    }

    /// A program begins.
    pub(super) fn begin_program(&self, id: VmId, argv: &[String]) {
        *self.world().programs.entry((id, argv.to_vec())).or_default() += 1;
    }

    pub(super) fn complete(&self, id: VmId, number: Number, boot_ms: f64) {
        if let Some(folder) = self.world().folders.get_mut(&id)
            && folder.answered.replace(number) != Some(number)
        {
            folder.boot_ms = Some(boot_ms);
        }
    }

    pub(super) fn boot_ms(&self, id: VmId) -> Option<f64> {
        self.world().folders.get(&id)?.boot_ms
    }

    pub(super) fn name(&self, id: VmId) -> String {
        self.world().folders.get(&id).map(|folder| folder.plan.name.clone()).unwrap_or_default()
    }

    /// Ends the machine's process, as was asked for.
    pub(super) fn end_all(&self, id: VmId) {
        self.world().end(id, &Exit::Requested);
    }

    pub(super) fn snapshot(&self, vm: VmId, id: SnapshotId) -> Option<SnapshotMade> {
        self.world().folders.get(&vm)?.snapshots.get(&id).cloned()
    }

    pub(super) fn keep_snapshot(&self, vm: VmId, id: SnapshotId, made: SnapshotMade) {
        if let Some(folder) = self.world().folders.get_mut(&vm) {
            folder.snapshots.insert(id, made);
        }
    }

    pub(super) fn remove_snapshot(&self, vm: VmId, id: SnapshotId) -> bool {
        self.world().folders.get_mut(&vm).is_some_and(|folder| folder.snapshots.remove(&id).is_some())
    }

    pub(super) fn snapshots(&self) -> Vec<SnapshotId> {
        self.world().folders.values().flat_map(|folder| folder.snapshots.keys().copied()).collect()
    }

    /// Ends the machine's process and removes its folder.
    pub(super) fn clear(&self, id: VmId) {
        let mut world = self.world();
        world.end(id, &Exit::Requested);
        world.folders.remove(&id);
    }

    pub(super) fn found(&self) -> Vec<Found> {
        let world = self.world();
        let found = |(id, folder): (&VmId, &Folder)| Found {
            id: *id,
            epoch: folder.plan.epoch,
            image: Some(folder.plan.spec.image_digest.clone()),
            alive: world.alive(*id) > 0,
            complete: folder.boot_ms.is_some(),
            answered: folder.answered.is_some_and(|number| world.lives(number)),
            ended: folder.ended.clone(),
        };
        world.folders.iter().map(found).collect()
    }
}

impl World {
    fn alive(&self, id: VmId) -> usize {
        self.processes.values().filter(|process| process.vm == id && process.alive()).count()
    }

    fn lives(&self, number: Number) -> bool {
        self.processes.get(&number).is_some_and(Process::alive)
    }

    fn end(&self, id: VmId, exit: &Exit) -> bool {
        let processes = self.processes.values().filter(|process| process.vm == id);
        // Each is told, whether or not one before it was alive.
        processes.fold(false, |ended, process| process.exit.set(exit) | ended)
    }
}
