//! The machines of this node: one driving task for each ([`drive`]), found by id, and what is seen of them.
//!
//! A machine's requests go to the task that drives it, one channel each, so that no two tasks ever act on the same
//! machine at once. Never here: what a request means for the books; files and processes, which are the driver's.

pub mod admit;
mod create;
mod drive;
pub mod edit;
mod exec;
mod host;
mod power;
mod remove;
mod snapshot;
mod verb;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hostler_model::{
    VmId, error::Code, forward::PortForward, internal::Inventory, unassigned::Stranger, vm::Observation,
};
use tokio::sync::{Notify, mpsc, oneshot};

use self::{
    admit::{Denial, Stage},
    drive::{Drive, Posted, Reply, Request},
    snapshot::Takings,
};
pub use self::{
    create::Made,
    power::{Rebooted, Started},
};
use crate::{
    handler::Failure,
    hypervisor::{DriverError, Finds, Found, Hypervisor, Machine, MachinePlan, Power},
    tether::Tether,
};

/// How long after machines could not be looked at it is tried again: whatever kept us from it (open files, memory, a
/// disk) may be over then.
const ATTACH_AGAIN: Duration = Duration::from_secs(5);

/// Of how many machines that the server does not know more is told: a heartbeat stays small.
const STRANGERS: usize = 64;

/// What is known of a machine at a glance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glance {
    /// Where it stands.
    pub stage: Stage,
    /// Whether its process lives.
    pub alive: bool,
}

/// Every machine of the node. Clones share them.
#[derive(Clone)]
pub struct Vms(Arc<Inner>);

struct Inner {
    hypervisor: Arc<dyn Hypervisor>,
    tether: Tether,
    machines: Mutex<BTreeMap<VmId, Entry>>,
    /// Told when a machine changed by itself.
    stirred: Notify,
    /// Whether all machines of this host are known: false while some could not be looked at.
    full: AtomicBool,
    /// Every machine that was driven before all were known: what was found of it earlier is no news any more.
    driven: Mutex<BTreeSet<VmId>>,
    lives: AtomicU64,
    /// Snapshots whose taking is yet to begin.
    takings: Takings,
}

struct Entry {
    /// Which driving task: a later one of the same machine is another.
    life: u64,
    requests: mpsc::UnboundedSender<Posted>,
    glance: Glance,
    seen: Option<Observation>,
}

impl Vms {
    /// None yet.
    pub fn new(hypervisor: Arc<dyn Hypervisor>, tether: Tether) -> Vms {
        Vms(Arc::new(Inner {
            hypervisor,
            tether,
            machines: Mutex::default(),
            stirred: Notify::new(),
            full: AtomicBool::new(false),
            driven: Mutex::default(),
            lives: AtomicU64::new(0),
            takings: Takings::default(),
        }))
    }

    /// Takes hold of every machine that is on this host. One that cannot be looked at is neither here nor gone: it is
    /// left out of the inventory, which is not full as long as that lasts, so that nothing is taken for absent; and it
    /// is tried again in the background.
    pub async fn attach(&self) {
        if self.attach_all().await {
            return;
        }
        let vms = self.clone();
        self.0.tether.spawn(async move {
            loop {
                tokio::time::sleep(ATTACH_AGAIN).await;
                if vms.attach_all().await {
                    break;
                }
            }
            vms.0.stirred.notify_one();
        });
    }

    /// Whether all that is here is known now.
    async fn attach_all(&self) -> bool {
        let Finds { found, unread } = match self.0.hypervisor.find().await {
            Ok(finds) => finds,
            Err(error) => {
                tracing::error!(%error, "the machines on this host cannot be listed; the inventory is not full");
                return false;
            }
        };
        let mut full = unread.iter().all(|id| self.0.is_driven(*id));
        for found in found {
            full &= self.attach_one(&found).await;
        }
        self.0.full.store(full, Ordering::Release);
        full
    }

    async fn attach_one(&self, found: &Found) -> bool {
        if self.0.is_driven(found.id) {
            return true;
        }
        let live = match self.live(found).await {
            Ok(live) => live,
            Err(error) => {
                tracing::error!(vm.id = %found.id, %error, "a machine cannot be attached to; whether it runs is not known");
                return false;
            }
        };
        let behind = live.is_some() && self.0.hypervisor.behind(found.id).await.unwrap_or(false);
        let mut machines = self.0.lock();
        // Somebody asked for it meanwhile, and it may be gone by now.
        if !self.0.is_driven(found.id) {
            tracing::info!(vm.id = %found.id, alive = live.is_some(), complete = found.complete, "found a machine");
            let mut drive = Drive::found(self.0.clone(), found, live);
            drive.behind = behind;
            self.drive(&mut machines, found.id, drive);
        }
        true
    }

    /// A machine whose process lives, and what its processors do.
    async fn live(&self, found: &Found) -> Result<Option<(Arc<dyn Machine>, Power)>, DriverError> {
        let Some(machine) = self.0.hypervisor.attach(found.id).await? else { return Ok(None) };
        let power = machine.power().await.unwrap_or_else(|error| {
            tracing::warn!(vm.id = %found.id, %error, "whether a machine is paused cannot be asked; it is taken to run");
            Power::Running
        });
        Ok(Some((machine.into(), power)))
    }

    /// The port forwards of a machine that was made by this plan, with the ports that were chosen.
    pub async fn forwards(&self, plan: &MachinePlan) -> Result<Vec<PortForward>, Failure> {
        if plan.spec.port_forwards.is_empty() {
            return Ok(Vec::new());
        }
        let made = self.0.hypervisor.plan(plan.id).await?;
        Ok(made.map(|made| made.spec.port_forwards).unwrap_or_default())
    }

