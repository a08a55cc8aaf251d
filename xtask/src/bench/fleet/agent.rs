//! Agents that only wait: each with a certificate and a connection of its own, a poll for tasks of all classes
//! and heartbeats, by the calls that a real agent makes. None has a journal, a machine or anything to do.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hostler_agent::server::{self, Held};
use hostler_link::Link;
use hostler_model::{
    Clock, Resources,
    internal::{Heartbeat, Inventory, Join},
    node::{NodeFacts, Slots},
};
use hostler_trust::{
    Credentials, Fingerprint, JoinToken, NodeKey,
    tls::{self, ServerTrust},
};
use tokio::task::JoinSet;

use crate::bench::{http::Connection, server::Server};

/// Between two heartbeats of an agent.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);
/// How many join at once.
const JOINING: usize = 32;
/// What is free, of each class: all, because nothing is done.
const SLOTS: Slots = Slots { boot: 4, disk: 2, quick: 64, guest: 64 };

/// Agents that wait. They end with this value.
pub(crate) struct Fleet {
    counts: Arc<Counts>,
    _agents: JoinSet<()>,
}

/// What their calls came to.
#[derive(Default)]
struct Counts {
    heartbeats: AtomicU64,
    polls: AtomicU64,
    failed: AtomicU64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [heartbeats, polls, failed] =
            [&self.heartbeats, &self.polls, &self.failed].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{heartbeats} heartbeats and {polls} polls were answered, {failed} calls failed")
    }
}

impl Fleet {
    /// Lets so many join and connect, a few at once, so that no handshake waits long for another; returns when all have.
    pub(crate) async fn connect(server: &Server, agents: usize) -> Result<Fleet> {
        let at: Arc<str> = server.agents()?.into();
        let counts = Arc::new(Counts::default());
        let (mut joining, mut connected) = (JoinSet::new(), Vec::with_capacity(agents));
        for lane in 0..JOINING {
            let (mut connection, at) = (server.connect().await?, at.clone());
            joining.spawn(async move {
                let (mut own, mut door) = (Vec::new(), None);
                for number in (lane..agents).step_by(JOINING) {
                    own.push(join(&mut connection, &mut door, &at, number).await?);
                }
                anyhow::Ok(own)
            });
        }
        while let Some(lane) = joining.join_next().await {
            connected.extend(lane??);
        }
        let mut at_work = JoinSet::new();
        for (number, agent) in connected.into_iter().enumerate() {
            let counts = counts.clone();
            // Spread over a heartbeat's time, as those are that came one after another.
            let turn = HEARTBEAT.mul_f64(number as f64 / agents as f64);
            at_work.spawn(async move {
                tokio::time::sleep(turn).await;
                wait(&agent, &counts).await;
            });
        }
        Ok(Fleet { counts, _agents: at_work })
    }

    /// Ends them, and says what their calls came to.
    pub(crate) fn end(self) -> String {
        self.counts.to_string()
    }
}

/// A single-use token, by the route that people use.
pub(crate) async fn join_token(connection: &mut Connection) -> Result<String> {
    let (status, answer) = connection.json("POST", "/api/v1/join-tokens", "{}").await?;
    ensure!(status < 300, "{status}: {answer}");
    Ok(answer["token"].as_str().context("a token")?.to_owned())
}

/// An agent with a certificate and an open connection. `door`: the link over which those without a certificate join, kept
/// for the next.
async fn join(connection: &mut Connection, door: &mut Option<Link>, at: &str, number: usize) -> Result<server::Server> {
    let text = join_token(connection).await?;
    let token: JoinToken = text.parse()?;
    let through = match door {
        Some(link) => link,
        None => door.insert(link(at, token.authority(), None)?),
    };
    let (key, name) = (NodeKey::generate()?, format!("idle-{number}"));
    let asked = Join { token: text, csr_pem: key.csr(&name)?, name, facts: facts() };
    let joined = server::join(through, &asked).await?;
    let credentials = Credentials::new(&key, &joined.certificate_pem, &joined.ca_pem)?;
    let own = link(at, credentials.authority_fingerprint(), Some(&credentials))?;
    let agent = server::Server::new(credentials.identity().node, own);
    // It opens the connection that all its calls share.
    agent.heartbeat(&heartbeat()).await?;
    Ok(agent)
}

/// Polls and sends heartbeats until it is dropped.
async fn wait(server: &server::Server, counts: &Counts) {
    tokio::join!(poll(server, counts), beat(server, counts));
}

async fn beat(server: &server::Server, counts: &Counts) {
    loop {
        match server.heartbeat(&heartbeat()).await {
            Ok(_) => counts.heartbeats.fetch_add(1, Ordering::Relaxed),
            Err(_) => counts.failed.fetch_add(1, Ordering::Relaxed),
        };
        tokio::time::sleep(HEARTBEAT).await;
    }
}

async fn poll(server: &server::Server, counts: &Counts) {
    loop {
        match server.wait(&SLOTS, &Held::AsBefore).await {
            Ok(_) => counts.polls.fetch_add(1, Ordering::Relaxed),
            Err(_) => {
                tokio::time::sleep(HEARTBEAT / 10).await;
                counts.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

fn heartbeat() -> Heartbeat {
    let inventory = Inventory { full: true, ..Inventory::default() };
    Heartbeat { facts: facts(), leases: Vec::new(), inventory, keys: String::new(), refused: None }
}

fn link(at: &str, authority: Fingerprint, credentials: Option<&Credentials>) -> Result<Link> {
    let config = tls::client_config(ServerTrust::Fingerprint(authority), credentials, &Clock::system())?;
    Ok(Link::http(tls::http_client(config)?, at)?)
}

/// What it says of its host: much room, and none of the kinds that a load submits, so that no task comes its way.
fn facts() -> NodeFacts {
    NodeFacts {
        hypervisor: "simulated".to_owned(),
        acceleration: "simulated".to_owned(),
        capacity: Resources { vcpus: 64, memory_mib: 256 << 10, disk_gib: 4096, vms: 256 },
        slots: SLOTS,
        capabilities: vec!["diag.*".to_owned()],
        ..NodeFacts::default()
    }
}
