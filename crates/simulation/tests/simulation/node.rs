//! A node: a simulated host that outlives its agents, and the agent that lives there now.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use hostler_agent::{
    Agent, AgentConfig, AgentError, Slots, enrol,
    hypervisor::sim::{Sim, SimConfig, SimHost},
    tether::Tether,
};
use hostler_db::Mode;
use hostler_model::{Ids, Resources};
use hostler_trust::{Credentials, JoinToken};
use tokio::{sync::Mutex, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    dice::Dice,
    disk::Disk,
    net::{Door, End, Net},
    wall::Wall,
};

/// What a node has.
pub const CAPACITY: Resources = Resources { vcpus: 4, memory_mib: 6144, disk_gib: 60, vms: 8 };

/// A host, and what its agents need.
pub struct Host {
    pub number: usize,
    pub data: PathBuf,
    pub machines: SimHost,
    pub wall: Wall,
    behaviour: SimConfig,
    token: std::sync::Mutex<JoinToken>,
    dice: Dice,
    net: Net,
    running: Mutex<Option<Running>>,
}

struct Running {
    work: JoinHandle<()>,
    driver: Tether,
    agent: Arc<OnceLock<Tether>>,
}

impl Host {
    pub fn new(number: usize, data: PathBuf, wall: Wall, token: JoinToken, dice: Dice, net: Net) -> Host {
        let behaviour = behaviour(&dice);
        let machines = SimHost::new();
        let token = std::sync::Mutex::new(token);
        Host { number, data, machines, wall, behaviour, token, dice, net, running: Mutex::default() }
    }

    pub fn name(&self) -> String {
        format!("node{}", self.number)
    }

    fn end(&self) -> End {
        End::Node(self.number)
    }

    /// Starts an agent, where none lives.
    pub async fn start(&self) {
        let mut running = self.running.lock().await;
        if running.is_some() {
            return;
        }
        let trace = self.net.trace().clone();
        trace.note(format!("the agent of {} starts", self.name()));
        let sim = Sim::new(self.behaviour.clone(), self.machines.clone());
        let (driver, agent) = (sim.life(), Arc::new(OnceLock::new()));
        let (config, told, name) = (self.config(sim), agent.clone(), self.name());
        let work = tokio::spawn(async move {
            let run = async {
                let agent = Agent::start(config).await?;
                // Nobody else sets it.
                drop(told.set(agent.tether()));
                agent.run(CancellationToken::new()).await
            };
            match run.await {
                // The answer to its join was lost, or its token's time was over: somebody brings another.
                Err(AgentError::JoinRefused(why)) => trace.note(format!("the agent of {name} gave up: {why}")),
                ended => drop(trace.unless(&format!("the agent of {name} gave up"), ended)),
            }
        });
        *running = Some(Running { work, driver, agent });
    }

    /// Kills the agent where it stands; the machines go on. What its disk had not yet is lost.
    pub async fn crash(&self) {
        let mut running = self.running.lock().await;
        let Some(Running { work, driver, agent }) = running.take() else { return };
        self.net.trace().note(format!("the agent of {} dies", self.name()));
        work.abort();
        driver.cut();
        // It was aborted, or had ended.
        drop(work.await);
        if let Some(agent) = agent.get() {
            agent.cut();
            agent.gone().await;
        }
        driver.gone().await;
        self.disk().lose();
    }

    /// Kills the agent and takes its identity from it, as when its certificate ran out long ago: it joins anew with this
    /// token, with its journal and its machines as they are.
    pub async fn rejoin(&self, token: JoinToken) {
        self.crash().await;
        self.net.trace().note(format!("{} loses its identity", self.name()));
        drop(fs::remove_dir_all(enrol::folder(&self.data)));
        *self.token() = token;
        self.start().await;
    }

    /// Whether it has joined.
    pub fn is_joined(&self) -> bool {
        enrol::folder(&self.data).exists()
    }

    fn token(&self) -> MutexGuard<'_, JoinToken> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host writes back what it has not been told to.
    pub fn write_back(&self) {
        self.disk().write_back();
    }

    /// The disk of its agent is full, or has room again.
    pub fn fill(&self, full: bool) {
        self.disk().fill(full);
    }

    fn disk(&self) -> Disk {
        Disk::new(self.data.join("agent").join("journal.db"))
    }

    fn config(&self, sim: Sim) -> AgentConfig {
        let (net, end) = (self.net.clone(), self.end());
        let connect = move |credentials: Option<&Credentials>| {
            let identity = credentials.map(|credentials| credentials.identity());
            Ok(net.link(end, Door::Agents(identity)))
        };
        AgentConfig {
            broker: None,
            data: self.data.clone(),
            name: self.name(),
            join: Some(self.token().clone()),
            labels: BTreeMap::new(),
            capacity: Some(CAPACITY),
            slots: Slots { boot: 3, disk: 2, quick: 8, guest: 8 },
            clock: self.wall.clock(),
            ids: Ids::seeded(self.dice.number()),
            connect: Arc::new(connect),
            hypervisor: Arc::new(sim),
            // Nothing of the host that all of this runs on.
            root: self.data.join("nothing"),
            mode: Mode::Inline,
            grace: Duration::from_secs(5),
        }
    }
}

/// Slower than any host, so that much is under way whenever something dies, and as unreliable as the dice have it.
fn behaviour(dice: &Dice) -> SimConfig {
    let ms = |from, to| Duration::from_millis(from)..Duration::from_millis(to);
    let rate = || dice.within(0..120) as f64 / 1000.0;
    SimConfig {
        create: ms(10, 3000),
        boot: ms(100, 5000),
        exec: ms(1, 4000),
        remove: ms(10, 2000),
        power: ms(50, 3000),
        create_failures: rate(),
        boot_failures: rate() / 4.0,
        first_boot_errors: 0.0,
        exec_failures: rate(),
        remove_failures: rate() * 3.0,
        power_failures: rate(),
        crashes: rate(),
        crash_after: ms(0, 60_000),
        ..SimConfig::quick(dice.number())
    }
}
