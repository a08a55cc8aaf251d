//! What an agent is started with. Time, ids, the network and the hypervisor come in as values.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use hostler_broker::Broker;
use hostler_db::Mode;
use hostler_link::Link;
pub use hostler_model::node::Slots;
use hostler_model::{Clock, Ids, Resources};
use hostler_trust::{Credentials, JoinToken};

use crate::hypervisor::Hypervisor;

/// A way to the server with these credentials; without any for the join, which needs no certificate.
pub type Connect =
    Arc<dyn Fn(Option<&Credentials>) -> Result<Link, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// Everything an agent is started with.
#[derive(Clone)]
pub struct AgentConfig {
    /// Its data folder: everything it writes lies there.
    pub data: PathBuf,
    /// The node's name.
    pub name: String,
    /// What it joins with, where it has no identity yet.
    pub join: Option<JoinToken>,
    /// Free words by which machines choose.
    pub labels: BTreeMap<String, String>,
    /// What is said to be there, instead of what the host says.
    pub capacity: Option<Resources>,
    /// How much it does at once.
    pub slots: Slots,
    /// The time.
    pub clock: Clock,
    /// Random numbers, for jitter.
    pub ids: Ids,
    /// The network.
    pub connect: Connect,
    /// The message broker by which tasks come and results go, in place of polls and calls.
    pub broker: Option<Broker>,
    /// What runs machines.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Where `/proc` and `/sys` are: `/` outside tests.
    pub root: PathBuf,
    /// How the journal and the host's files are used: [`Mode::Inline`] for many agents in one process, whose threads would
    /// be too many, and whose history is to be the same each time.
    pub mode: Mode,
    /// How long work under way may go on after the agent was told to end.
    pub grace: Duration,
}

impl AgentConfig {
    /// With the system's clock and ids, this host, and what it has.
    pub fn new(data: impl Into<PathBuf>, name: &str, connect: Connect, hypervisor: Arc<dyn Hypervisor>) -> AgentConfig {
        AgentConfig {
            data: data.into(),
            name: name.to_owned(),
            join: None,
            labels: BTreeMap::new(),
            capacity: None,
            slots: Slots::for_cpus(std::thread::available_parallelism().map_or(1, usize::from)),
            clock: Clock::system(),
            ids: Ids::system(),
            connect,
            broker: None,
            hypervisor,
            root: PathBuf::from("/"),
            mode: Mode::Threads,
            grace: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig").field("data", &self.data).field("name", &self.name).finish_non_exhaustive()
    }
}
