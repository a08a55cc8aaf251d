//! The store's face: one method per step and per query.

mod access;
mod api_token;
mod chain;
mod image;
mod key;
mod offer;
mod reservation;
mod tenant;

pub use api_token::Revoke;

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use hostler_db::{Db, Migrations, Mode, Tx};
use hostler_model::{
    Clock, Ids, NodeId, SnapshotId, TaskId, TenantId, Timestamp, VmId,
    api::Diagnosis,
    event::{Actor, Entry, RequestOrigin},
    id::EnrolmentId,
    internal::{HeartbeatAnswer, ProgressAnswer, Receipt},
    join_token::KnownJoinToken,
    name::Name,
    node::{Node, NodeEvent, NodePatch, Removal},
    placement::Policy,
    proof::TaskProof,
    secret::Secret,
    snapshot::Snapshot,
    stats::TaskStats,
    task::Task,
    task_log::Line,
    vm::Vm,
};
use serde_json::json;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::{
    Accepted, Answer, Beat, Cancel, Claim, Edited, Force, Forgotten, Gauges, JoinNode, Leased, LogFilter, NewJoinToken,
    NodeCertificate, Old, Progressed, Queue, RefusedJoin, Result, Reveal, Settle, SnapshotFilter, Started, StatsFilter,
    Submission, Swept, TaskFilter, Timing, VmFilter, Wakes, doctor,
    fleet::Fleet,
    gauges,
    group::Committer,
    log, node, proof,
    relay::Relay,
    ripened::Ripened,
    secret,
    service::Service,
    snapshot,
    step::{
        cancel, drain, edit, expire, forget, heartbeat, join, lease, letter, look, progress, remove, restart, restored,
        settle, start, submit, sweep, waiting,
    },
    task, task_log, timeline, token, vm,
    work::{Context, Work},
};

/// Each runs once, in order.
pub(crate) const MIGRATIONS: Migrations = &[include_str!("../migrations/sqlite/0001_init.sql")];
/// The same tables on a server.
pub(crate) const ON_A_SERVER: Migrations = &[include_str!("../migrations/postgres/0001_init.sql")];

/// Hints that a slow listener may be behind by before it misses some: a second's worth at full speed.
const WAKES: usize = 1024;

/// How a store is opened. Time and randomness come in as values.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads, or inline for a simulation.
    pub mode: Mode,
    /// Where `now` comes from.
    pub clock: Clock,
    /// Where ids and jitter come from.
    pub ids: Ids,
    /// Leases and freshness.
    pub timing: Timing,
    /// How machines are spread, and how much may be promised on a node.
    pub placement: Policy,
}

/// Whose clock counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Now {
    /// That of [`Config`].
    HandedIn,
    /// That of the database's server: the same for all who write to it.
    Database,
}

/// Every durable fact. Clones share it.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Arc<Context>,
    submit: Committer<submit::Submit>,
    lease: Committer<lease::Take>,
    start: Committer<start::Begin>,
    progress: Committer<progress::Report>,
    heartbeat: Committer<heartbeat::Hear>,
    settle: Committer<settle::Conclude>,
}

