//! The agent: what it is made of, how it starts, runs and ends.
//!
//! ```text
//! start: lock the data folder ─► journal ─► take hold of the machines that are here
//! run:   resume what is unfinished ─► enrol ─► poll, or consume · report · heartbeat · renew ─► told to end: no more polls,
//!        short work ends, results go out; what is unfinished stays in the journal, machines go on running
//! ```
//!
//! Dropping the agent, or the future of `run`, is as good as killing it: the next start finds everything in the journal
//! and on the host.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::Duration,
};

use hostler_link::LinkError;
use hostler_model::{Clock, Ids, NodeId, node::NodeFacts};
use hostler_trust::identity::IdentityError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::Works,
    blocking,
    broker::{self, Road},
    config::AgentConfig,
    enrol::{self, Identity, TrustCell},
    facts,
    handler::Tools,
    heartbeat::{self, Beats},
    image::{self, Images},
    inbox,
    journal::{Journal, Lost, Start},
    metrics::Metrics,
    refused::Refusals,
    report::{self, Outbox},
    secret::Secrets,
    server::Server,
    tether::Tether,
    vm::Vms,
    work,
};

/// How often the journal is cleared of what is too old to matter.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// An agent that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The data folder cannot be used.
    #[error("the data folder {} cannot be used: {source}", path.display())]
    Data {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("another agent runs on {}; two must not share a data folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The journal failed.
    #[error("the journal failed: {0}")]
    Journal(#[from] hostler_db::Error),
    /// It never joined, and has nothing to join with.
    #[error("this node has no identity and no join token; `hostler node token` on the server makes one")]
    NoIdentity,
    /// The server refused the join.
    #[error(
        "the server refused the join: {0}; a token works once and not for long, `hostler node token` makes another"
    )]
    JoinRefused(#[source] LinkError),
    /// The certificate could not be renewed.
    #[error("the renewal failed: {0}")]
    Renew(#[source] LinkError),
    /// A link could not be made.
    #[error("there is no way to the server: {source}")]
    Connect {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the identity is missing or damaged.
    #[error("{} is missing or damaged; remove its folder and join again with a new token", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// The identity cannot be used.
    #[error("the node's identity cannot be used: {0}")]
    Identity(#[from] IdentityError),
    /// A private file cannot be read or written.
    #[error(transparent)]
    File(#[from] hostler_trust::file::FileError),
    /// The server's task keys cannot be used.
    #[error("the server's task keys cannot be used: {0}")]
    Keys(#[from] hostler_trust::task::KeySetError),
}

/// What the parts of an agent share.
pub struct Node {
    /// The server.
    pub server: Server,
    /// How its tasks are known.
    pub trust: TrustCell,
    /// What was taken on and how it ended.
    pub journal: Journal,
    /// What is under way.
    pub works: Arc<Works>,
    /// What is to be reported.
    pub outbox: Outbox,
    /// What is written down as begun is under way before the next answer of the server is judged by what is: an offer that
    /// came twice may bring the same lease twice at once.
    pub intake: tokio::sync::Mutex<()>,
    /// When a heartbeat was last asked for because of a key that was not known.
    pub keys_asked: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    /// Heartbeats and results never cross: whoever sends one holds this.
    pub turn: tokio::sync::Mutex<()>,
    /// What handlers work with.
    pub tools: Tools,
    /// The facts that stay the same.
    pub facts: NodeFacts,
    /// The time.
    pub clock: Clock,
    /// The road by the broker, where tasks and results take that.
    pub road: Option<Road>,
    /// Where its tasks hang.
    pub tether: Tether,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// What it refused, for the next heartbeat.
    pub refusals: Refusals,
    /// Where ids come from.
    pub ids: Ids,
}

impl Node {
    /// What becomes of a lease that is lost with this process: the first poll after a start says what is held, and the
    /// broker's road has none.
    pub fn lost(&self) -> Lost {
        match self.road {
            None => Lost::SentAgain,
            Some(_) => Lost::Gone,
        }
    }
}

/// An agent. Dropping it is as good as killing it.
pub struct Agent {
    config: AgentConfig,
    facts: NodeFacts,
    journal: Journal,
    tools: Tools,
    beat_requests: heartbeat::Requests,
    works: Arc<Works>,
    metrics: Arc<Metrics>,
    tether: Tether,
    joined: watch::Sender<Option<NodeId>>,
    _cut: CutOnDrop,
    _lock: Lock,
}

/// Cuts the tether when the agent is dropped, `run` or not.
struct CutOnDrop(Tether);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// The data folder is ours while this lives.
struct Lock {
    _file: fs::File,
}

impl Lock {
    fn take(dir: &Path) -> Result<Lock, AgentError> {
        let failed = |source| AgentError::Data { path: dir.to_owned(), source };
        // The journal holds what users asked for: it is nobody else's to read.
        hostler_trust::file::create_private_dir(dir)?;
        let file =
            fs::File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(AgentError::Locked { path: dir.to_owned() }),
            Err(fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

impl Agent {
    /// Opens the data folder and takes hold of the machines that are here. Needs no network.
    ///
    /// # Errors
    /// When the folder cannot be used, another agent has it, or the journal cannot be opened.
    pub async fn start(config: AgentConfig) -> Result<Agent, AgentError> {
        crate::host::process::raise_file_limit();
        let own = config.data.join("agent");
        let lock = Lock::take(&own)?;
        let journal = Journal::open(&own.join("journal.db"), config.mode)?;
        if let Err(error) = journal.prune(config.clock.now()).await {
            tracing::warn!(%error, "the journal cannot be cleared of old entries");
        }
        let facts = read_facts(&config).await;
        let tether = Tether::default();
        let vms = Vms::new(config.hypervisor.clone(), tether.clone());
        vms.attach().await;
        let (beats, beat_requests) = Beats::new();
        let tools = Tools {
            vms,
            beats,
            images: Images::new(config.data.join("images"), config.mode),
            secrets: Secrets::default(),
            hypervisor: config.hypervisor.clone(),
            root: config.root.clone(),
            data: config.data.clone(),
            clock: config.clock.clone(),
            mode: config.mode,
        };
        Ok(Agent {
            facts,
            journal,
            tools,
            beat_requests,
            works: Arc::new(Works::new(config.slots)),
            metrics: Arc::default(),
            joined: watch::Sender::new(None),
            _cut: CutOnDrop(tether.clone()),
            _lock: lock,
            tether,
            config,
        })
    }

    /// Who this node is, once it is known.
    pub fn node(&self) -> watch::Receiver<Option<NodeId>> {
        self.joined.subscribe()
    }

    /// The machines that it drives.
    pub fn machines(&self) -> Vms {
        self.tools.vms.clone()
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Hangs together with every task of this agent: `gone` returns when the last of them is.
    pub fn tether(&self) -> Tether {
        self.tether.clone()
    }

    /// Works until it is told to end. Machines go on running.
    ///
    /// # Errors
    /// When the node cannot join, or its identity cannot be used.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AgentError> {
        let Some(identity) = shutdown.run_until_cancelled(enrol::enrol(&self.config, &self.facts)).await else {
            return Ok(());
        };
        let Identity { credentials, trust } = identity?;
        let id = enrol::node_of(&credentials);
        let server = Server::new(id, enrol::connect(&self.config, Some(&credentials))?);
        self.tools.images.fetch_from(server.clone());
        self.tools.secrets.fetch_from(server.clone());
        let refusals = Refusals::from_kept(self.journal.refusals(id).await?);
        let node = Arc::new(self.assemble(server, trust, refusals));
        resume(&node).await?;
        self.joined.send_replace(Some(id));
        tracing::info!(node.id = %id, name = self.config.name, hypervisor = self.facts.hypervisor, acceleration = self.facts.acceleration, "the agent is at work");
        let ids = &self.config.ids;
        let loops = async {
            tokio::join!(
                take(&node, ids.clone()),
                report::send(&node, ids.clone()),
                heartbeat::beat(&node, &self.beat_requests, ids.clone()),
                enrol::renew(&node, &self.config, credentials),
                prune(&node),
                image::collect(&node.tools.images, &*node.tools.hypervisor),
            )
        };
        shutdown.run_until_cancelled(loops).await;
        self.end(&node).await;
        Ok(())
    }

    fn assemble(&self, server: Server, trust: enrol::Trust, refusals: Refusals) -> Node {
        Node {
            server,
            trust: Arc::new(RwLock::new(Arc::new(trust))),
            journal: self.journal.clone(),
            works: self.works.clone(),
            outbox: Outbox::default(),
            intake: tokio::sync::Mutex::default(),
            keys_asked: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            tools: self.tools.clone(),
            facts: self.facts.clone(),
            clock: self.config.clock.clone(),
            road: self.config.broker.clone().map(Road::new),
            tether: self.tether.clone(),
            metrics: self.metrics.clone(),
            refusals,
            ids: self.config.ids.clone(),
        }
    }

    /// Short work ends and results go out, for as long as the grace lasts.
    async fn end(&self, node: &Arc<Node>) {
        let rest = async {
            node.works.idle().await;
            node.outbox.empty().await;
        };
        let rest = async {
            tokio::select! {
                biased;
                () = rest => {}
                () = report::send(node, self.config.ids.clone()) => {}
            }
        };
        if tokio::time::timeout(self.config.grace, rest).await.is_err() {
            tracing::info!(unfinished = node.works.len(), "ending with work under way; the next start goes on with it");
        }
        self.tether.cut();
        self.tether.gone().await;
        if let Err(error) = self.journal.write_receipts().await {
            tracing::warn!(%error, "the journal cannot note what the server has; the next start reports it once more");
        }
    }
}

/// Takes tasks, by the one road or the other.
async fn take(node: &Arc<Node>, ids: Ids) {
    match &node.road {
        Some(road) => broker::take(node, road, ids).await,
        None => inbox::poll(node, ids).await,
    }
}

async fn read_facts(config: &AgentConfig) -> NodeFacts {
    let config = config.clone();
    blocking::run(config.mode, move || facts::read(&config)).await.unwrap_or_default()
}

/// Goes on with what an agent before this one left: reports what ended, and takes up what did not as its kind says.
async fn resume(node: &Arc<Node>) -> Result<(), AgentError> {
    for report in node.journal.unreported().await? {
        node.outbox.push(report);
    }
    for assignment in node.journal.unfinished().await? {
        tracing::info!(task.id = %assignment.sub, task.kind = %assignment.kind, fence = %assignment.fence, "going on with what an earlier agent began");
        work::begin(node, assignment, Start::Uncertain);
    }
    Ok(())
}

async fn prune(node: &Node) {
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        if let Err(error) = node.journal.prune(node.clock.now()).await {
            tracing::warn!(%error, "the journal cannot be cleared of old entries");
        }
    }
}
