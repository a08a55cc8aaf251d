//! Heartbeats: what the host is, which leases are worked on, which machines are here. One after another, each with
//! what is there when it is sent; one more at once when a machine changes by itself.
//!
//! A heartbeat and a batch of results never cross (`node.turn`): an inventory from before a machine was made would
//! otherwise arrive after the news that it was, and say that it is missing.

use std::{collections::HashSet, sync::PoisonError, time::Duration};

use hostler_model::{
    Ids, SnapshotId, VmId,
    internal::{Heartbeat, HeartbeatAnswer, HeldLease},
};

use tokio::sync::{mpsc, oneshot};

use crate::{agent::Node, backoff::Outage, enrol, facts};

/// Between two of them, where the server does not say.
const EVERY: Duration = Duration::from_secs(5);
/// The server may not ask for more than this many, nor for fewer than keep a node fresh (60 s).
const BOUNDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

type Asked = oneshot::Sender<HeartbeatAnswer>;

/// Asks for heartbeats. Clones share it.
#[derive(Clone, Debug)]
pub struct Beats(mpsc::UnboundedSender<Asked>);

/// Where they are asked for.
pub type Requests = tokio::sync::Mutex<mpsc::UnboundedReceiver<Asked>>;

impl Beats {
    /// With the other end, for [`beat`].
    pub fn new() -> (Beats, Requests) {
        let (ask, asked) = mpsc::unbounded_channel();
        (Beats(ask), asked.into())
    }

    /// One that is sent from now on, with everything that is here then: the server's answer, once it can be had. `None`
    /// when the agent ends.
    pub async fn now(&self) -> Option<HeartbeatAnswer> {
        let (tell, answer) = oneshot::channel();
        self.0.send(tell).ok()?;
        answer.await.ok()
    }
}

/// Sends heartbeats for as long as the agent lives.
pub async fn beat(node: &Node, requests: &Requests, ids: Ids) {
    let mut requests = requests.lock().await;
    let mut waiting: Vec<Asked> = Vec::new();
    let mut outage = Outage::none(ids, "heartbeat");
    let (mut orphans, mut orphan_snapshots, mut doubtful) = (HashSet::new(), HashSet::new(), Vec::new());
    let mut strangers = Vec::new();
    loop {
        match once(node, &strangers).await {
            Ok((held, answer)) => {
                outage.over();
                doubtful = obey(node, &held, &answer, &doubtful);
                report_orphans(&mut orphans, &answer.orphans);
                strangers.clone_from(&answer.orphans);
                report_orphan_snapshots(&mut orphan_snapshots, &answer.orphan_snapshots);
                for asked in waiting.drain(..) {
                    // Who asked may have gone.
                    drop(asked.send(answer.clone()));
                }
                let next = Duration::from_millis(answer.next_ms);
                let next = if next.is_zero() { EVERY } else { next.clamp(BOUNDS.0, BOUNDS.1) };
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(next) => {}
                    () = node.tools.vms.stirred() => {}
                    Some(asked) = requests.recv() => waiting.push(asked),
                }
            }
            Err(error) => outage.pause(&error).await,
        }
    }
}

/// One heartbeat, with more about the machines that the server did not know.
async fn once(node: &Node, strangers: &[VmId]) -> Result<(Vec<HeldLease>, HeartbeatAnswer), hostler_link::LinkError> {
    let facts = facts::current(node).await;
    let _turn = node.turn.lock().await;
    let mut leases = node.works.leases();
    leases.extend(node.outbox.leases());
    let keys = node.trust.read().unwrap_or_else(PoisonError::into_inner).keys.clone();
    let (inventory, refused) = (node.tools.vms.inventory(strangers).await, node.refusals.unsaid());
    let heartbeat = Heartbeat { facts, leases, inventory, keys, refused };
    let answer = node.server.heartbeat(&heartbeat).await?;
    if let Some(said) = heartbeat.refused.clone() {
        node.refusals.said(said);
    }
    if let Some(keys) = &answer.task_keys
        && let Err(error) = enrol::adopt_keys(node, keys)
    {
        tracing::error!(node.id = %node.server.node(), %error, "the server's new keys cannot be used; asking again");
    }
    if let Some(road) = &node.road {
        road.tell(node, &heartbeat);
    }
    Ok((heartbeat.leases, answer))
}

/// Stops what the server wants stopped. An attempt is taken to be over when two heartbeats in a row say so: after the
/// first, a later fence of the same task may be on its way here, under which the work goes on. The answer is what was
/// said once.
fn obey(node: &Node, held: &[HeldLease], answer: &HeartbeatAnswer, doubtful: &[HeldLease]) -> Vec<HeldLease> {
    for task in &answer.abort {
        node.works.abort(*task);
    }
    // Only what was asked about can be over.
    let (over, said_once): (Vec<HeldLease>, Vec<HeldLease>) =
        answer.over.iter().filter(|over| held.contains(over)).partition(|over| doubtful.contains(over));
    over.into_iter().for_each(|held| node.works.over(held));
    said_once
}

/// Says once of each machine that the server does not know it. It is never deleted for that.
fn report_orphans(known: &mut HashSet<VmId>, orphans: &[VmId]) {
    for vm in orphans {
        if known.insert(*vm) {
            tracing::warn!(vm.id = %vm, "this machine is here, but the server does not know it, or knows it as deleted");
        }
    }
    known.retain(|vm| orphans.contains(vm));
}

/// The same of snapshots.
fn report_orphan_snapshots(known: &mut HashSet<SnapshotId>, orphans: &[SnapshotId]) {
    for id in orphans {
        if known.insert(*id) {
            tracing::warn!(snapshot.id = %id, "this snapshot is here, but the server does not know it, or knows it as deleted");
        }
    }
    known.retain(|id| orphans.contains(id));
}
