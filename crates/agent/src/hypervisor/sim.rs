//! The simulated driver: a hypervisor of its own that pretends, with latencies, failures and crashes chosen by its seed.
//!
//! It is for scale and fault tests, and never the default. What happens to a machine depends on the seed, the machine
//! and how often the same was asked of it, not on the order in which tasks happen to run. Time is tokio's, so a test
//! may hold it still. The host's state lives in a [`SimHost`], which outlives the driver as real processes outlive an
//! agent, and which counts, so that a test can see two processes for one machine, or one that nobody remembers.
//!
//! ```text
//! nothing ──create──► folder ──latency──► process ──boot──► complete
//!                       │  failure: stays, half made    │ crash: by the seed, or by SimHost::crash
//!    ▲                  ▼                               ▼
//!    └──────────────────────── remove ──────────────────┘
//! ```

mod dice;
mod edit;
mod host;
mod machine;
mod snapshot;

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use hostler_model::{SnapshotId, VmId, error::Code};
use tokio::{sync::oneshot, time::sleep};

pub use self::host::SimHost;
use self::{
    dice::{Dice, Throw},
    host::Boot,
    machine::SimMachine,
};
use super::{
    Applied, DriverError, Exit, Finds, Flat, Hypervisor, Machine, MachinePlan, NotApplied, Percents, Phases, Restored,
    SnapshotMade, SnapshotRemoved, turns::Turns,
};
use crate::tether::Tether;

/// How a simulated hypervisor behaves. Rates are between 0 and 1; latencies are evenly spread over their range.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Decides all of it.
    pub seed: u64,
    /// From the call of `create` to a process.
    pub create: Range<Duration>,
    /// From a process to the guest's first answer.
    pub boot: Range<Duration>,
    /// How long a program takes.
    pub exec: Range<Duration>,
    /// How long a removal takes.
    pub remove: Range<Duration>,
    /// How long a guest takes to turn itself off or to begin anew, once it is asked.
    pub power: Range<Duration>,
    /// How often `create` fails, half of the times before and half of the times after the process is there.
    pub create_failures: f64,
    /// How often a guest never answers.
    pub boot_failures: f64,
    /// How often a first boot ends with errors, where it is waited for.
    pub first_boot_errors: f64,
    /// How often a program is lost.
    pub exec_failures: f64,
    /// How often a removal fails, with the machine still there.
    pub remove_failures: f64,
    /// How often a guest ignores being asked to turn itself off or to begin anew.
    pub power_failures: f64,
    /// How many of the machines crash.
    pub crashes: f64,
    /// How long after their start.
    pub crash_after: Range<Duration>,
}

impl SimConfig {
    /// Nothing fails, nothing takes time.
    pub fn quick(seed: u64) -> SimConfig {
        let none = Duration::ZERO..Duration::ZERO;
        SimConfig {
            seed,
            create: none.clone(),
            boot: none.clone(),
            exec: none.clone(),
            remove: none.clone(),
            power: none.clone(),
            create_failures: 0.0,
            boot_failures: 0.0,
            first_boot_errors: 0.0,
            exec_failures: 0.0,
            remove_failures: 0.0,
            power_failures: 0.0,
            crashes: 0.0,
            crash_after: none,
        }
    }

    /// Latencies of about a host with KVM; nothing fails.
    pub fn steady(seed: u64) -> SimConfig {
        let ms = |from, to| Duration::from_millis(from)..Duration::from_millis(to);
        SimConfig {
            create: ms(20, 80),
            boot: ms(200, 900),
            exec: ms(1, 40),
            remove: ms(10, 60),
            power: ms(100, 600),
            ..SimConfig::quick(seed)
        }
    }

    /// The same on a bad day: one call in ten fails, one machine in five crashes within half a minute.
    pub fn stormy(seed: u64) -> SimConfig {
        SimConfig {
            create_failures: 0.1,
            boot_failures: 0.1,
            first_boot_errors: 0.1,
            exec_failures: 0.1,
            remove_failures: 0.1,
            power_failures: 0.1,
            crashes: 0.2,
            crash_after: Duration::ZERO..Duration::from_secs(30),
            ..SimConfig::steady(seed)
        }
    }
}

