//! The server and its nodes: agents of the product over simulated hosts, all in this process, their folders in memory.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use hostler_agent::{
    Agent, AgentConfig, AgentError, Connect, Slots,
    hypervisor::sim::{Sim, SimConfig, SimHost},
};
use hostler_db::Mode;
use hostler_e2e::fleet::Fleet;
use hostler_link::Link;
use hostler_model::{Clock, Resources};
use hostler_trust::{
    Credentials, JoinToken,
    tls::{self, ServerTrust},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// As a server has it that nobody configured.
const LEASE: Duration = Duration::from_secs(30);
/// Enough that load, not room, is what is tried.
const CAPACITY: Resources = Resources { vcpus: 1 << 10, memory_mib: 1 << 20, disk_gib: 1 << 14, vms: 1 << 10 };
const SLOTS: Slots = Slots { boot: 8, disk: 4, quick: 16, guest: 16 };

/// The agents at work. Each has ended only if it failed.
pub(super) type Agents = JoinSet<Result<(), AgentError>>;

/// A server, so many nodes that have joined it, and the folder that goes with them.
pub(super) async fn started(agents: usize) -> Result<(Fleet<'static>, Agents, TempDir)> {
    let fleet = Fleet::alone(LEASE).await?;
    let folder = memory()?;
    let mut running = JoinSet::new();
    for number in 0..agents {
        let config = config(&fleet, folder.path(), number).await?;
        let agent = Agent::start(config).await?;
        let mut joined = agent.node();
        running.spawn(agent.run(CancellationToken::new()));
        tokio::select! {
            _ = joined.wait_for(Option::is_some) => {}
            Some(ended) = running.join_next() => ended??,
        }
    }
    Ok((fleet, running, folder))
}

/// What the nodes write is worth nothing, and the disk is the server's.
fn memory() -> std::io::Result<TempDir> {
    let builder = || tempfile::Builder::new().prefix("hostler-soak").to_owned();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir())
}

async fn config(fleet: &Fleet<'_>, folder: &Path, number: usize) -> Result<AgentConfig> {
    let (status, issued) = fleet.call(0, "POST", "/join-tokens", Some(json!({"approve": true}))).await?;
    let token: JoinToken = issued["token"].as_str().with_context(|| format!("{status} {issued}"))?.parse()?;
    let sim = Sim::new(SimConfig::steady(number as u64), SimHost::new());
    let connect = connect(fleet.agents_address(), &token);
    let usual = AgentConfig::new(folder.join(number.to_string()), &format!("n{number}"), connect, Arc::new(sim));
    Ok(AgentConfig { join: Some(token), capacity: Some(CAPACITY), slots: SLOTS, mode: Mode::Inline, ..usual })
}

fn connect(server: String, token: &JoinToken) -> Connect {
    let (authority, clock) = (token.authority(), Clock::system());
    Arc::new(move |credentials: Option<&Credentials>| {
        let config = tls::client_config(ServerTrust::Fingerprint(authority), credentials, &clock)?;
        Ok(Link::http(tls::http_client(config)?, &server)?)
    })
}
