//! Statistics of tasks: what waits and what is under way now, what happened in the last minutes, how long it took.
//!
//! ```text
//! what there is ─────────────────────────────┐
//! what a step did ──► counted by the minute ─┴─► facts ──► figures: of all, of each kind, of each node
//! ```
//!
//! What is there now is looked at; what has happened is never looked for in the history, but was counted as it happened.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    id::NodeId,
    kind::KindName,
    name::Name,
    task::{TaskState, WaitingFor},
};

/// What is told: the minute under way and so many before it.
pub const WINDOWS: [u32; 3] = [1, 5, 60];
/// In a minute.
const MICROS: i64 = 60_000_000;

/// The minute of a moment, counted from the Unix epoch.
pub const fn minute(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(MICROS)
}

/// The first minute of a window that ends now.
pub const fn first_minute(window: u32, now: Timestamp) -> i64 {
    minute(now) - window as i64
}

/// Something that happens to a task and is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It was written down.
    Submitted,
    /// An attempt began: a node got it leased, to do it.
    Started,
    /// It is to be tried again: its lease lapsed, or a failure may pass.
    Retried,
    /// It ended well.
    Succeeded,
    /// It failed.
    Failed,
    /// It was stopped.
    Cancelled,
}

impl What {
    /// All of them.
    pub const ALL: [What; 6] =
        [What::Submitted, What::Started, What::Retried, What::Succeeded, What::Failed, What::Cancelled];

    /// As the store and metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            What::Submitted => "submitted",
            What::Started => "started",
            What::Retried => "retried",
            What::Succeeded => "succeeded",
            What::Failed => "failed",
            What::Cancelled => "cancelled",
        }
    }

    /// Whether what took its time was the waiting; of an end it is the running.
    pub const fn waited(self) -> bool {
        matches!(self, What::Started)
    }

    /// The end of a task in this state, if it is one.
    pub const fn end(state: TaskState) -> Option<What> {
        match state {
            TaskState::Succeeded => Some(What::Succeeded),
            TaskState::Failed => Some(What::Failed),
            TaskState::Cancelled => Some(What::Cancelled),
            TaskState::Queued | TaskState::Running | TaskState::Aborting => None,
        }
    }
}

/// About how long something took: one of a few dozen steps, each a third to a half longer than the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Took(u8);

impl Took {
    /// Nobody knows, or there is nothing to know.
    pub const UNKNOWN: Took = Took(0);
    /// The longest step: 49 days and more. A task takes 30 at most.
    const MOST: u8 = 65;

    /// The step of a time.
    pub fn of(time: Duration) -> Took {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let passed = (0..Took::MOST - 1).take_while(|step| bound(*step) <= ms).count();
        Took(u8::try_from(passed).unwrap_or(u8::MAX) + 1)
    }

    /// By its number; one that is too large is the longest.
    pub const fn from_number(number: u8) -> Took {
        Took(if number > Took::MOST { Took::MOST } else { number })
    }

    /// Its number, as the store keeps it.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// From how many milliseconds on, and below how many; nothing for what is not known.
    pub fn bounds(self) -> Option<(u64, u64)> {
        match self.0 {
            0 => None,
            1 => Some((0, bound(0))),
            n => Some((bound(n - 2), bound(n - 1))),
        }
    }
}

/// 1, 2, 3, 4, 6, 8, 12, 16, 24 … milliseconds.
const fn bound(step: u8) -> u64 {
    match (step, step % 2) {
        (0, _) => 1,
        (_, 1) => 1 << step.div_ceil(2),
        (_, _) => 3 << (step / 2 - 1),
    }
}

/// How many took how long.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Times(BTreeMap<Took, i64>);

impl Times {
    fn add(&mut self, took: Took, tasks: i64) {
        if took != Took::UNKNOWN && tasks > 0 {
            *self.0.entry(took).or_default() += tasks;
        }
    }