/// The driver, over a host. Cloning shares it; another one over the same host is an agent started anew.
#[derive(Clone, Debug)]
pub struct Sim(Arc<Driver>);

#[derive(Debug)]
struct Driver {
    config: SimConfig,
    host: SimHost,
    turns: Turns,
    /// Where what it has begun hangs, whoever asked for it.
    life: Tether,
}

impl Sim {
    /// Over this host, whatever is on it already.
    pub fn new(config: SimConfig, host: SimHost) -> Sim {
        Sim(Arc::new(Driver { config, host, turns: Turns::default(), life: Tether::default() }))
    }

    /// Hangs together with all that the driver has begun: cut, that stops where it is, as it does when an agent is killed.
    pub fn life(&self) -> Tether {
        self.0.life.clone()
    }

    /// What was begun is done to its end, though who asked may be gone.
    async fn bring_to_an_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, DriverError>> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (tell, done) = oneshot::channel();
        // Who asked may be gone.
        self.0.life.spawn(async move { drop(tell.send(work.await)) });
        done.await.unwrap_or_else(|_| Err(injected("the simulation broke off".to_owned())))
    }
}

#[async_trait]
impl Hypervisor for Sim {
    fn version(&self) -> String {
        format!("simulated {}", env!("CARGO_PKG_VERSION"))
    }

    fn acceleration(&self) -> &str {
        "simulated"
    }

    fn acceleration_reason(&self) -> &str {
        "no machine is real: the configuration asks for the simulated driver"
    }

    async fn create(&self, plan: &MachinePlan, phases: &Phases) -> Result<Box<dyn Machine>, DriverError> {
        let (driver, plan, phases) = (Arc::clone(&self.0), plan.clone(), phases.clone());
        Ok(Box::new(self.bring_to_an_end(async move { driver.create(&plan, &phases).await }).await?))
    }

    async fn plan(&self, id: VmId) -> Result<Option<MachinePlan>, DriverError> {
        Ok(self.0.host.plan(id))
    }

    async fn start(&self, plan: &MachinePlan, phases: &Phases) -> Result<Box<dyn Machine>, DriverError> {
        let (driver, plan, phases) = (Arc::clone(&self.0), plan.clone(), phases.clone());
        let started = self.bring_to_an_end(async move {
            let _turn = driver.turns.wait(plan.id).await;
            match driver.living(plan.id) {
                Some(machine) => Ok(machine),
                None => driver.start(&plan, &phases).await,
            }
        });
        Ok(Box::new(started.await?))
    }

    async fn edit(&self, plan: &MachinePlan) -> Result<Applied, NotApplied> {
        let _turn = self.0.turns.wait(plan.id).await;
        self.0.host.edit(plan)
    }

    async fn behind(&self, id: VmId) -> Result<bool, DriverError> {
        Ok(self.0.host.behind(id))
    }

    async fn note_end(&self, id: VmId, exit: &Exit) -> Result<(), DriverError> {
        let _turn = self.0.turns.wait(id).await;
        self.0.host.note_end(id, exit);
        Ok(())
    }

    async fn attach(&self, id: VmId) -> Result<Option<Box<dyn Machine>>, DriverError> {
        let _turn = self.0.turns.wait(id).await;
        Ok(self.0.living(id).map(|machine| Box::new(machine) as Box<dyn Machine>))
    }

    async fn remove(&self, id: VmId) -> Result<bool, DriverError> {
        let driver = Arc::clone(&self.0);
        self.bring_to_an_end(async move { driver.remove(id).await }).await
    }

    async fn take_snapshot(
        &self,
        vm: VmId,
        id: SnapshotId,
        memory: bool,
        phases: &Phases,
    ) -> Result<SnapshotMade, DriverError> {
        let (driver, phases) = (Arc::clone(&self.0), phases.clone());
        // Its place among those that are at the machine is that of this call.
        let turn = driver.turns.wait(vm).await;
        self.bring_to_an_end(async move { driver.take_snapshot(vm, id, memory, &phases, turn).await }).await
    }

