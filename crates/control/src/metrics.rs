//! What is counted, and how Prometheus reads it. Gauges come from the store at each scrape, so that no replica and no
//! restart can make them drift. Never here: a label with unbounded values.

mod stats;

use std::time::Duration;

use hostler_model::{amounts::Amounts, refused::Why};
use hostler_store::{Gauges, Old};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use self::stats::{Counted, tasks};
use crate::app::{Error, Result};

/// Upper bounds in seconds, from a durable commit on a fast disk to a long poll.
const LATENCY: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0];
/// Upper bounds of how many went together.
const BATCH: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0];

/// A route and how it answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct LoopName {
    name: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Noun {
    noun: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Received {
    queue: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Reason {
    why: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Sent {
    outcome: &'static str,
}

type Latency = Family<Route, Histogram, fn() -> Histogram>;

/// The server's own counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    latency: Latency,
    polls: Gauge,
    claims: Histogram,
    leased: Counter,
    passes: Family<LoopName, Counter>,
    failures: Family<LoopName, Counter>,
    changes: Family<LoopName, Counter>,
    forgotten: Family<Noun, Counter>,
    connected: Gauge,
    offered: Family<Sent, Counter>,
    received: Family<Received, Counter>,
    refused: Family<Reason, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hostler");
        let latency = Latency::new_with_constructor(|| Histogram::new(LATENCY));
        let mut metrics = Metrics {
            registry: Registry::default(),
            requests: Family::default(),
            latency,
            polls: Gauge::default(),
            claims: Histogram::new(BATCH),
            leased: Counter::default(),
            passes: Family::default(),
            failures: Family::default(),
            changes: Family::default(),
            forgotten: Family::default(),
            connected: Gauge::default(),
            offered: Family::default(),
            received: Family::default(),
            refused: Family::default(),
        };
        let m = &metrics;
        registry.register("http_requests", "Requests by route and status", m.requests.clone());
        registry.register("http_request_seconds", "Time to the answer's head", m.latency.clone());
        registry.register("dispatch_waiting_polls", "Nodes waiting for tasks", m.polls.clone());
        registry.register("dispatch_claims", "Polls that one lease step served", m.claims.clone());
        registry.register("dispatch_leased", "Leases handed out", m.leased.clone());
        registry.register("loop_passes", "Passes by loop", m.passes.clone());
        registry.register("loop_failures", "Passes that failed, by loop", m.failures.clone());
        registry.register("loop_changes", "Rows changed, by loop", m.changes.clone());
        registry.register("history_removed", "What went because it ended long ago, by noun", m.forgotten.clone());
        registry.register("broker_connected", "Whether the message broker is there", m.connected.clone());
        registry.register("broker_offers", "Offers that were sent, by what the broker said", m.offered.clone());
        registry.register("broker_messages", "Messages received, by queue and what became of them", m.received.clone());
        registry.register("agent_refused", "Tasks that agents refused, by reason", m.refused.clone());
        metrics.registry = registry;
        metrics
    }
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, route: &'static str, method: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&Answered { route, method, status }).inc();
        self.latency.get_or_create(&Route { route }).observe(took.as_secs_f64());
    }

    /// This many polls wait.
    pub fn waiting(&self, polls: usize) {
        self.polls.set(i64::try_from(polls).unwrap_or(i64::MAX));
    }

    /// One lease step served this many polls with this many leases.
    pub fn leased(&self, claims: usize, leases: usize) {
        self.claims.observe(claims as f64);
        self.leased.inc_by(leases as u64);
    }

    /// A loop passed; `None` when it failed.
    pub fn passed(&self, name: &'static str, changed: Option<usize>) {
        let name = LoopName { name };
        self.passes.get_or_create(&name).inc();
        match changed {
            Some(changed) => self.changes.get_or_create(&name).inc_by(changed as u64),
            None => self.failures.get_or_create(&name).inc(),
        };
    }

    /// So many went because they ended long ago.
    pub fn forgot(&self, old: Old, removed: usize) {
        self.forgotten.get_or_create(&Noun { noun: old.word() }).inc_by(removed as u64);
    }

    /// Whether the broker is there.
    pub fn broker_connected(&self, there: bool) {
        self.connected.set(i64::from(there));
    }

    /// Offers were sent: so many the broker has, and so many it may not have.
    pub fn offered(&self, confirmed: usize, returned: usize) {
        self.offered.get_or_create(&Sent { outcome: "confirmed" }).inc_by(confirmed as u64);
        self.offered.get_or_create(&Sent { outcome: "returned" }).inc_by(returned as u64);
    }

    /// A message came from the broker.
    pub fn received(&self, queue: &'static str, outcome: &'static str) {
        self.received.get_or_create(&Received { queue, outcome }).inc();
    }

    /// Agents refused tasks.
    pub fn refused(&self, why: Why, count: u64) {
        self.refused.get_or_create(&Reason { why: why.as_str() }).inc_by(count);
    }

    /// Everything, with the store's gauges, in OpenMetrics text.
    pub fn encode(&self, gauges: &Gauges) -> Result<String> {
        let mut out = String::new();
        let encoded = text::encode_registry(&mut out, &self.registry)
            .and_then(|()| text::encode_registry(&mut out, &of_store(gauges)))
            .and_then(|()| text::encode_eof(&mut out));
        encoded.map_err(|_| Error::Fault("the metrics could not be written"))?;
        Ok(out)
    }
}

fn of_store(gauges: &Gauges) -> Registry {
    let mut registry = Registry::with_prefix("hostler");
    tasks(&mut registry, &gauges.tasks);
    registry.register_collector(Box::new(Counted::of(&gauges.counters)));
    let vms = gauges.vms.iter().map(|(state, n)| (vec![("state", state.as_str())], *n));
    family(&mut registry, "vms", "Machines", vms);
    let nodes = gauges.nodes.iter().map(|(s, f, n)| (vec![("state", s.as_str()), ("freshness", f.as_str())], *n));
    family(&mut registry, "nodes", "Nodes", nodes);
    let sides = [("held", gauges.held), ("used", gauges.used)];
    family(&mut registry, "resources", "What is promised and in use", sides.iter().flat_map(side));
    let (waiting, offered) = gauges.outbox;
    let offers = [("waiting", waiting), ("offered", offered)].map(|(state, n)| (vec![("state", state)], n));
    family(&mut registry, "outbox", "Offers that wait to be sent, and that the broker has", offers.into_iter());
    let seq: Gauge = Gauge::default();
    seq.set(gauges.seq);
    registry.register("log_seq", "The log's last number", seq);
    registry
}

fn side((hold, amount): &(&'static str, Amounts)) -> impl Iterator<Item = (Vec<(&'static str, &'static str)>, i64)> {
    let hold = *hold;
    amount.each().into_iter().map(move |(name, n)| (vec![("hold", hold), ("resource", name)], n))
}

fn family(
    registry: &mut Registry,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Vec<(&'static str, &'static str)>, i64)>,
) {
    let family: Family<Vec<(&'static str, &'static str)>, Gauge> = Family::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}
