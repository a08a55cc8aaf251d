//! The machines of this node: one driving task for each ([`drive`]), found by id, and what is seen of them.
//!
//! A machine's requests go to the task that drives it, one channel each, so that no two tasks ever act on the same
//! machine at once. Never here: what a request means for the books; files and processes, which are the driver's.

pub mod admit;
mod drive;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hostler_model::{
    VmId,
    internal::Inventory,
    kind::{VmExecOutput, VmExecParams},
    vm::Observation,
};
use tokio::sync::{Notify, mpsc, oneshot};

use self::{
    admit::{Denial, Stage},
    drive::{Drive, Request},
};
use crate::{
    handler::Failure,
    hypervisor::{Found, Hypervisor, MachinePlan, Phases},
    tether::Tether,
};

/// A machine that was made, and whose guest has answered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Made {
    /// From its process's start to the guest's first answer, in milliseconds.
    pub boot_ms: f64,
}

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
    /// Whether all machines of this host are known: false when they could not be listed at the start.
    full: AtomicBool,
    lives: AtomicU64,
}

struct Entry {
    /// Which driving task: a later one of the same machine is another.
    life: u64,
    requests: mpsc::UnboundedSender<Request>,
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
            lives: AtomicU64::new(0),
        }))
    }

    /// Takes hold of every machine that is on this host. What cannot be listed leaves the inventory not full: nothing
    /// is then taken for absent.
    pub async fn attach(&self) {
        let found = match self.0.hypervisor.find().await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the machines on this host cannot be listed; the inventory will not be full");
                return;
            }
        };
        for found in found {
            self.attach_one(found).await;
        }
        self.0.full.store(true, Ordering::Release);
    }

    async fn attach_one(&self, found: Found) {
        let machine = match self.0.hypervisor.attach(found.id).await {
            Ok(machine) => machine,
            Err(error) => {
                tracing::error!(vm.id = %found.id, %error, "a machine cannot be attached to");
                None
            }
        };
        tracing::info!(vm.id = %found.id, alive = machine.is_some(), complete = found.complete, "found a machine");
        let drive = Drive::found(self.0.clone(), &found, machine.map(Arc::from));
        self.start(&mut self.0.lock(), found.id, drive);
    }

    /// Makes a machine and waits until its guest answers. One that is there already only has to answer.
    ///
    /// Dropping the future gives the making up; what was made stays for [`Vms::remove`].
    pub async fn create(&self, plan: &MachinePlan, ready: Duration, phases: &Phases) -> Result<Made, Failure> {
        let request = |reply| Request::Create { plan: Box::new(plan.clone()), ready, phases: phases.clone(), reply };
        self.ask(plan.id, request).await
    }

    /// Runs a program in a machine. Dropping the future stops waiting for it.
    pub async fn exec(&self, vm: VmId, epoch: u32, params: &VmExecParams) -> Result<VmExecOutput, Failure> {
        if self.glance(vm).is_none() {
            return Err(Denial::Absent.into());
        }
        self.ask(vm, |reply| Request::Exec { epoch, params: params.clone(), reply }).await
    }

    /// Ends and removes a machine, and says whether there was anything. It goes on when the future is dropped.
    pub async fn remove(&self, vm: VmId, epoch: u32) -> Result<bool, Failure> {
        self.ask(vm, |reply| Request::Remove { epoch, reply }).await
    }

    /// Where a machine stands; `None` when there is nothing of it.
    pub fn glance(&self, vm: VmId) -> Option<Glance> {
        self.0.lock().get(&vm).map(|entry| entry.glance).filter(|glance| glance.stage != Stage::Absent)
    }

    /// Everything that is here.
    pub fn inventory(&self) -> Inventory {
        let vms = self.0.lock().values().filter_map(|entry| entry.seen.clone()).collect();
        Inventory { full: self.0.full.load(Ordering::Acquire), vms }
    }

    /// Waits until a machine has changed by itself.
    pub async fn stirred(&self) {
        self.0.stirred.notified().await;
    }

    /// Sends a request to the machine's driving task, which is started where there is none. A task that ended before
    /// it read the request has dropped it: another is asked.
    async fn ask<T>(
        &self,
        vm: VmId,
        request: impl Fn(oneshot::Sender<Result<T, Failure>>) -> Request,
    ) -> Result<T, Failure> {
        loop {
            let (reply, answer) = oneshot::channel();
            // A closed channel drops the request, and with it the reply.
            drop(self.requests(vm).send(request(reply)));
            if let Ok(answer) = answer.await {
                return answer;
            }
            // With the agent gone, every task is; nobody is left to ask.
            self.0.tether.unless_cut().await;
        }
    }

    fn requests(&self, vm: VmId) -> mpsc::UnboundedSender<Request> {
        let mut machines = self.0.lock();
        if let Some(entry) = machines.get(&vm)
            && !entry.requests.is_closed()
        {
            return entry.requests.clone();
        }
        self.start(&mut machines, vm, Drive::absent(self.0.clone(), vm))
    }

    fn start(
        &self,
        machines: &mut BTreeMap<VmId, Entry>,
        vm: VmId,
        mut drive: Drive,
    ) -> mpsc::UnboundedSender<Request> {
        let (requests, queue) = mpsc::unbounded_channel();
        let life = self.0.lives.fetch_add(1, Ordering::Relaxed);
        drive.life = life;
        let entry = Entry { life, requests: requests.clone(), glance: drive.glance(), seen: drive.seen() };
        machines.insert(vm, entry);
        self.0.tether.spawn(drive.run(queue));
        requests
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, Entry>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
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