    fn spread(&self) -> Option<Spread> {
        let tasks: i64 = self.0.values().sum();
        (tasks > 0).then(|| Spread { tasks, p50_seconds: self.at(tasks, 0.5), p95_seconds: self.at(tasks, 0.95) })
    }

    /// How long the fastest of so many took at most: within its step, as if all of the step were evenly apart.
    fn at(&self, tasks: i64, part: f64) -> f64 {
        let mut rank = tasks as f64 * part;
        let mut most = 0.0;
        for (took, n) in &self.0 {
            let (n, (from, to)) = (*n as f64, took.bounds().unwrap_or_default());
            most = to as f64;
            if rank <= n {
                return (from as f64 + (most - from as f64) * rank / n) / 1000.0;
            }
            rank -= n;
        }
        most / 1000.0
    }
}

/// One thing that is known of the tasks of one kind on one node.
#[derive(Clone, PartialEq, Debug)]
pub struct Fact {
    /// Of which kind.
    pub kind: KindName,
    /// On which node.
    pub node: Option<NodeId>,
    /// What.
    pub known: Known,
}

/// What is known.
#[derive(Clone, PartialEq, Debug)]
pub enum Known {
    /// So many have not ended.
    Live {
        /// Where they stand.
        state: TaskState,
        /// What they wait for.
        waiting_for: Option<WaitingFor>,
        /// How many.
        tasks: i64,
        /// Since when the first of them might have been leased.
        since: Timestamp,
    },
    /// So many were given up, and wait for somebody to decide.
    Dead(i64),
    /// This happened so many times in each window.
    Counted {
        /// What.
        what: What,
        /// After about so long.
        took: Took,
        /// In each of [`WINDOWS`].
        tasks: [i64; WINDOWS.len()],
    },
}

/// Statistics of tasks: `GET /tasks/stats`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskStats {
    /// When they were made.
    pub at: Timestamp,
    /// Of all that was asked for.
    pub total: Figures,
    /// Of each kind of which there is something to tell.
    pub kinds: Vec<KindFigures>,
    /// Of each node of which there is something to tell.
    pub nodes: Vec<NodeFigures>,
}

/// Of one kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KindFigures {
    /// Which.
    #[schema(value_type = String)]
    pub kind: KindName,
    /// What of it.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Of one node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeFigures {
    /// Which.
    pub node: NodeId,
    /// Its name; absent for one that is not there any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whether its queue is paused.
    #[serde(default)]
    pub paused: bool,
    /// What of it.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What is told of some tasks.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Figures {
    /// How many are queued.
    pub queued: i64,
    /// What those wait for.
    pub waiting_for: Waiting,
    /// How long the first of those that are queued has been waiting since its time came; absent where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_queued_seconds: Option<f64>,
    /// How many nodes are at work on.
    pub running: i64,
    /// How many are to be stopped and undone.
    pub aborting: i64,
    /// How many were given up, and wait for somebody to decide.
    pub dead_letters: i64,
    /// What happened lately: in the last minute, in five, in sixty.
    pub last: Vec<Window>,
    /// How long attempts that began in the last hour had waited since their time came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Spread>,
    /// How long tasks that ended in the last hour took, from the beginning of their first attempt; those that never began
    /// are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Spread>,
}

/// What queued tasks wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Waiting {
    /// Their backoff, or `not_before`.
    pub time: i64,
    /// An earlier task on the same VM.
    pub turn: i64,
    /// Their node to fetch them.
    pub node: i64,
    /// An operator to resume their node's queue.
    pub paused: i64,
    /// A node that has room.
    #[serde(default)]
    pub capacity: i64,
}

/// What happened in the minute under way and so many before it.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Window {
    /// How many whole minutes.
    pub minutes: u32,
    /// With the minute under way, in seconds: what a rate is made with.
    pub seconds: f64,
    /// Tasks that were written down.
    pub submitted: i64,
    /// Attempts that began.
    pub started: i64,
    /// Attempts that are to be followed by another.
    pub retried: i64,
    /// Tasks that ended well.
    pub succeeded: i64,
    /// Tasks that failed.
    pub failed: i64,
    /// Tasks that were stopped.
    pub cancelled: i64,
}

