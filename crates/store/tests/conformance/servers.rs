//! Two servers over one PostgreSQL database: what one reads and another changes meanwhile. Each of these runs them at once.
//! And a database that is promoted below them.

use std::{collections::BTreeSet, sync::Arc};

use hostler_db::Mode;
use hostler_fixture::Database;
use hostler_model::{
    Clock, Code, Ids,
    event::Actor,
    node::NodeEvent,
    placement::Policy,
    task::TaskState,
    tenant::{Limits, UNLIMITED},
};
use hostler_store::{Config, EditTenant, Idempotency, LogFilter, Now, Store, Submission, Timing};

use crate::{
    placement,
    world::{Agent, Engine, Postgres, TENANT, World},
};

/// Rounds in which two are at work at once.
const ROUNDS: usize = 20;

/// A world, and another server over its database.
fn worlds() -> (World, World) {
    let engine = Postgres::new();
    let one = World::open(engine.clone());
    let other = one.beside(engine);
    (one, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_sent_to_both_makes_one_task() {
    let (one, other) = worlds();
    one.node("a").await;
    for round in 0..ROUNDS {
        let sent = |world: &World| Submission {
            idempotency: Some(Idempotency {
                route: "POST /tasks".into(),
                key: format!("key-{round}"),
                body: "same".into(),
                part: None,
            }),
            ..world.echo()
        };
        let (first, second) = tokio::join!(one.submit(sent(&one)), other.submit(sent(&other)));
        assert_eq!(first.unwrap().task.id, second.unwrap().task.id);
    }
    one.end().await;
}

#[tokio::test]
async fn what_one_changes_of_nodes_and_their_books_is_seen_by_the_others_next_placement() {
    let (one, other) = worlds();
    let (a, operator) = (one.node("a").await, Actor::system());
    one.ok(one.create("first")).await;
    other.store.change_node(a.node, NodeEvent::Cordon, operator.clone()).await.unwrap().unwrap();
    one.refused(one.create("cordoned"), Code::NoCapacity).await;
    other.store.change_node(a.node, NodeEvent::Uncordon, operator).await.unwrap().unwrap();
    one.ok(one.create("second")).await;
    // It has room for eight.
    for name in ["third", "fourth", "fifth", "sixth", "seventh"] {
        other.ok(other.create(name)).await;
    }
    one.ok(one.create("eighth")).await;
    for world in [&other, &one] {
        world.refused(world.create("ninth"), Code::NoCapacity).await;
    }
    one.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_however_many_ask_at_once() {
    let (one, other) = worlds();
    one.node("a").await;
    let limits = Limits { vms: 4, ..UNLIMITED };
    one.store.edit_tenant(EditTenant::of_system(TENANT, limits.into())).await.unwrap().unwrap();
    let ask = async |world: &World, from: &str| {
        let mut made = 0;
        for number in 0..ROUNDS {
            match world.submit(world.create(&format!("{from}-{number}"))).await {
                Ok(_) => made += 1,
                Err(refusal) => assert_eq!(refusal.code, Code::QuotaExceeded),
            }
        }
        made
    };
    let (ours, theirs) = tokio::join!(ask(&one, "one"), ask(&other, "other"));
    assert_eq!(ours + theirs, 4);
    one.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_creates_at_both_oversubscribe_no_node() {
    let (one, other) = worlds();
    for name in ["a", "b", "c", "d"] {
        one.node(name).await;
    }
    let made = placement::crowd(&one, &[one.store.clone(), other.store.clone()], "vm").await;
    placement::is_within_room(&one, made).await;
    one.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_leased_once_whichever_server_its_node_asks() {
    let (one, other) = worlds();
    let agent = one.node("a").await;
    let mut queued = BTreeSet::new();
    for _ in 0..ROUNDS {
        queued.insert(one.ok(one.echo()).await.id);
    }
    let fetch = async |world: &World, agent: Agent| {
        let mut fetched = Vec::new();
        for _ in 0..ROUNDS {
            fetched.extend(world.lease(agent, 1).await.into_iter().map(|leased| leased.task));
        }
        fetched
    };
    let (ours, theirs) = tokio::join!(fetch(&one, agent), fetch(&other, agent));
    assert_eq!(ours.len() + theirs.len(), ROUNDS, "none twice");
    assert_eq!(ours.into_iter().chain(theirs).collect::<BTreeSet<_>>(), queued);
    one.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_result_and_a_cancel_one_is_the_end_and_the_other_hears_of_it() {
    let (one, other) = worlds();
    let agent = one.node("a").await;
    for _ in 0..ROUNDS {
        let task = one.ok(one.echo()).await;
        let leased = one.lease_one(agent).await;
        let ((), cancelled) = tokio::join!(one.succeed(agent, &leased), other.cancel(task.id));
        let after = other.task(task.id).await;
        // The success came: whatever the cancel said before or after it.
        assert_eq!(after.state, TaskState::Succeeded, "{cancelled:?}");
    }
    one.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_changed_wakes_those_who_wait_at_the_other() {
    let (one, other) = worlds();
    let agent = one.node("a").await;
    let mut wakes = other.store.wakes();
    // Until the other's listener is there the hint may find nobody: it is told again.
    loop {
        one.ok(one.echo()).await;
        let told = tokio::time::timeout(std::time::Duration::from_millis(500), async {
            loop {
                let wake = wakes.recv().await.unwrap();
                if wake.all || wake.nodes.contains(&agent.node) {
                    return;
                }
            }
        });
        if told.await.is_ok() {
            break;
        }
    }
    one.end().await;
}

/// A database that has a standby.
#[derive(Clone)]
struct OnBoth {
    url: String,
    database: Arc<Database<'static>>,
}

impl Engine for OnBoth {
    fn open(&self, clock: Clock, ids: Ids) -> Store {
        let config =
            Config { mode: Mode::Threads, clock, ids, timing: Timing::default(), placement: Policy::default() };
        Store::connect(&self.url, Now::HandedIn, config).unwrap()
    }

    fn tamper(&self, sql: &str) {
        self.database.run(sql).unwrap();
    }
}

/// Asks again as long as connections break.
async fn patiently<T>(ask: impl AsyncFn() -> hostler_store::Result<T>) -> T {
    loop {
        match ask().await {
            Err(error) if error.is_outage() => tokio::task::yield_now().await,
            done => return done.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_was_promoted_begins_one_new_epoch_without_what_it_had_not_received() {
    // It ends with the process of the tests.
    let primary: &'static hostler_fixture::Postgres =
        Box::leak(Box::new(hostler_fixture::Postgres::start(false).unwrap()));
    let database = Arc::new(primary.database().unwrap());
    let standby = primary.standby().unwrap();
    let copy = database.on(&standby);
    let engine = OnBoth { url: database.url_on_both(&standby), database };
    let one = World::open(engine.clone());
    let other = one.beside(engine);
    for world in [&one, &other] {
        assert_eq!(world.store.follow_timeline().await.unwrap(), None, "it is where it was");
    }
    let agent = one.node("a").await;
    let kept = one.ok(one.echo()).await;
    let leased = one.lease_one(agent).await;
    while copy.ask("SELECT CAST(COUNT(*) AS TEXT) FROM tasks WHERE lease_until IS NOT NULL").unwrap_or_default() != "1"
    {
    }
    // Nothing more comes to the standby, and it is not synchronous.
    copy.run("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    copy.run("SELECT pg_reload_conf()").unwrap();
    while copy.ask("SELECT CAST(COUNT(*) AS TEXT) FROM pg_stat_wal_receiver").unwrap() != "0" {}
    let lost = one.ok(other.echo()).await;
    primary.kill().unwrap();
    copy.run("SELECT pg_promote()").unwrap();
    for world in [&one, &other] {
        patiently(async || world.store.lapse_leases().await).await;
    }
    let entries = patiently(async || one.store.log(LogFilter::default(), 0, 1000).await).await;
    let restored: Vec<_> = entries.iter().filter(|entry| entry.kind == "store.restored").collect();
    assert_eq!(restored.len(), 2, "an event and an audit entry, of one of the two: {restored:?}");
    assert!(patiently(async || other.store.task(lost.id).await).await.is_none());
    assert!(one.lease(agent, 1).await.is_empty(), "it has not said what it has");
    one.beat(agent, Vec::new()).await;
    let again = one.lease_one(agent).await;
    assert_eq!((again.task, leased.task), (kept.id, kept.id));
    assert!(again.fence.store_epoch > leased.fence.store_epoch);
    for world in [&one, &other] {
        assert_eq!(world.store.follow_timeline().await.unwrap(), None, "it is known by now");
    }
}
