//! The store's face: one method per step and per query.

use std::path::Path;

use hostler_model::{
    Clock, Ids, ImageDigest, NodeId, TaskId, TenantId, Timestamp, VmId,
    api::{Diagnosis, Quota},
    event::{Actor, Entry},
    image::{Image, Manifest},
    internal::{HeartbeatAnswer, ProgressAnswer, Receipt},
    name::Name,
    node::{Node, NodeEvent},
    task::Task,
    vm::Vm,
};
use hostler_sqlite::Mode;

use crate::{
    Accepted, Answer, Beat, Caller, Cancel, Claim, Gauges, JoinNode, Leased, LogFilter, NewApiToken, NewJoinToken,
    Progressed, Result, Settle, Submission, Swept, TaskFilter, Timing, VmFilter, Wakes,
};

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
}

/// Every durable fact. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Store {
    pub fn open(path: &Path, config: Config) -> Result<Store> {
        todo!()
    }
    /// Hints about what changed; every step sends one after its commit. A receiver that lags has missed only hints.
    pub fn wakes(&self) -> tokio::sync::broadcast::Receiver<Wakes> {
        todo!()
    }

    // Steps. Each takes a batch and answers each item by itself, in order.
    pub async fn submit(&self, batch: Vec<Submission>) -> Result<Vec<Answer<Accepted>>> {
        todo!()
    }
    pub async fn lease(&self, batch: Vec<Claim>) -> Result<Vec<Answer<Vec<Leased>>>> {
        todo!()
    }
    pub async fn progress(&self, batch: Vec<Progressed>) -> Result<Vec<Answer<ProgressAnswer>>> {
        todo!()
    }
    pub async fn heartbeat(&self, batch: Vec<Beat>) -> Result<Vec<Answer<HeartbeatAnswer>>> {
        todo!()
    }
    pub async fn settle(&self, batch: Vec<Settle>) -> Result<Vec<Answer<Receipt>>> {
        todo!()
    }
    pub async fn cancel(&self, batch: Vec<Cancel>) -> Result<Vec<Answer<Task>>> {
        todo!()
    }
    /// Ends an aborting task without its node's word: an operator's, audited decision.
    pub async fn force(&self, batch: Vec<Cancel>) -> Result<Vec<Answer<Task>>> {
        todo!()
    }

    // Passes of the loops: each does a bounded piece and says whether there is more.
    pub async fn lapse_leases(&self) -> Result<Swept> {
        todo!()
    }
    pub async fn expire_queued(&self) -> Result<Swept> {
        todo!()
    }
    pub async fn expire_running(&self) -> Result<Swept> {
        todo!()
    }
    pub async fn judge_nodes(&self) -> Result<Swept> {
        todo!()
    }
    pub async fn drop_idempotency_keys(&self) -> Result<Swept> {
        todo!()
    }

    // Records.
    pub async fn create_join_token(&self, token: NewJoinToken) -> Result<()> {
        todo!()
    }
    pub async fn join(&self, join: JoinNode) -> Result<Answer<Node>> {
        todo!()
    }
    pub async fn change_node(&self, node: NodeId, event: NodeEvent, actor: Actor) -> Result<Answer<Node>> {
        todo!()
    }
    pub async fn create_api_token(&self, token: NewApiToken) -> Result<()> {
        todo!()
    }
    pub async fn authenticate(&self, token_hash: String) -> Result<Option<Caller>> {
        todo!()
    }
    pub async fn put_image(&self, tenant: TenantId, manifest: Manifest, actor: Actor) -> Result<Image> {
        todo!()
    }

    // Queries.
    pub async fn task(&self, id: TaskId) -> Result<Option<Task>> {
        todo!()
    }
    /// Newest first; `before` is the last id of the page before.
    pub async fn tasks(&self, filter: TaskFilter, before: Option<TaskId>, limit: usize) -> Result<Vec<Task>> {
        todo!()
    }
    pub async fn vm(&self, id: VmId) -> Result<Option<Vm>> {
        todo!()
    }
    /// Among those that are not deleted.
    pub async fn vm_by_name(&self, tenant: TenantId, name: Name) -> Result<Option<Vm>> {
        todo!()
    }
    pub async fn vms(&self, filter: VmFilter, before: Option<VmId>, limit: usize) -> Result<Vec<Vm>> {
        todo!()
    }
    pub async fn node(&self, id: NodeId) -> Result<Option<Node>> {
        todo!()
    }
    pub async fn node_by_name(&self, name: Name) -> Result<Option<Node>> {
        todo!()
    }
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        todo!()
    }
    pub async fn image_by_name(&self, tenant: TenantId, name: String) -> Result<Option<Image>> {
        todo!()
    }
    pub async fn image(&self, digest: ImageDigest) -> Result<Option<Image>> {
        todo!()
    }
    pub async fn images(&self, tenant: TenantId) -> Result<Vec<Image>> {
        todo!()
    }
    /// Entries with a number above `after`, oldest first.
    pub async fn log(&self, filter: LogFilter, after: i64, limit: usize) -> Result<Vec<Entry>> {
        todo!()
    }
    pub async fn log_head(&self) -> Result<i64> {
        todo!()
    }
    pub async fn quota(&self, tenant: TenantId) -> Result<Quota> {
        todo!()
    }
    pub async fn gauges(&self) -> Result<Gauges> {
        todo!()
    }
    /// Recomputes both books and the chain and compares.
    pub async fn doctor(&self) -> Result<Diagnosis> {
        todo!()
    }
    /// Now, by the clock that was handed in.
    pub fn now(&self) -> Timestamp {
        todo!()
    }
}