impl Window {
    fn add(&mut self, what: What, tasks: i64) {
        *match what {
            What::Submitted => &mut self.submitted,
            What::Started => &mut self.started,
            What::Retried => &mut self.retried,
            What::Succeeded => &mut self.succeeded,
            What::Failed => &mut self.failed,
            What::Cancelled => &mut self.cancelled,
        } += tasks;
    }
}

/// How times are spread. They are known to a third.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Spread {
    /// Of how many.
    pub tasks: i64,
    /// Half of them took no longer.
    pub p50_seconds: f64,
    /// Of twenty, nineteen took no longer.
    pub p95_seconds: f64,
}

/// Figures that are being added up.
struct Sums {
    figures: Figures,
    wait: Times,
    run: Times,
}

impl Sums {
    fn new(now: Timestamp) -> Sums {
        let window = |minutes: u32| {
            let first = Timestamp::from_micros(first_minute(minutes, now) * MICROS);
            Window { minutes, seconds: now.since(first).as_secs_f64(), ..Window::default() }
        };
        let last = WINDOWS.map(window).to_vec();
        Sums { figures: Figures { last, ..Figures::default() }, wait: Times::default(), run: Times::default() }
    }

    fn add(&mut self, known: &Known, now: Timestamp) {
        match *known {
            Known::Live { state, waiting_for, tasks, since } => self.add_live(state, waiting_for, tasks, since, now),
            Known::Dead(tasks) => self.figures.dead_letters += tasks,
            Known::Counted { what, took, tasks } => {
                for (window, tasks) in self.figures.last.iter_mut().zip(tasks) {
                    window.add(what, tasks);
                }
                let times = if what.waited() { &mut self.wait } else { &mut self.run };
                times.add(took, tasks[tasks.len() - 1]);
            }
        }
    }

    fn add_live(&mut self, state: TaskState, waits: Option<WaitingFor>, tasks: i64, since: Timestamp, now: Timestamp) {
        let figures = &mut self.figures;
        match state {
            TaskState::Queued => figures.queued += tasks,
            TaskState::Running => figures.running += tasks,
            TaskState::Aborting => figures.aborting += tasks,
            TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => return,
        }
        let Some(waits) = waits else { return };
        let waiting = &mut figures.waiting_for;
        *match waits {
            WaitingFor::Time => &mut waiting.time,
            WaitingFor::Turn => &mut waiting.turn,
            WaitingFor::Capacity => &mut waiting.capacity,
            WaitingFor::Node => &mut waiting.node,
            WaitingFor::Paused => &mut waiting.paused,
        } += tasks;
        if waits != WaitingFor::Time {
            let waited = now.since(since).as_secs_f64();
            figures.oldest_queued_seconds = Some(figures.oldest_queued_seconds.map_or(waited, |most| most.max(waited)));
        }
    }

    fn figures(self) -> Figures {
        Figures { wait: self.wait.spread(), run: self.run.spread(), ..self.figures }
    }
}

