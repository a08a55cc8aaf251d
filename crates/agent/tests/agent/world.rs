//! A hypervisor that does as it is told, on a host that outlives every agent: each step can be held at a gate.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use hostler_agent::hypervisor::{
    Applied, DriverError, Exit, Finds, Flat, Found, Hypervisor, Machine, MachinePlan, NotApplied, Percents, Phases,
    Power, Restart, Restored, SnapshotMade, SnapshotRemoved,
};
use hostler_model::{
    SnapshotId, VmId,
    error::Code,
    kind::{VmExecOutput, VmExecParams},
    snapshot::Written,
};
use tokio::{sync::watch, time::Instant};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Gate {
    Create,
    Ready,
    Exec,
    Remove,
    Start,
    Shutdown,
    Snapshot,
    Flatten,
}

#[derive(Clone, Default, Debug)]
pub struct State {
    pub machines: BTreeMap<VmId, Box_>,
    pub snapshots: BTreeMap<SnapshotId, VmId>,
    pub held: Vec<Gate>,
    /// How often each step was begun.
    pub begun: BTreeMap<Gate, usize>,
    pub remove_fails: bool,
    /// How many of the next flattenings fail.
    pub flatten_fails: usize,
    /// Whether guests turn themselves off where they should begin anew.
    pub reboots_off: bool,
    /// Whether a process runs with something else than its folder says, and whether one that is restored does.
    pub behind: bool,
    pub restored_behind: bool,
    /// How many of the next attachments fail.
    pub attach_fails: usize,
    /// How snapshots leave their machines.
    pub snapshot_warning: Option<String>,
    /// Machines that cannot be looked at.
    pub unread: Vec<VmId>,
}

/// What is on the host of one machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Box_ {
    pub epoch: u32,
    pub complete: bool,
    pub exit: Option<Exit>,
    pub process: u64,
    pub plan: Option<MachinePlan>,
    pub paused: bool,
    /// What was noted of its end.
    pub ended: Option<Exit>,
}

impl Box_ {
    pub fn new(epoch: u32, process: u64, exit: Option<Exit>) -> Box_ {
        Box_ { epoch, complete: false, exit, process, plan: None, paused: false, ended: None }
    }
}

#[derive(Clone)]
pub struct World(watch::Sender<State>);

impl World {
    pub fn new() -> World {
        World(watch::Sender::new(State::default()))
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        self.0.send_modify(change);
    }

    pub fn see(&self) -> State {
        self.0.borrow().clone()
    }

    pub fn has(&self, vm: VmId) -> bool {
        self.see().machines.contains_key(&vm)
    }

    pub fn begun(&self, gate: Gate) -> usize {
        self.see().begun.get(&gate).copied().unwrap_or(0)
    }

    pub fn hold(&self, gate: Gate) {
        self.change(|state| state.held.push(gate));
    }

    pub fn release(&self, gate: Gate) {
        self.change(|state| state.held.retain(|held| *held != gate));
    }

    pub fn running(&self, vm: VmId) {
        let machine = Box_ { complete: true, ..Box_::new(1, 1, None) };
        self.change(|state| drop(state.machines.insert(vm, machine)));
    }

    pub async fn until(&self, mut so: impl FnMut(&State) -> bool) {
        self.0.subscribe().wait_for(|state| so(state)).await.unwrap();
    }

    pub async fn until_begun(&self, gate: Gate, times: usize) {
        self.until(|state| state.begun.get(&gate).copied().unwrap_or(0) >= times).await;
    }

    pub fn exit(&self, vm: VmId, exit: Exit) {
        self.change(|state| state.machines.get_mut(&vm).unwrap().exit = Some(exit));
    }

    /// The machine's process: the one that lives, or another.
    fn process(&self, id: VmId) -> Handle {
        let mut process = 0;
        self.change(|state| {
            let machine = state.machines.get_mut(&id).unwrap();
            if machine.exit.take().is_some() {
                machine.process += 1;
            }
            (machine.paused, machine.ended) = (false, None);
            process = machine.process;
        });
        Handle { world: self.clone(), id, process }
    }

    async fn pass(&self, gate: Gate) {
        self.change(|state| *state.begun.entry(gate).or_default() += 1);
        self.until(|state| !state.held.contains(&gate)).await;
    }
}

#[async_trait]
impl Hypervisor for World {
    fn version(&self) -> String {
        "scripted 1".to_owned()
    }

    fn acceleration(&self) -> &str {
        "simulated"
    }

    fn acceleration_reason(&self) -> &str {
        "a test"
    }

