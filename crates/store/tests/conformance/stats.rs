//! Statistics: what is told of tasks is what there is, and what the log says of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hostler_model::{
    Code, Timestamp,
    event::{Actor, Entry},
    kind::KindName,
    stats::{Figures, TaskStats, Took, WINDOWS, Waiting, What, Window, first_minute},
    task::{Effects, TaskState},
};
use hostler_store::{Queue, StatsFilter, Submission, TaskFilter};
use uuid::Uuid;

use crate::world::{TENANT, World, failed};

async fn stats(world: &World) -> TaskStats {
    world.store.task_stats(StatsFilter::default()).await.unwrap()
}

/// How often something happened to tasks of a kind, ever.
type Counts = BTreeMap<(KindName, What), i64>;

async fn ever(world: &World) -> Counts {
    let mut counts = Counts::new();
    for counter in world.store.gauges().await.unwrap().counters {
        *counts.entry((counter.kind, counter.what)).or_default() += counter.tasks;
    }
    counts
}

/// What an event says that happened to its task. `under_way`: tasks of which an attempt is.
fn said(entry: &Entry, under_way: &mut BTreeSet<Uuid>) -> Option<What> {
    match entry.kind.as_str() {
        "task.queued" => Some(What::Submitted),
        // A lease to undo says why.
        "task.leased" if entry.data.get("reason").is_none() => {
            under_way.insert(entry.subject);
            Some(What::Started)
        }
        // An attempt that lapsed may still say that it failed: it is followed by one other all the same.
        "task.lapsed" | "task.retrying" if entry.data.get("not_before").is_some() => {
            under_way.remove(&entry.subject).then_some(What::Retried)
        }
        "task.succeeded" => Some(What::Succeeded),
        "task.failed" => Some(What::Failed),
        "task.cancelled" => Some(What::Cancelled),
        _ => None,
    }
}

fn count(window: &Window, what: What) -> i64 {
    match what {
        What::Submitted => window.submitted,
        What::Started => window.started,
        What::Retried => window.retried,
        What::Succeeded => window.succeeded,
        What::Failed => window.failed,
        What::Cancelled => window.cancelled,
    }
}

/// Whatever has happened: the counters are what the log says, ever and in each window, and what has not ended is what
/// the lists say.
pub async fn assert_they_are_what_the_log_says(world: &World) {
    let entries = world.entries().await;
    let told = |since: Timestamp| {
        let (mut counts, mut under_way) = (Counts::new(), BTreeSet::new());
        for entry in &entries {
            let said = said(entry, &mut under_way);
            if let Some(what) = said.filter(|_| entry.at >= since) {
                let kind: KindName = entry.data["kind"].as_str().unwrap().parse().unwrap();
                *counts.entry((kind, what)).or_default() += 1;
            }
        }
        counts
    };
    assert_eq!(ever(world).await, told(Timestamp::default()));
    let stats = stats(world).await;
    for (n, minutes) in WINDOWS.into_iter().enumerate() {
        let since = Timestamp::from_micros(first_minute(minutes, world.now()) * 60_000_000);
        let told = told(since);
        for of in &stats.kinds {
            let window = &of.figures.last[n];
            for what in What::ALL {
                let wanted = told.get(&(of.kind, what)).copied().unwrap_or(0);
                assert_eq!(count(window, what), wanted, "{} {what:?} in {minutes} min", of.kind);
            }
        }
        let by_kind: i64 = stats.kinds.iter().map(|of| of.figures.last[n].submitted).sum();
        let by_node: i64 = stats.nodes.iter().map(|of| of.figures.last[n].submitted).sum();
        assert_eq!((by_kind, by_node), (stats.total.last[n].submitted, stats.total.last[n].submitted));
    }
    assert_what_has_not_ended_is_what_the_lists_say(world, &stats.total).await;
}