impl TaskStats {
    /// What some facts come to.
    pub fn of(now: Timestamp, facts: &[Fact]) -> TaskStats {
        let mut total = Sums::new(now);
        let (mut kinds, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        for fact in facts {
            total.add(&fact.known, now);
            kinds.entry(fact.kind).or_insert_with(|| Sums::new(now)).add(&fact.known, now);
            if let Some(node) = fact.node {
                nodes.entry(node).or_insert_with(|| Sums::new(now)).add(&fact.known, now);
            }
        }
        let of_node =
            |(node, sums): (NodeId, Sums)| NodeFigures { node, name: None, paused: false, figures: sums.figures() };
        TaskStats {
            at: now,
            total: total.figures(),
            kinds: kinds.into_iter().map(|(kind, sums)| KindFigures { kind, figures: sums.figures() }).collect(),
            nodes: nodes.into_iter().map(of_node).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_030_000_000);

    #[test]
    fn a_time_falls_into_the_step_whose_bounds_are_around_it() {
        for ms in (0..5000).chain([86_400_000, 1 << 32, u64::MAX / 1000]) {
            let took = Took::of(Duration::from_millis(ms));
            let (from, to) = took.bounds().unwrap();
            assert!(from <= ms && (ms < to || took.number() == Took::MOST), "{ms}: {from} to {to}");
            assert_eq!(Took::from_number(took.number()), took);
        }
        assert_eq!(Took::UNKNOWN.bounds(), None);
    }

    #[test]
    fn a_spread_is_within_the_step_that_it_falls_into() {
        let mut times = Times::default();
        assert_eq!(times.spread(), None);
        times.add(Took::UNKNOWN, 7);
        assert_eq!(times.spread(), None, "what was not measured is not counted");
        for ms in 1..=1000 {
            times.add(Took::of(Duration::from_millis(ms)), 1);
        }
        let spread = times.spread().unwrap();
        assert_eq!(spread.tasks, 1000);
        assert!((0.49..0.51).contains(&spread.p50_seconds), "{spread:?}");
        assert!((0.94..1.03).contains(&spread.p95_seconds), "{spread:?}");
    }

    fn fact(kind: KindName, node: u128, known: Known) -> Fact {
        Fact { kind, node: Some(uuid::Uuid::from_u128(node).into()), known }
    }

    #[test]
    fn facts_are_added_up_for_all_for_each_kind_and_for_each_node() {
        let live = |state, waiting_for, tasks, ago: i64| Known::Live {
            state,
            waiting_for,
            tasks,
            since: Timestamp::from_micros(NOW.as_micros() - ago * 1_000_000),
        };
        let counted = |what, ms, tasks| Known::Counted { what, took: Took::of(Duration::from_millis(ms)), tasks };
        let stats = TaskStats::of(
            NOW,
            &[
                fact(KindName::Echo, 1, live(TaskState::Queued, Some(WaitingFor::Node), 2, 9)),
                fact(KindName::Echo, 2, live(TaskState::Queued, Some(WaitingFor::Paused), 1, 30)),
                fact(KindName::VmStop, 1, live(TaskState::Queued, Some(WaitingFor::Time), 4, -60)),
                fact(KindName::VmStop, 1, live(TaskState::Running, None, 1, 99)),
                fact(KindName::VmStop, 1, Known::Dead(3)),
                fact(KindName::Echo, 1, counted(What::Started, 5, [1, 2, 3])),
                fact(KindName::Echo, 1, counted(What::Succeeded, 2500, [0, 0, 1])),
            ],
        );
        let total = &stats.total;
        assert_eq!((total.queued, total.running, total.aborting, total.dead_letters), (7, 1, 0, 3));
        assert_eq!(total.waiting_for, Waiting { time: 4, node: 2, paused: 1, ..Waiting::default() });
        assert_eq!(total.oldest_queued_seconds, Some(30.0));
        assert_eq!(total.last.iter().map(|window| window.started).collect::<Vec<_>>(), [1, 2, 3]);
        // 1,700,000,030 is 50 s into its minute.
        assert_eq!(total.last.iter().map(|window| window.seconds).collect::<Vec<_>>(), [110.0, 350.0, 3650.0]);
        assert_eq!((total.wait.unwrap().tasks, total.run.unwrap().tasks), (3, 1));
        let [echo, stop] = &stats.kinds[..] else { panic!("{:?}", stats.kinds) };
        assert_eq!((echo.figures.queued, stop.figures.queued), (3, 4));
        assert_eq!(stop.figures.oldest_queued_seconds, None, "what waits for its time is not old");
        assert_eq!(stats.nodes.iter().map(|node| node.figures.queued).collect::<Vec<_>>(), [6, 1]);
    }
}
