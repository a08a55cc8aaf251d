//! The agents of `hostler dev`: one that runs real machines, or several that pretend to.

use std::{path::PathBuf, sync::Arc};

use hostler_agent::{
    Agent, AgentConfig, AgentError, Connect, Slots,
    hypervisor::{
        Hypervisor,
        sim::{Sim, SimConfig, SimHost},
    },
};
use hostler_control::Server;
use hostler_link::Link;
use hostler_model::{Resources, event::Actor, join_token::NewJoinToken, name::Name};
use hostler_trust::{
    Credentials, JoinToken,
    tls::{self, ServerTrust},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Args, SlotArgs};
use crate::{
    driver::{self, Driver, host_name},
    exit::{Exit, Failure},
    folder::{Folder, Sockets},
};

/// What a simulated node says it has: enough that load, not room, is what is tried.
const SIMULATED: Resources = Resources { vcpus: 1 << 20, memory_mib: 1 << 30, disk_gib: 1 << 20, vms: 1 << 20 };

/// One node to be.
struct Node {
    name: Name,
    data: PathBuf,
    hypervisor: Arc<dyn Hypervisor>,
    simulated: bool,
    slots: SlotArgs,
}

/// The nodes to be.
pub struct Nodes(Vec<Node>);

/// The agents at work.
pub struct Running {
    agents: JoinSet<Result<(), AgentError>>,
    stop: CancellationToken,
}

impl Nodes {
    /// Sets the drivers up; nothing runs yet.
    pub async fn new(args: &Args, folder: &Folder, sockets: &Sockets) -> Result<Nodes, Failure> {
        match args.driver {
            Driver::Qemu => {
                let hypervisor: Arc<dyn Hypervisor> =
                    Arc::new(driver::qemu(&folder.data, &sockets.run, args.acceleration).await?);
                Ok(Nodes(vec![Node {
                    name: host_name(),
                    data: folder.data.clone(),
                    hypervisor,
                    simulated: false,
                    slots: args.slots,
                }]))
            }
            Driver::Sim => (1..=args.nodes)
                .map(|number| simulated(number, folder, args.slots))
                .collect::<Result<_, _>>()
                .map(Nodes),
        }
    }

    /// What runs machines here, in words.
    pub fn describe(&self) -> String {
        let Some(node) = self.0.first() else { return String::new() };
        let driver = &node.hypervisor;
        let many = if self.0.len() > 1 { format!("{} nodes, ", self.0.len()) } else { String::new() };
        format!("{many}{}, {} ({})", driver.version(), driver.acceleration(), driver.acceleration_reason())
    }

    /// Starts every agent, and returns when each has joined.
    pub async fn start(&self, server: &Server, port: u16, running: &mut Running) -> Result<(), Failure> {
        for node in &self.0 {
            let mut config =
                AgentConfig::new(&node.data, node.name.as_str(), connect(server, port), node.hypervisor.clone());
            config.join = Some(join_token(server, node).await?);
            if node.simulated {
                config.capacity = Some(SIMULATED);
                config.slots = Slots { boot: 64, disk: 64, quick: 256, guest: 256 };
            }
            config.slots = node.slots.over(config.slots);
            let agent = Agent::start(config).await.map_err(|error| Failure::new(Exit::Failed, error))?;
            let mut joined = agent.node();
            running.agents.spawn(agent.run(running.stop.clone()));
            tokio::select! {
                _ = joined.wait_for(Option::is_some) => {}
                failed = running.failed() => return Err(Failure::new(Exit::Failed, failed)),
            }
        }
        Ok(())
    }

    /// Ends every machine there is anything of.
    pub async fn remove_machines(&self) -> Result<(), Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::new(Exit::Failed, format!("{what}: {error}; the data folder stays"))
                .help("see what runs with `pgrep -a qemu-system`, and end it before you remove the folder")
        };
        for node in &self.0 {
            let found = node.hypervisor.find().await.map_err(|e| failed("the machines cannot be looked for", &e))?;
            let all = found.found.iter().map(|found| found.id).chain(found.unread);
            for id in all {
                let removed = node.hypervisor.remove(id).await;
                removed.map_err(|e| failed(&format!("the machine {id} cannot be removed"), &e))?;
            }
        }
        Ok(())
    }
}

impl Running {
    /// None yet.
    pub fn none(stop: CancellationToken) -> Running {
        Running { agents: JoinSet::new(), stop }
    }

    /// Waits until an agent has ended by itself, and says why.
    pub async fn failed(&mut self) -> String {
        match self.agents.join_next().await {
            Some(Ok(Err(error))) => format!("the agent failed: {error}"),
            Some(Err(error)) => format!("the agent failed: {error}"),
            Some(Ok(Ok(()))) | None => "the agent ended".to_owned(),
        }
    }

    /// Ends them all; their machines go on.
    pub async fn end(&mut self) {
        self.stop.cancel();
        while self.agents.join_next().await.is_some() {}
    }
}

fn simulated(number: u16, folder: &Folder, slots: SlotArgs) -> Result<Node, Failure> {
    let name = format!("sim-{number}").parse().map_err(|error| Failure::new(Exit::Failed, error))?;
    let driver = Sim::new(SimConfig::steady(u64::from(number)), SimHost::new());
    let data = folder.data.join("nodes").join(number.to_string());
    Ok(Node { name, data, hypervisor: Arc::new(driver), simulated: true, slots })
}

/// A token for a node that has no identity yet; one that has does not use it.
async fn join_token(server: &Server, node: &Node) -> Result<JoinToken, Failure> {
    let asked = NewJoinToken { node: Some(node.name.clone()), approve: true };
    let issued = server.app().make_join_token(asked, Actor::system()).await;
    let issued = issued.map_err(|error| Failure::new(Exit::Failed, error))?;
    issued.token.parse().map_err(|error| Failure::new(Exit::Failed, error))
}

/// The way to the server of this process: over TLS, known by its authority's fingerprint.
fn connect(server: &Server, port: u16) -> Connect {
    let (fingerprint, clock) = (server.app().authority.get().fingerprint(), server.app().clock.clone());
    Arc::new(move |credentials: Option<&Credentials>| {
        let config = tls::client_config(ServerTrust::Fingerprint(fingerprint), credentials, &clock)?;
        Ok(Link::http(tls::http_client(config)?, &format!("https://127.0.0.1:{port}"))?)
    })
}