/// A pass of a loop.
type Pass = fn(&mut Work<'_>) -> hostler_db::Result<Swept>;

impl Store {
    /// Opens the file, or makes it. In [`Mode::Threads`] the steps' committers start with their first call, in the
    /// tokio runtime of that call.
    pub fn open(path: &Path, config: Config) -> Result<Store> {
        Store::over(Db::sqlite(path, config.mode, MIGRATIONS)?, Now::HandedIn, config)
    }

    /// Opens a database of a PostgreSQL server, `postgres://user@host/name`; its tables are made where there are none.
    /// Several processes may have it open. The mode is [`Mode::Threads`], whatever the configuration says.
    pub fn connect(url: &str, now: Now, config: Config) -> Result<Store> {
        Store::over(Db::postgres(url, ON_A_SERVER, Some(log::HEAD))?, now, Config { mode: Mode::Threads, ..config })
    }

    fn over(db: Db, now: Now, config: Config) -> Result<Store> {
        let Config { mode, clock, ids, timing, placement } = config;
        let service = Service::begin(clock.now());
        let (wakes, _) = broadcast::channel(WAKES);
        let relay = Relay::start(&db, &wakes)?;
        let ahead = match now {
            Now::HandedIn => None,
            Now::Database => Some(AtomicI64::new(0)),
        };
        let (fleet, ripened) = (Fleet::default(), Ripened::never());
        let context =
            Arc::new(Context { db, clock, ids, timing, placement, service, wakes, relay, ahead, fleet, ripened });
        Ok(Store(Arc::new(Inner {
            submit: Committer::new(context.clone(), mode),
            lease: Committer::new(context.clone(), mode),
            start: Committer::new(context.clone(), mode),
            progress: Committer::new(context.clone(), mode),
            heartbeat: Committer::new(context.clone(), mode),
            settle: Committer::new(context.clone(), mode),
            context,
        })))
    }

    /// Hints about what changed; every step sends one after its commit. A receiver that lags has missed only hints.
    pub fn wakes(&self) -> broadcast::Receiver<Wakes> {
        self.0.context.wakes.subscribe()
    }

    /// Callers are served from now on: what passed since the opening was no service.
    pub fn begin_service(&self) {
        self.0.context.service.interrupted(self.now());
    }

    /// Now, by the clock that counts.
    pub fn now(&self) -> Timestamp {
        self.0.context.now()
    }

    async fn step<T, F>(&self, label: &'static str, step: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Work<'_>) -> hostler_db::Result<T> + Send + 'static,
    {
        self.0.context.step(label, step).await
    }

    async fn read<T, F>(&self, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> hostler_db::Result<T> + Send + 'static,
    {
        Ok(self.0.context.db.read(query).await?)
    }
}

/// Steps over batches. Each item is answered by itself, in order; calls that arrive together share a commit.
impl Store {
    /// Writes tasks down: each with its VM, allocation, audit entry and event, or refused.
    pub async fn submit(&self, batch: Vec<Submission>) -> Result<Vec<Answer<Accepted>>> {
        self.0.submit.run(batch).await
    }

    /// Leases tasks to nodes that ask for work.
    pub async fn lease(&self, batch: Vec<Claim>) -> Result<Vec<Answer<Vec<Leased>>>> {
        self.0.lease.run(batch).await
    }

    /// Nodes behind this one that have something to fetch, as many as this at most: their claims may still come to nothing.
    pub async fn nodes_with_work(&self, behind: Option<NodeId>, limit: usize) -> Result<Vec<NodeId>> {
        self.step("store.look", move |work| look::nodes_with_work(work, behind, limit)).await
    }

    /// Leases what was offered to agents that are about to begin.
    pub async fn start(&self, batch: Vec<Started>) -> Result<Vec<Answer<Leased>>> {
        self.0.start.run(batch).await
    }

    /// Notes progress, and renews the leases it comes under.
    pub async fn progress(&self, batch: Vec<Progressed>) -> Result<Vec<Answer<ProgressAnswer>>> {
        self.0.progress.run(batch).await
    }

    /// Hears nodes: renews their leases, and compares what they have with what is known.
    pub async fn heartbeat(&self, batch: Vec<Beat>) -> Result<Vec<Answer<HeartbeatAnswer>>> {
        self.0.heartbeat.run(batch).await
    }

    /// Writes results down, with all that follows from them.
    pub async fn settle(&self, batch: Vec<Settle>) -> Result<Vec<Answer<Receipt>>> {
        self.0.settle.run(batch).await
    }

    /// Asks for tasks to be stopped.
    pub async fn cancel(&self, batch: Vec<Cancel>) -> Result<Vec<Answer<Task>>> {
        self.step("store.cancel", move |work| cancel::cancel(work, &batch)).await
    }

    /// Lets dead letters be: they leave the list, and their history stays.
    pub async fn purge(&self, batch: Vec<Cancel>) -> Result<Vec<Answer<Task>>> {
        self.step("store.purge", move |work| letter::purge(work, &batch)).await
    }

    /// Ends an aborting task without its node's word: an operator's, audited decision.
    pub async fn force(&self, batch: Vec<Cancel>) -> Result<Vec<Answer<Task>>> {
        self.step("store.force", move |work| cancel::force(work, &batch)).await
    }
}

/// Passes of the loops: each does a bounded piece and says whether there is more.
impl Store {
    /// Leases that ran out.
    pub async fn lapse_leases(&self) -> Result<Swept> {
        self.pass("store.lapse", sweep::lapse_leases).await
    }

    /// Tasks that nobody leased in time.
    pub async fn expire_queued(&self) -> Result<Swept> {
        self.pass("store.expire", sweep::expire_queued).await
    }

    /// Tasks that ran too long.
    pub async fn expire_running(&self) -> Result<Swept> {
        self.pass("store.expire", sweep::expire_running).await
    }

    /// Nodes that fell silent.
    pub async fn judge_nodes(&self) -> Result<Swept> {
        self.pass("store.judge", sweep::judge_nodes).await
    }

    /// Machines that wait for a node with room.
    pub async fn place_waiting(&self) -> Result<Swept> {
        self.pass("store.place", waiting::place_waiting).await
    }

    /// Nodes that are being drained.
    pub async fn drain_nodes(&self) -> Result<Swept> {
        self.pass("store.drain", drain::drain_nodes).await
    }

    /// Machines whose time is over.
    pub async fn expire_vms(&self) -> Result<Swept> {
        self.pass("store.expire", expire::expire_vms).await
    }

    /// Machines that are to be started by themselves.
    pub async fn restart_vms(&self) -> Result<Swept> {
        self.pass("store.restart", restart::restart_vms).await
    }

    /// Minutes of statistics that are no longer told one by one.
    pub async fn fold_stats(&self) -> Result<Swept> {
        self.pass("store.forget", sweep::fold_stats).await
    }

    /// Idempotency keys of 24 hours ago whose task ended.
    pub async fn drop_idempotency_keys(&self) -> Result<Swept> {
        self.pass("store.forget", sweep::drop_idempotency_keys).await
    }

    /// Removes what ended longer ago than it is kept for: the piece of a walk that begins behind that row. A piece
    /// is so small that others hardly wait for it.
    pub async fn forget(&self, old: Old, after: Option<Uuid>) -> Result<Forgotten> {
        self.step("store.forget", move |work| forget::forget(work, old, after)).await
    }

    /// How long what has ended is kept; `None`: for ever.
    pub fn history(&self) -> Option<Duration> {
        self.0.context.timing.history
    }

    /// One pass, and word that this process is running. Where nothing goes on before a new epoch has begun, it begins here.
    async fn pass(&self, label: &'static str, pass: Pass) -> Result<Swept> {
        if self.0.context.db.moved().is_some() {
            self.follow_timeline().await?;
        }
        self.step(label, move |work| {
            work.context.service.pass(work.now, work.context.timing.lease);
            pass(work)
        })
        .await
    }
}

/// Records.
impl Store {
    /// Says whose certificates and signatures go with what is stored: the first server's, and then only the same. One
    /// with others would make what no agent believes.
    pub async fn claim(&self, mark: String) -> Result<bool> {
        self.step("store.claim", move |work| match log::mark(work.tx)? {
            Some(known) => Ok(known == mark),
            None => {
                log::set_mark(work.tx, &mark)?;
                work.audit(&Actor::system(), None, "store", "store.claim", Uuid::nil(), json!({"mark": mark}));
                Ok(true)
            }
        })
        .await
    }

    /// The database was restored: what was done since it was saved is not in it, and a new epoch begins.
    pub async fn restored(&self) -> Result<u32> {
        self.step("store.restored", move |work| {
            if let Some(now) = work.context.db.timeline() {
                timeline::record(work.tx, &now)?;
            }
            restored::restored(work)
        })
        .await
    }

    /// Where the database was promoted or put back in time since the store was last at work there, a new epoch begins, whose
    /// number is the answer. To be asked before anybody is served; later the loops' passes do.
    pub async fn follow_timeline(&self) -> Result<Option<u32>> {
        let context = &self.0.context;
        if let Some(epoch) = context.adopt("store.timeline", timeline::follow).await? {
            return Ok(epoch);
        }
        match context.db.timeline() {
            Some(now) => self.step("store.timeline", move |work| timeline::follow(work, &now)).await,
            None => Ok(None),
        }
    }

    /// Writes a join token down, and says until when it is good.
    pub async fn create_join_token(&self, token: NewJoinToken) -> Result<Timestamp> {
        self.step("store.token", move |work| {
            let expires_at = token::insert_join(work.tx, &token, work.now)?;
            let data = json!({"node_name": token.node_name, "expires_at": expires_at, "approve": token.approve});
            work.audit(&token.actor, None, "join_token", "join_token.create", token.id.0, data);
            Ok(expires_at)
        })
        .await
    }

    /// Joins that were refused though their tokens are known are in the audit.
    pub async fn refused_joins(&self, refused: Vec<RefusedJoin>) -> Result<()> {
        self.step("store.denied", move |work| {
            refused.iter().for_each(|refused| work.refuse_join(refused));
            Ok(())
        })
        .await
    }

    /// Lets a node in, or in again.
    pub async fn join(&self, node: JoinNode) -> Result<Answer<Node>> {
        self.step("store.join", move |work| join::join(work, &node)).await
    }

    /// Keeps a certificate that was made for a node: results are verified by it.
    pub async fn keep_certificate(&self, certificate: NodeCertificate) -> Result<()> {
        self.step("store.join", move |work| proof::keep(work.tx, &certificate, work.now, work.context.timing.history))
            .await
    }

    /// Notes that a node asks for its next certificate; `late`: the one that it has is over.
    pub async fn renew_node(
        &self,
        node: NodeId,
        enrolment: EnrolmentId,
        late: bool,
        origin: RequestOrigin,
        certificate: NodeCertificate,
    ) -> Result<Answer<()>> {
        self.step("store.join", move |work| join::renew(work, node, enrolment, late, origin, &certificate)).await
    }

    /// What an operator does to a node.
    pub async fn change_node(&self, node: NodeId, event: NodeEvent, actor: Actor) -> Result<Answer<Node>> {
        self.step("store.node", move |work| join::change(work, node, event, &actor)).await
    }

    /// Edits a node's record. `if_match`: the generations that it may have; `None`: any.
    pub async fn edit_node(
        &self,
        node: NodeId,
        patch: NodePatch,
        if_match: Option<Vec<u32>>,
        actor: Actor,
    ) -> Result<Answer<Node>> {
        self.step("store.node", move |work| join::edit(work, node, &patch, if_match.as_deref(), &actor)).await
    }

    /// Makes a node's certificate good for nothing.
    pub async fn revoke_node(&self, node: NodeId, actor: Actor) -> Result<Answer<Node>> {
        self.step("store.node", move |work| join::revoke(work, node, &actor)).await
    }

    /// Removes a node, or says what keeps it; `dry_run`: answers the same and changes nothing.
    pub async fn remove_node(
        &self,
        node: NodeId,
        force: Force,
        dry_run: bool,
        actor: Actor,
    ) -> Result<Answer<Removal>> {
        self.step("store.node", move |work| remove::remove(work, node, force, dry_run, &actor)).await
    }

    /// Pauses or resumes a node's queue.
    pub async fn queue_node(&self, node: NodeId, queue: Queue, actor: Actor) -> Result<Answer<Node>> {
        self.step("store.node", move |work| join::queue(work, node, queue, &actor)).await
    }

    /// Edits a machine: its record at once, its host by a task.
    pub async fn edit_vm(&self, edit: Submission) -> Result<Answer<Edited>> {
        self.step("store.vm", move |work| edit::edit(work, &edit)).await
    }
}

/// Queries: of what was committed.
impl Store {
    /// One task.
    pub async fn task(&self, id: TaskId) -> Result<Option<Task>> {
        let now = self.now();
        self.read(move |tx| task::one(tx, id, now)).await
    }

    /// What proves the end of a task's last attempt that was reported.
    pub async fn task_proof(&self, id: TaskId) -> Result<Option<TaskProof>> {
        self.read(move |tx| proof::of_task(tx, id)).await
    }

    /// Lines of a task's log with a number above `after`, oldest first.
    pub async fn task_log(&self, id: TaskId, after: i64, limit: usize) -> Result<Vec<Line>> {
        self.read(move |tx| task_log::after(tx, id, after, limit)).await
    }

    /// Newest first; `before` is the last id of the page before.
    pub async fn tasks(&self, filter: TaskFilter, before: Option<TaskId>, limit: usize) -> Result<Vec<Task>> {
        let now = self.now();
        self.read(move |tx| task::list(tx, &filter, before, limit, now)).await
    }

    /// One machine, deleted or not.
    pub async fn vm(&self, id: VmId) -> Result<Option<Vm>> {
        self.read(move |tx| Ok(vm::by_ids(tx, &[id])?.pop().map(|row| row.vm))).await
    }

    /// Among those that are not deleted.
    pub async fn vm_by_name(&self, tenant: TenantId, name: Name) -> Result<Option<Vm>> {
        self.read(move |tx| Ok(vm::by_names(tx, &[(tenant, name)])?.pop().map(|row| row.vm))).await
    }

    /// Newest first; `before` is the last id of the page before.
    pub async fn vms(&self, filter: VmFilter, before: Option<VmId>, limit: usize) -> Result<Vec<Vm>> {
        self.read(move |tx| vm::list(tx, &filter, before, limit)).await
    }

    /// One snapshot, deleted or not.
    pub async fn snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>> {
        self.read(move |tx| Ok(snapshot::by_ids(tx, &[id])?.pop().map(|row| row.snapshot))).await
    }

    /// The machine's snapshot of this name, among those that are not deleted.
    pub async fn snapshot_by_name(&self, vm: VmId, name: Name) -> Result<Option<Snapshot>> {
        self.read(move |tx| snapshot::by_name(tx, vm, &name)).await
    }

    /// Newest first; `before` is the last id of the page before.
    pub async fn snapshots(
        &self,
        filter: SnapshotFilter,
        before: Option<SnapshotId>,
        limit: usize,
    ) -> Result<Vec<Snapshot>> {
        self.read(move |tx| snapshot::list(tx, &filter, before, limit)).await
    }

    /// One node.
    pub async fn node(&self, id: NodeId) -> Result<Option<Node>> {
        let usual = self.0.context.placement.overcommit;
        self.read(move |tx| Ok(node::by_ids(tx, &[id], &usual)?.pop().map(|row| row.node))).await
    }

    /// The node of this name.
    pub async fn node_by_name(&self, name: Name) -> Result<Option<Node>> {
        let usual = self.0.context.placement.overcommit;
        self.read(move |tx| Ok(node::by_name(tx, &name, &usual)?.map(|row| row.node))).await
    }

    /// The join token whose sha256, in hex, this is.
    pub async fn join_token(&self, hash: String) -> Result<Option<KnownJoinToken>> {
        self.read(move |tx| token::join(tx, &hash)).await
    }

    /// The nodes whose certificates are good for nothing: those that were revoked, or removed.
    pub async fn revoked_nodes(&self) -> Result<Vec<NodeId>> {
        self.read(node::revoked).await
    }

    /// What is left on a node: machines, and tasks that have not ended.
    pub async fn left_on(&self, node: NodeId) -> Result<(Vec<Vm>, Vec<Task>)> {
        self.read(move |tx| drain::left(tx, node)).await
    }

    /// Every node, by name.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let usual = self.0.context.placement.overcommit;
        self.read(move |tx| Ok(node::all(tx, &usual)?.into_iter().map(|row| row.node).collect())).await
    }

    /// A text that is kept apart from a task, and whose it is, for the node that holds its lease; nothing for anybody else.
    pub async fn reveal(&self, wanted: Reveal) -> Result<Option<(TenantId, String)>> {
        self.read(move |tx| secret::reveal(tx, &wanted)).await
    }

    /// The texts that are kept apart from a task: for the task that repeats it.
    pub async fn secrets(&self, task: TaskId) -> Result<Vec<Secret>> {
        self.read(move |tx| secret::of_task(tx, task)).await
    }

    /// Entries with a number above `after`, oldest first.
    pub async fn log(&self, filter: LogFilter, after: i64, limit: usize) -> Result<Vec<Entry>> {
        self.read(move |tx| log::after(tx, &filter, after, limit)).await
    }

    /// The last log entry's number.
    pub async fn log_head(&self) -> Result<i64> {
        self.read(|tx| Ok(log::head(tx)?.seq)).await
    }

    /// What waits, what is under way, and what happened lately.
    pub async fn task_stats(&self, of: StatsFilter) -> Result<TaskStats> {
        let now = self.now();
        self.read(move |tx| task::stats::read(tx, &of, now)).await
    }

    /// Gauges for `/metrics`.
    pub async fn gauges(&self) -> Result<Gauges> {
        let now = self.now();
        self.read(move |tx| gauges::read(tx, now)).await
    }

    /// Recomputes both books and the chain and compares.
    pub async fn doctor(&self) -> Result<Diagnosis> {
        self.read(doctor::examine).await
    }
}
