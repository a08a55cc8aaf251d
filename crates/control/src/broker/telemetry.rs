//! Hears nodes whose agents are somebody else's. Our own agents send their heartbeats over mutual TLS, where they are
//! answered; what they send here is for others to read.

use std::collections::BTreeMap;

use hostler_broker::{BrokerError, Delivery, Session};
use hostler_model::{
    NodeId, Resources,
    broker::{PlainHeartbeat, TELEMETRY_BYTES, TELEMETRY_QUEUE, Transport, glimpse, may_speak},
    internal::{Heartbeat, Inventory},
    node::{Node, NodeFacts},
};
use hostler_store::Beat;

use super::{BATCH, acknowledge, gather, insist};
use crate::app::App;

/// More of anything than one host has: sums of as many as there will ever be stay far from an overflow.
const ABSURD: i64 = 1 << 40;
/// Kinds of task that one node can name.
const CAPABILITIES: usize = 256;

/// Hears until the connection is gone.
pub(super) async fn run(app: &App, session: &Session) -> BrokerError {
    let mut consumer = match session.consume(TELEMETRY_QUEUE, BATCH as u16).await {
        Ok(consumer) => consumer,
        Err(error) => return error,
    };
    while let Some(batch) = gather(&mut consumer).await {
        // Of several of one node the last is news.
        let said: Vec<Said> = batch.iter().filter_map(|delivery| read(app, delivery)).collect();
        let said: BTreeMap<(NodeId, Option<String>), PlainHeartbeat> =
            said.into_iter().map(|(said, user)| ((said.agent_id, user), said)).collect();
        if hear(app, session, said).await.is_none() {
            return BrokerError::Closed;
        }
        if let Err(error) = acknowledge(&batch).await {
            return error;
        }
    }
    BrokerError::Closed
}

/// A heartbeat, and whose it is as far as the broker vouches for it.
type Said = (PlainHeartbeat, Option<String>);

fn read(app: &App, delivery: &Delivery) -> Option<Said> {
    let body = delivery.body.as_slice();
    let read = if body.len() > TELEMETRY_BYTES { None } else { serde_json::from_slice(body).ok() };
    if read.is_none() {
        app.metrics.received(TELEMETRY_QUEUE, "malformed");
        tracing::warn!(bytes = body.len(), begins = glimpse(body), "telemetry that cannot be read was thrown away");
    }
    read.map(|said| (said, delivery.user.clone()))
}

async fn hear(app: &App, session: &Session, said: BTreeMap<(NodeId, Option<String>), PlainHeartbeat>) -> Option<()> {
    let mut beats = Vec::new();
    for ((id, user), said) in said {
        match insist(session, "telemetry", || app.store.node(id)).await? {
            Some(node) if node.transport != Transport::Plain => app.metrics.received(TELEMETRY_QUEUE, "not_plain"),
            Some(node) if !may_speak(node.facts.broker_user.as_deref(), user.as_deref()) => {
                app.metrics.received(TELEMETRY_QUEUE, "identity");
            }
            Some(node) => beats.extend(beat(node, said)),
            None => app.metrics.received(TELEMETRY_QUEUE, "unknown"),
        }
    }
    for answer in insist(session, "telemetry", || app.store.heartbeat(beats.clone())).await? {
        app.metrics.received(TELEMETRY_QUEUE, if answer.is_ok() { "heard" } else { "identity" });
    }
    Some(())
}

fn beat(node: Node, said: PlainHeartbeat) -> Option<Beat> {
    let PlainHeartbeat { capacity, capabilities, version, .. } = said;
    let facts = NodeFacts {
        capacity: capacity.map_or(node.facts.capacity, |said| sane(&said)),
        capabilities: capabilities.map_or(node.facts.capabilities, |mut said| {
            said.truncate(CAPABILITIES);
            said
        }),
        agent_version: version.map_or(node.facts.agent_version, |said| said.chars().take(64).collect()),
        ..node.facts
    };
    let inventory = Inventory::default();
    let heartbeat = Heartbeat { facts, leases: Vec::new(), inventory, keys: String::new(), refused: None };
    Some(Beat { node: node.id, enrolment: node.enrolment?, heartbeat })
}

/// What a host can have.
pub(crate) fn sane(said: &Resources) -> Resources {
    let of = |amount: i64| amount.clamp(0, ABSURD);
    Resources { vcpus: of(said.vcpus), memory_mib: of(said.memory_mib), disk_gib: of(said.disk_gib), vms: of(said.vms) }
}