async fn assert_what_has_not_ended_is_what_the_lists_say(world: &World, total: &Figures) {
    let tasks = world.store.tasks(TaskFilter::default(), None, 10_000).await.unwrap();
    let listed = |state: TaskState| i64::try_from(tasks.iter().filter(|task| task.state == state).count()).unwrap();
    assert_eq!(
        (total.queued, total.running, total.aborting),
        (listed(TaskState::Queued), listed(TaskState::Running), listed(TaskState::Aborting))
    );
    let waits = |word: &str| {
        let waits = tasks.iter().filter_map(|task| task.waiting_for);
        i64::try_from(waits.filter(|what| serde_json::to_value(what).unwrap() == word).count()).unwrap()
    };
    let waiting = Waiting {
        time: waits("time"),
        turn: waits("turn"),
        node: waits("node"),
        paused: waits("paused"),
        capacity: waits("capacity"),
    };
    assert_eq!(total.waiting_for, waiting);
    let letters = TaskFilter { tenant: Some(TENANT), dead: true, ..TaskFilter::default() };
    assert_eq!(
        total.dead_letters,
        i64::try_from(world.store.tasks(letters, None, 10_000).await.unwrap().len()).unwrap()
    );
}

pub async fn what_waits_is_told_with_what_it_waits_for(world: &mut World) {
    let nothing = stats(world).await;
    assert_eq!((nothing.total.queued, nothing.total.oldest_queued_seconds), (0, None));
    assert!(nothing.kinds.is_empty() && nothing.nodes.is_empty() && nothing.total.wait.is_none());
    let agent = world.node("a").await;
    let vm = world.ok(world.create("web")).await.target.vm.unwrap();
    world.ok(world.on_vm(KindName::VmExec, vm)).await;
    world.advance(5);
    let mut later = world.echo();
    later.not_before = world.now().plus(Duration::from_secs(3600));
    world.ok(later).await;
    world.advance(7);
    let told = stats(world).await;
    assert_eq!(told.total.waiting_for, Waiting { time: 1, turn: 1, node: 1, paused: 0, capacity: 0 });
    assert_eq!((told.total.queued, told.total.oldest_queued_seconds), (3, Some(12.0)));
    world.lease_one(agent).await;
    world.store.queue_node(agent.node, Queue::Paused, Actor::system()).await.unwrap().unwrap();
    world.ok(world.echo()).await;
    let told = stats(world).await;
    assert_eq!(told.total.waiting_for, Waiting { time: 1, turn: 1, node: 0, paused: 1, capacity: 0 });
    assert_eq!(told.total.running, 1);
    let [of_node] = &told.nodes[..] else { panic!("{:?}", told.nodes) };
    assert_eq!((of_node.node, of_node.name.as_ref().unwrap().as_str(), of_node.paused), (agent.node, "a", true));
    assert_they_are_what_the_log_says(world).await;
}

pub async fn what_happened_is_told_by_kind_and_by_node(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let on = |world: &World, agent: crate::world::Agent| {
        let mut echo = world.echo();
        echo.target.node = Some(agent.node);
        echo.schedule.retry.attempts = 2;
        echo
    };
    world.ok(on(world, a)).await;
    let leased = world.lease_one(a).await;
    world.end_with(a, &leased, failed(true, Effects::Undone)).await;
    world.advance(2);
    let leased = world.lease_one(a).await;
    world.end_with(a, &leased, failed(true, Effects::Undone)).await;
    for _ in 0..2 {
        world.ok(on(world, b)).await;
    }
    let leased = world.lease(b, 9).await;
    world.succeed(b, &leased[0]).await;
    world.cancel(leased[1].task).await.unwrap();
    let told = stats(world).await;
    let [kind] = &told.kinds[..] else { panic!("{:?}", told.kinds) };
    assert_eq!((kind.kind, kind.figures.dead_letters, kind.figures.aborting), (KindName::Echo, 1, 1));
    let counted = |figures: &Figures| {
        let one = figures.last[0];
        [one.submitted, one.started, one.retried, one.succeeded, one.failed, one.cancelled]
    };
    assert_eq!(counted(&told.total), [3, 4, 1, 1, 1, 0]);
    let of = |agent: crate::world::Agent| told.nodes.iter().find(|of| of.node == agent.node).unwrap();
    assert_eq!((counted(&of(a).figures), counted(&of(b).figures)), ([1, 2, 1, 0, 1, 0], [2, 2, 0, 1, 0, 0]));
    let narrow = StatsFilter { node: Some(b.node), kind: Some(KindName::Echo), tenant: None };
    let narrow = world.store.task_stats(narrow).await.unwrap();
    assert_eq!((counted(&narrow.total), narrow.nodes.len()), (counted(&of(b).figures), 1));
    let other = StatsFilter { kind: Some(KindName::VmStop), ..StatsFilter::default() };
    assert!(world.store.task_stats(other).await.unwrap().kinds.is_empty());
    assert_they_are_what_the_log_says(world).await;
}