    async fn create(&self, plan: &MachinePlan, phases: &Phases) -> Result<Box<dyn Machine>, DriverError> {
        let _ = phases.send("disk");
        let fresh = Box_ { plan: Some(plan.clone()), ..Box_::new(plan.epoch, 0, Some(Exit::Requested)) };
        self.change(|state| {
            state.machines.entry(plan.id).or_insert(fresh);
        });
        let _ = phases.send("start");
        self.pass(Gate::Create).await;
        Ok(Box::new(self.process(plan.id)))
    }

    async fn plan(&self, id: VmId) -> Result<Option<MachinePlan>, DriverError> {
        Ok(self.see().machines.get(&id).and_then(|machine| machine.plan.clone()))
    }

    async fn start(&self, plan: &MachinePlan, phases: &Phases) -> Result<Box<dyn Machine>, DriverError> {
        let _ = phases.send("start");
        let (world, id) = (self.clone(), plan.id);
        // What a driver has begun it finishes, whoever waits for it.
        let started = tokio::spawn(async move {
            world.pass(Gate::Start).await;
            world.change(|state| state.behind = false);
            world.process(id)
        });
        Ok(Box::new(started.await.unwrap()))
    }

    async fn edit(&self, plan: &MachinePlan) -> Result<Applied, NotApplied> {
        self.change(|state| {
            if let Some(machine) = state.machines.get_mut(&plan.id) {
                machine.plan = Some(plan.clone());
            }
        });
        Ok(Applied { plan: plan.clone(), runs: None })
    }

    async fn behind(&self, _: VmId) -> Result<bool, DriverError> {
        Ok(self.see().behind)
    }

    async fn note_end(&self, id: VmId, exit: &Exit) -> Result<(), DriverError> {
        self.change(|state| {
            if let Some(machine) = state.machines.get_mut(&id).filter(|machine| machine.exit.is_some()) {
                machine.ended = Some(exit.clone());
            }
        });
        Ok(())
    }

    async fn attach(&self, id: VmId) -> Result<Option<Box<dyn Machine>>, DriverError> {
        let mut fails = false;
        self.change(|state| {
            fails = state.attach_fails > 0;
            state.attach_fails = state.attach_fails.saturating_sub(1);
        });
        if fails {
            let detail = "too many open files".to_owned();
            return Err(DriverError { code: Code::HypervisorFailed, detail, retryable: true });
        }
        let machine = self.see().machines.get(&id).cloned().filter(|machine| machine.exit.is_none());
        Ok(machine
            .map(|machine| Box::new(Handle { world: self.clone(), id, process: machine.process }) as Box<dyn Machine>))
    }

    async fn remove(&self, id: VmId) -> Result<bool, DriverError> {
        self.pass(Gate::Remove).await;
        if self.see().remove_fails {
            let detail = "the disk does not let go".to_owned();
            return Err(DriverError { code: Code::HypervisorFailed, detail, retryable: false });
        }
        let mut existed = false;
        self.change(|state| {
            existed = state.machines.remove(&id).is_some();
            state.snapshots.retain(|_, vm| *vm != id);
        });
        Ok(existed)
    }

    async fn take_snapshot(
        &self,
        vm: VmId,
        id: SnapshotId,
        memory: bool,
        phases: &Phases,
    ) -> Result<SnapshotMade, DriverError> {
        let _ = phases.send("disk");
        self.pass(Gate::Snapshot).await;
        self.change(|state| {
            state.snapshots.insert(id, vm);
        });
        let written = Written { disk_bytes: 5, memory_bytes: if memory { 7 } else { 0 } };
        Ok(SnapshotMade { written, quiesced: None, paused_ms: 1.0, warning: self.see().snapshot_warning })
    }

    async fn restore(&self, vm: VmId, id: SnapshotId, _: &Phases) -> Result<Restored, DriverError> {
        if !self.see().snapshots.contains_key(&id) {
            let detail = "the snapshot is not on this node".to_owned();
            return Err(DriverError { code: Code::SnapshotUnusable, detail, retryable: false });
        }
        self.exit(vm, Exit::Requested);
        let since = Instant::now();
        self.pass(Gate::Snapshot).await;
        self.change(|state| state.behind = state.restored_behind);
        Ok(Restored { machine: Box::new(self.process(vm)), memory: true, since })
    }

    async fn remove_snapshot(&self, _: VmId, id: SnapshotId) -> Result<SnapshotRemoved, DriverError> {
        let mut existed = false;
        self.change(|state| existed = state.snapshots.remove(&id).is_some());
        Ok(SnapshotRemoved { existed, layer_left: existed })
    }

