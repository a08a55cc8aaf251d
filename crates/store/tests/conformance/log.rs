//! The log and the wakes.

use hostler_model::{
    TenantId,
    event::{Actor, Class},
    task::TaskState,
    tenant::UNLIMITED,
};
use hostler_store::{LogFilter, Submission};

use crate::world::{TENANT, World};

pub async fn entries_are_numbered_without_gaps(world: &mut World) {
    let agent = world.node("a").await;
    let batch = vec![world.echo(), world.on_vm(hostler_model::kind::KindName::VmExec, world.id()), world.create("web")];
    world.store.submit(batch).await.unwrap();
    for leased in world.lease(agent, 5).await {
        world.succeed(agent, &leased).await;
    }
    let numbers: Vec<i64> = world.entries().await.iter().map(|entry| entry.seq).collect();
    assert_eq!(numbers, Vec::from_iter(1..=world.head().await));
    // A page continues where the one before ended.
    let page = world.store.log(LogFilter::default(), 2, 3).await.unwrap();
    assert_eq!(Vec::from_iter(page.iter().map(|entry| entry.seq)), [3, 4, 5]);
}

pub async fn filters_select(world: &mut World) {
    world.node("a").await;
    let other: TenantId = world.id();
    world.store.put_tenant(other, "other".parse().unwrap(), UNLIMITED, Actor::system()).await.unwrap().unwrap();
    let mine = world.ok(world.echo()).await;
    world.ok(Submission { tenant: other, ..world.echo() }).await;
    let of = |filter| world.store.log(filter, 0, 100);
    let tenants = of(LogFilter { tenant: Some(TENANT), ..LogFilter::default() }).await.unwrap();
    assert!(tenants.iter().all(|entry| entry.tenant == Some(TENANT)));
    assert_eq!(tenants.len(), 2);
    let audit = of(LogFilter { class: Some(Class::Audit), ..LogFilter::default() }).await.unwrap();
    assert!(audit.iter().all(|entry| entry.class == Class::Audit) && !audit.is_empty());
    let subject =
        of(LogFilter { subject: Some(mine.id.0), class: Some(Class::Event), ..LogFilter::default() }).await.unwrap();
    assert_eq!(Vec::from_iter(subject.iter().map(|entry| entry.kind.as_str())), ["task.queued"]);
}

pub async fn every_step_wakes_those_who_wait(world: &mut World) {
    let agent = world.node("a").await;
    let mut wakes = world.store.wakes();
    let task = world.ok(world.echo()).await;
    let wake = wakes.recv().await.unwrap();
    assert_eq!((wake.nodes, wake.ended, wake.seq), (vec![agent.node], Vec::new(), world.head().await));
    let leased = world.lease_one(agent).await;
    wakes.recv().await.unwrap();
    world.succeed(agent, &leased).await;
    let wake = wakes.recv().await.unwrap();
    assert_eq!((wake.ended, wake.seq), (vec![task.id], world.head().await));
    // Nothing happened, nobody is woken.
    assert!(world.lease(agent, 5).await.is_empty());
    world.beat(agent, Vec::new()).await;
    assert!(wakes.try_recv().is_err());
}

pub async fn what_was_answered_is_there_after_reopening(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    let (entries, book) = (world.entries().await, world.book().await);
    world.reopen();
    assert_eq!((world.entries().await, world.book().await), (entries, book));
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
    world.succeed(agent, &leased).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Succeeded);
}