    /// Looks at this host once more; the machines that nobody had known of.
    pub async fn look_again(&self) -> Vec<VmId> {
        let before: BTreeSet<VmId> = {
            let machines = self.0.lock();
            let known: BTreeSet<VmId> = machines.keys().copied().collect();
            // From here on every machine that is asked for is noted, as at the start: what is found of it is no news.
            self.0.driven.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&known);
            self.0.full.store(false, Ordering::Release);
            known
        };
        self.attach().await;
        self.0.lock().keys().copied().filter(|id| !before.contains(id)).collect()
    }

    /// Refuses where there is nothing of a machine: a driving task is started only for one that is to be.
    fn is_here(&self, vm: VmId) -> Result<(), Failure> {
        self.glance(vm).map(drop).ok_or_else(|| Denial::Absent.into())
    }

    /// Where a machine stands; `None` when there is nothing of it.
    pub fn glance(&self, vm: VmId) -> Option<Glance> {
        self.0.lock().get(&vm).map(|entry| entry.glance).filter(|glance| glance.stage != Stage::Absent)
    }

    /// Everything that is here, with more about these of them.
    pub async fn inventory(&self, strangers: &[VmId]) -> Inventory {
        let snapshots = self.snapshots().await;
        let full = self.0.full.load(Ordering::Acquire) && snapshots.is_some();
        let vms = self.0.lock().values().filter_map(|entry| entry.seen.clone()).collect();
        let strangers = self.strangers(strangers).await;
        Inventory { full, vms, snapshots: snapshots.unwrap_or_default(), strangers }
    }

    /// What the folders of these machines say of them; of one that cannot be read, nothing.
    async fn strangers(&self, ids: &[VmId]) -> Vec<Stranger> {
        let mut strangers = Vec::new();
        for id in ids.iter().take(STRANGERS) {
            match self.0.hypervisor.plan(*id).await {
                Ok(plan) => strangers.extend(plan.map(|plan| Stranger { vm: *id, name: plan.name, spec: plan.spec })),
                Err(error) => {
                    tracing::warn!(vm.id = %id, %error, "a machine that the server does not know cannot be read")
                }
            }
        }
        strangers
    }

    /// Waits until a machine has changed by itself.
    pub async fn stirred(&self) {
        self.0.stirred.notified().await;
    }

    /// Sends a request to the machine's driving task, which is started where there is none. A task that ended before
    /// it took the request has dropped it: another is asked. One that took it and gave no answer may have acted, and
    /// the request fails with the code `lost`.
    async fn ask<T, R: Request + 'static>(
        &self,
        vm: VmId,
        lost: Code,
        request: impl Fn(Reply<T>) -> R,
    ) -> Result<T, Failure> {
        loop {
            let (reply, answer) = oneshot::channel();
            let (posted, taken) = Posted::new(Box::new(request(reply)));
            // A closed channel drops the request, and with it the reply.
            drop(self.requests(vm).send(posted));
            if let Ok(answer) = answer.await {
                return answer;
            }
            // With the agent gone, every task is; nobody is left to ask.
            self.0.tether.unless_cut().await;
            if taken.load(Ordering::Acquire) {
                return Err(dropped(vm, lost));
            }
        }
    }

    fn requests(&self, vm: VmId) -> mpsc::UnboundedSender<Posted> {
        let mut machines = self.0.lock();
        if let Some(entry) = machines.get(&vm)
            && !entry.requests.is_closed()
        {
            return entry.requests.clone();
        }
        self.drive(&mut machines, vm, Drive::absent(self.0.clone(), vm))
    }

    fn drive(&self, machines: &mut BTreeMap<VmId, Entry>, vm: VmId, mut drive: Drive) -> mpsc::UnboundedSender<Posted> {
        let (requests, queue) = mpsc::unbounded_channel();
        let life = self.0.lives.fetch_add(1, Ordering::Relaxed);
        drive.life = life;
        let entry = Entry { life, requests: requests.clone(), glance: drive.glance(), seen: drive.seen() };
        machines.insert(vm, entry);
        self.0.note_driven(vm);
        self.0.tether.spawn(drive.run(queue));
        requests
    }
}

/// A removal, or a fault of ours, made an end of what was under way.
fn dropped(vm: VmId, code: Code) -> Failure {
    let detail = format!(
        "what was under way in machine {vm} was broken off, and what it did is not known; look at the machine, then ask again"
    );
    Failure { code, detail, retryable: code != Code::OutcomeUnknown }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, Entry>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_driven(&self, vm: VmId) -> bool {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner).contains(&vm)
    }

    fn note_driven(&self, vm: VmId) {
        // Once all are known, nobody asks.
        if !self.full.load(Ordering::Acquire) {
            self.driven.lock().unwrap_or_else(PoisonError::into_inner).insert(vm);
        }
    }

    /// Notes what a driving task sees.
    fn publish(&self, drive: &Drive) {
        if let Some(entry) = self.lock().get_mut(&drive.id)
            && entry.life == drive.life
        {
            (entry.glance, entry.seen) = (drive.glance(), drive.seen());
        }
    }

    /// A driving task ends: there is nothing left of its machine.
    fn forget(&self, drive: &Drive) {
        let mut machines = self.lock();
        if machines.get(&drive.id).is_some_and(|entry| entry.life == drive.life) {
            machines.remove(&drive.id);
        }
    }
}