    async fn flatten(&self, vm: VmId, _: SnapshotId, percents: &Percents) -> Result<Flat, DriverError> {
        let _ = percents.send(50);
        self.pass(Gate::Flatten).await;
        let mut fails = false;
        self.change(|state| {
            fails = state.flatten_fails > 0;
            state.flatten_fails = state.flatten_fails.saturating_sub(1);
        });
        if fails {
            let detail = "QEMU is gone".to_owned();
            return Err(DriverError { code: Code::HypervisorFailed, detail, retryable: true });
        }
        let mut shares: Vec<_> = self.see().snapshots.into_iter().filter(|(_, of)| *of == vm).collect();
        shares.sort_unstable();
        Ok(Flat { layer_kept: false, shares: shares.into_iter().map(|(id, _)| (id, 9)).collect() })
    }

    async fn snapshots(&self) -> Result<Vec<SnapshotId>, DriverError> {
        Ok(self.see().snapshots.into_keys().collect())
    }

    async fn find(&self) -> Result<Finds, DriverError> {
        let found = |(id, machine): (&VmId, &Box_)| Found {
            id: *id,
            epoch: machine.epoch,
            image: machine.plan.as_ref().map(|plan| plan.spec.image_digest.clone()),
            alive: machine.exit.is_none(),
            complete: machine.complete,
            answered: machine.complete && machine.exit.is_none(),
            ended: machine.ended.clone(),
        };
        let State { machines, unread, .. } = self.see();
        let found = machines.iter().filter(|(id, _)| !unread.contains(id)).map(found).collect();
        Ok(Finds { found, unread })
    }
}

struct Handle {
    world: World,
    id: VmId,
    process: u64,
}

#[async_trait]
impl Machine for Handle {
    async fn ready(&self, timeout: Duration) -> Result<(), DriverError> {
        if tokio::time::timeout(timeout, self.world.pass(Gate::Ready)).await.is_err() {
            let detail = "the guest did not answer".to_owned();
            return Err(DriverError { code: Code::GuestNotReady, detail, retryable: false });
        }
        self.world.change(|state| {
            if let Some(machine) = state.machines.get_mut(&self.id) {
                machine.complete = true;
            }
        });
        Ok(())
    }

    async fn settled(&self, _: Duration) -> Result<Option<String>, DriverError> {
        Ok(None)
    }

    async fn answers(&self) -> bool {
        true
    }

    async fn exec(&self, params: &VmExecParams) -> Result<VmExecOutput, DriverError> {
        self.world.pass(Gate::Exec).await;
        Ok(VmExecOutput {
            exit_code: Some(0),
            signal: None,
            stdout: params.argv.join(" "),
            stderr: String::new(),
            stdout_truncated: false,
            stderr_truncated: false,
        })
    }

    async fn exited(&self) -> Exit {
        let (id, process) = (self.id, self.process);
        let mut exit = Exit::Requested;
        let gone = |state: &State| match state.machines.get(&id) {
            Some(machine) if machine.process == process => machine.exit.is_some(),
            Some(_) | None => true,
        };
        self.world.until(gone).await;
        if let Some(machine) = self.world.see().machines.get(&id)
            && let Some(why) = &machine.exit
        {
            exit = why.clone();
        }
        exit
    }

    async fn power(&self) -> Result<Power, DriverError> {
        let paused = self.world.see().machines.get(&self.id).is_some_and(|machine| machine.paused);
        Ok(if paused { Power::Paused } else { Power::Running })
    }

    async fn turned(&self, _: Power) -> Power {
        std::future::pending().await
    }

    async fn pause(&self) -> Result<(), DriverError> {
        self.world.change(|state| state.machines.get_mut(&self.id).unwrap().paused = true);
        Ok(())
    }

    async fn resume(&self) -> Result<(), DriverError> {
        self.world.change(|state| state.machines.get_mut(&self.id).unwrap().paused = false);
        Ok(())
    }

    async fn shutdown(&self) -> Result<(), DriverError> {
        self.world.pass(Gate::Shutdown).await;
        self.world.exit(self.id, Exit::GuestShutdown);
        Ok(())
    }

    async fn end(&self) -> Result<(), DriverError> {
        self.world.exit(self.id, Exit::Requested);
        Ok(())
    }

    async fn reboot(&self, patience: Duration) -> Result<Restart, DriverError> {
        let shut = tokio::time::timeout(patience, self.world.pass(Gate::Shutdown)).await;
        if shut.is_ok() && self.world.see().reboots_off {
            self.world.exit(self.id, Exit::GuestShutdown);
            return Ok(Restart::Off);
        }
        Ok(if shut.is_ok() { Restart::Begun } else { Restart::Ignored })
    }

    async fn reset(&self) -> Result<(), DriverError> {
        Ok(())
    }

    async fn set_clock(&self, _: i64) -> bool {
        true
    }

    fn boot_ms(&self) -> f64 {
        12.5
    }
}
