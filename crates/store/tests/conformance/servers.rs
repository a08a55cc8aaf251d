//! Two servers over one PostgreSQL database: what one reads and another changes meanwhile. Each of these runs them at once.

use std::collections::BTreeSet;

use hostler_model::{Code, Resources, event::Actor, name::Name, task::TaskState, tenant::UNLIMITED};
use hostler_store::{Idempotency, Submission};

use crate::world::{Agent, Postgres, TENANT, World};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_however_many_ask_at_once() {
    let (one, other) = worlds();
    one.node("a").await;
    let limits = Resources { vms: 4, ..UNLIMITED };
    one.store.put_tenant(TENANT, "default".parse::<Name>().unwrap(), limits, Actor::system()).await.unwrap().unwrap();
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
