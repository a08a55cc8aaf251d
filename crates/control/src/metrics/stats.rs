//! Statistics of tasks, as Prometheus reads them: by kind, never by tenant or node, of which there may be many.

use std::{collections::BTreeMap, fmt, sync::atomic::AtomicU64};

use hostler_model::{
    kind::KindName,
    stats::{TaskStats, What},
};
use hostler_store::Counter;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::Gauge},
    registry::Registry,
};

use super::family;

/// Upper bounds in milliseconds, each a bound of the steps by which times are counted: of those dozens, as many as are
/// worth a series each.
const BOUNDS: [u64; 14] =
    [4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28];

/// What there is now.
pub(super) fn tasks(registry: &mut Registry, stats: &TaskStats) {
    let states = stats.kinds.iter().flat_map(|of| {
        let (kind, figures) = (of.kind.as_str(), &of.figures);
        [("queued", figures.queued), ("running", figures.running), ("aborting", figures.aborting)]
            .map(|(state, n)| (vec![("state", state), ("kind", kind)], n))
    });
    family(registry, "tasks", "Tasks that have not ended", states.filter(|(_, n)| *n > 0));
    let dead = stats.kinds.iter().map(|of| (vec![("kind", of.kind.as_str())], of.figures.dead_letters));
    family(registry, "dead_letters", "Tasks that were given up and wait for a decision", dead.filter(|(_, n)| *n > 0));
    let waiting = stats.total.waiting_for;
    let waiting = [
        ("time", waiting.time),
        ("turn", waiting.turn),
        ("node", waiting.node),
        ("paused", waiting.paused),
        ("capacity", waiting.capacity),
    ];
    let waiting = waiting.into_iter().map(|(what, n)| (vec![("for", what)], n));
    family(registry, "tasks_waiting", "Queued tasks, by what they wait for", waiting);
    let age: Gauge<f64, AtomicU64> = Gauge::default();
    age.set(stats.total.oldest_queued_seconds.unwrap_or_default());
    registry.register("oldest_queued_seconds", "Age of the oldest queued task that could run", age);
}

/// What was counted since the store was made.
#[derive(Debug)]
pub(super) struct Counted {
    events: BTreeMap<(What, KindName), u64>,
    wait: BTreeMap<KindName, Times>,
    run: BTreeMap<KindName, Times>,
}

/// How many took how long.
#[derive(Clone, Debug, Default)]
struct Times {
    seconds: f64,
    tasks: u64,
    /// One for each of [`BOUNDS`], and one for what took longer.
    steps: [u64; BOUNDS.len() + 1],
}

impl Counted {
    pub(super) fn of(counters: &[Counter]) -> Counted {
        let mut counted = Counted { events: BTreeMap::new(), wait: BTreeMap::new(), run: BTreeMap::new() };
        for counter in counters {
            let tasks = u64::try_from(counter.tasks).unwrap_or_default();
            *counted.events.entry((counter.what, counter.kind)).or_default() += tasks;
            let times = if counter.what.waited() { &mut counted.wait } else { &mut counted.run };
            if let Some((_, below)) = counter.took.bounds() {
                let times = times.entry(counter.kind).or_default();
                let step = BOUNDS.iter().position(|bound| below <= *bound).unwrap_or(BOUNDS.len());
                times.steps[step] += tasks;
                times.tasks += tasks;
                times.seconds += counter.ms as f64 / 1000.0;
            }
        }
        counted
    }
}

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "task_events",
            "What happened to tasks, since the store was made.",
            None,
            MetricType::Counter,
        )?;
        for ((what, kind), tasks) in &self.events {
            let labels = [("what", what.as_str()), ("kind", kind.as_str())];
            ConstCounter::new(*tasks).encode(metric.encode_family(&labels)?)?;
        }
        times(&mut encoder, "task_wait_seconds", "How long attempts waited since their time came.", &self.wait)?;
        times(&mut encoder, "task_run_seconds", "How long tasks took from their first attempt to their end.", &self.run)
    }
}

fn times(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, of: &BTreeMap<KindName, Times>) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (kind, times) in of {
        times.encode(metric.encode_family(&[("kind", kind.as_str())])?)?;
    }
    Ok(())
}

impl EncodeMetric for Times {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS.iter().map(|ms| *ms as f64 / 1000.0).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.steps).collect();
        encoder.encode_histogram::<NoLabelSet>(self.seconds, self.tasks, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