    async fn restore(&self, vm: VmId, id: SnapshotId, phases: &Phases) -> Result<Restored, DriverError> {
        let (driver, phases) = (Arc::clone(&self.0), phases.clone());
        self.bring_to_an_end(async move { driver.restore(vm, id, &phases).await }).await
    }

    async fn remove_snapshot(&self, vm: VmId, id: SnapshotId) -> Result<SnapshotRemoved, DriverError> {
        let _turn = self.0.turns.wait(vm).await;
        Ok(SnapshotRemoved { existed: self.0.host.remove_snapshot(vm, id), layer_left: false })
    }

    async fn flatten(&self, _: VmId, _: SnapshotId, _: &Percents) -> Result<Flat, DriverError> {
        Ok(Flat::default())
    }

    async fn snapshots(&self) -> Result<Vec<SnapshotId>, DriverError> {
        Ok(self.0.host.snapshots())
    }

    async fn find(&self) -> Result<Finds, DriverError> {
        Ok(Finds { found: self.0.host.found(), unread: Vec::new() })
    }
}

impl Driver {
    fn dice(&self, id: VmId, throw: Throw) -> Dice {
        Dice::new(self.config.seed, id, throw, self.host.count(id, throw))
    }

    async fn create(&self, plan: &MachinePlan, phases: &Phases) -> Result<SimMachine, DriverError> {
        let _turn = self.turns.wait(plan.id).await;
        let _ = phases.send("disk");
        match self.host.epoch(plan.id) {
            Some(epoch) if epoch > plan.epoch => return Err(outdated(plan, epoch)),
            Some(epoch) if epoch < plan.epoch => self.host.clear(plan.id),
            _ => {}
        }
        if let Some(machine) = self.living(plan.id) {
            return Ok(machine);
        }
        let plan = &self.host.make_folder(plan)?;
        self.start(plan, phases).await
    }

    async fn start(&self, plan: &MachinePlan, phases: &Phases) -> Result<SimMachine, DriverError> {
        let mut dice = self.dice(plan.id, Throw::Create);
        let (latency, fails, late) =
            (dice.within(&self.config.create), dice.happens(self.config.create_failures), dice.happens(0.5));
        sleep(latency / 2).await;
        let _ = phases.send("start");
        sleep(latency / 2).await;
        if fails && !late {
            return Err(injected(format!(
                "the process of machine {} was not started, as the simulation's seed has it",
                plan.id
            )));
        }
        let boot = Boot::of(&self.config, &mut self.dice(plan.id, Throw::Boot));
        let process = self.host.start(plan.id, boot);
        self.host.fate(process, &self.config, &mut dice);
        if fails {
            return Err(injected(format!(
                "the process of machine {} was started and did not answer, as the seed has it",
                plan.id
            )));
        }
        Ok(SimMachine::new(&self.config, &self.host, plan.id, process))
    }

    fn living(&self, id: VmId) -> Option<SimMachine> {
        Some(SimMachine::new(&self.config, &self.host, id, self.host.living(id)?))
    }

    async fn remove(&self, id: VmId) -> Result<bool, DriverError> {
        let _turn = self.turns.wait(id).await;
        if !self.host.has(id) {
            return Ok(false);
        }
        let mut dice = self.dice(id, Throw::Remove);
        sleep(dice.within(&self.config.remove)).await;
        if dice.happens(self.config.remove_failures) {
            return Err(injected(format!("machine {id} was not removed, as the simulation's seed has it")));
        }
        self.host.clear(id);
        Ok(true)
    }
}

fn injected(detail: String) -> DriverError {
    DriverError { code: Code::Injected, detail, retryable: true }
}

fn outdated(plan: &MachinePlan, epoch: u32) -> DriverError {
    let detail = format!("machine {} is here under epoch {epoch}, and {} is older", plan.id, plan.epoch);
    DriverError { code: Code::TaskRefused, detail, retryable: false }
}

#[cfg(test)]
mod tests;