pub async fn a_tenant_is_told_its_own(world: &mut World) {
    let agent = world.node("a").await;
    let other = world.tenant("other").await;
    let theirs = world.ok(Submission { tenant: other, ..world.echo() }).await;
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.task, theirs.id);
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    world.ok(Submission { tenant: other, ..world.echo() }).await;
    world.ok(world.echo()).await;
    let of = async |tenant| {
        let told = world.store.task_stats(StatsFilter { tenant, ..StatsFilter::default() }).await.unwrap().total;
        (told.queued, told.last[2].submitted, told.last[2].failed)
    };
    assert_eq!((of(Some(TENANT)).await, of(Some(other)).await, of(None).await), ((1, 1, 0), (1, 2, 1), (2, 3, 1)));
    assert_eq!(of(Some(world.id())).await, (0, 0, 0));
}

pub async fn what_was_long_ago_is_told_of_all_time_only(world: &mut World) {
    let agent = world.node("a").await;
    for _ in 0..5 {
        world.ok(world.echo()).await;
        let leased = world.lease_one(agent).await;
        world.succeed(agent, &leased).await;
        world.serve(1500).await;
        while world.store.fold_stats().await.unwrap().more {}
    }
    let told = stats(world).await;
    assert_eq!(told.total.last.iter().map(|window| window.succeeded).collect::<Vec<_>>(), [0, 0, 2]);
    assert_eq!(ever(world).await[&(KindName::Echo, What::Succeeded)], 5);
    // A pass that finds nothing changes nothing.
    assert_eq!(world.store.fold_stats().await.unwrap().changed, 0);
    assert_they_are_what_the_log_says(world).await;
}

pub async fn what_happened_before_the_clock_stepped_back_is_told_of_all_time_only(world: &mut World) {
    world.node("a").await;
    world.ok(world.echo()).await;
    world.step_back(2 * 3600);
    world.ok(world.echo()).await;
    let told = stats(world).await.total;
    assert_eq!(told.last.iter().map(|window| window.submitted).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(ever(world).await[&(KindName::Echo, What::Submitted)], 2);
}

pub async fn what_is_refused_or_only_tried_is_not_counted(world: &mut World) {
    world.node("a").await;
    world.ok(Submission { dry_run: true, ..world.echo() }).await;
    world.refused(world.on_vm(KindName::VmStop, world.id()), Code::VmNotFound).await;
    let first = world.ok(world.keyed("k", "b")).await;
    assert_eq!(world.ok(world.keyed("k", "b")).await.id, first.id);
    assert_eq!(ever(world).await, Counts::from([((KindName::Echo, What::Submitted), 1)]));
}

pub async fn an_attempt_that_lapsed_and_then_fails_is_followed_by_one_other(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.serve(31).await;
    world.store.lapse_leases().await.unwrap();
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    assert_eq!(stats(world).await.total.last[0].retried, 1);
    assert_they_are_what_the_log_says(world).await;
}

pub async fn times_are_told_as_they_were(world: &mut World) {
    let agent = world.node("a").await;
    let mut later = world.echo();
    later.not_before = world.now().plus(Duration::from_secs(600));
    world.ok(later).await;
    // Waiting for one's time is no waiting.
    world.advance(603);
    let leased = world.lease_one(agent).await;
    world.progress(agent, &leased, "work", &[]).await.unwrap();
    world.advance(20);
    world.succeed(agent, &leased).await;
    // One that never began ran for no time at all.
    let task = world.ok(world.echo()).await;
    world.cancel(task.id).await.unwrap();
    let total = stats(world).await.total;
    let within = |seconds: f64, told: f64| {
        let (from, to) = Took::of(Duration::from_secs_f64(seconds)).bounds().unwrap();
        assert!(from as f64 <= told * 1000.0 && told * 1000.0 <= to as f64, "{told} is not about {seconds}");
    };
    let (wait, run) = (total.wait.unwrap(), total.run.unwrap());
    within(3.0, wait.p95_seconds);
    within(20.0, run.p50_seconds);
    assert_eq!((wait.tasks, run.tasks, total.last[0].cancelled), (1, 1, 1));
    let sum = world.store.gauges().await.unwrap().counters.iter().map(|counter| counter.ms).sum::<i64>();
    assert_eq!(sum, 23_000);
}
