//! Queries and records.

use hostler_model::{
    Code, TaskId,
    kind::KindName,
    node::{Freshness, NodeState},
    task::{Effects, TaskState},
    tenant::{Limits, UNLIMITED},
    vm::VmState,
};
use hostler_store::{EditTenant, TaskFilter, VmFilter};

use crate::world::{TENANT, World, failed, one_vm};

pub async fn tasks_are_listed_newest_first_by_every_filter(world: &mut World) {
    let agent = world.node("a").await;
    let create = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let bad = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    let running = world.ok(world.echo()).await;
    world.lease_one(agent).await;
    let queued = world.ok(world.echo()).await;
    let list = async |filter: TaskFilter, before: Option<TaskId>, limit: usize| {
        Vec::from_iter(world.store.tasks(filter, before, limit).await.unwrap().into_iter().map(|task| task.id))
    };
    let all = TaskFilter::default();
    assert_eq!(list(all.clone(), None, 10).await, [queued.id, running.id, bad.id, create.id]);
    assert_eq!(list(all.clone(), Some(running.id), 1).await, [bad.id]);
    assert_eq!(list(TaskFilter { tenant: Some(TENANT), ..all.clone() }, None, 2).await, [queued.id, running.id]);
    assert_eq!(list(TaskFilter { tenant: Some(world.id()), ..all.clone() }, None, 10).await, []);
    assert_eq!(list(TaskFilter { kind: Some(KindName::VmCreate), ..all.clone() }, None, 10).await, [create.id]);
    assert_eq!(list(TaskFilter { vm: create.target.vm, ..all.clone() }, None, 10).await, [create.id]);
    assert_eq!(list(TaskFilter { code: Some(Code::HandlerFailed), ..all.clone() }, None, 10).await, [bad.id]);
    assert_eq!(list(TaskFilter { code: Some(Code::Cancelled), ..all.clone() }, None, 10).await, []);
    for (state, id) in [
        (TaskState::Succeeded, create.id),
        (TaskState::Failed, bad.id),
        (TaskState::Running, running.id),
        (TaskState::Queued, queued.id),
    ] {
        assert_eq!(list(TaskFilter { state: Some(state), ..all.clone() }, None, 10).await, [id]);
    }
}

pub async fn vms_are_listed_without_the_deleted(world: &mut World) {
    let agent = world.node("a").await;
    let gone = world.running(agent, "gone").await;
    world.ok(world.on_vm(KindName::VmDelete, gone)).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let (first, second) = (world.running(agent, "first").await, world.running(agent, "second").await);
    let list = async |filter: VmFilter, before, limit| {
        Vec::from_iter(world.store.vms(filter, before, limit).await.unwrap().into_iter().map(|vm| vm.id))
    };
    let all = VmFilter::default();
    assert_eq!(list(all.clone(), None, 10).await, [second, first]);
    assert_eq!(list(all.clone(), Some(second), 10).await, [first]);
    assert_eq!(list(VmFilter { tenant: Some(TENANT), node: Some(agent.node), ..all.clone() }, None, 1).await, [second]);
    assert_eq!(list(VmFilter { state: Some(VmState::Paused), ..all.clone() }, None, 10).await, []);
    assert_eq!(list(VmFilter { state: Some(VmState::Deleted), ..all }, None, 10).await, [gone]);
}

pub async fn limits_and_books_are_told(world: &mut World) {
    let agent = world.node("a").await;
    world.running(agent, "web").await;
    let limits = Limits { vms: 7, ..UNLIMITED };
    world.store.edit_tenant(EditTenant::of_system(TENANT, limits.into())).await.unwrap().unwrap();
    let told = world.store.quota(TENANT).await.unwrap();
    assert_eq!((told.limits, told.book.used.room()), (limits, one_vm()));
}

pub async fn gauges_count(world: &mut World) {
    let agent = world.node("a").await;
    world.running(agent, "web").await;
    world.ok(world.echo()).await;
    world.lease_one(agent).await;
    world.ok(world.echo()).await;
    world.advance(7);
    let gauges = world.store.gauges().await.unwrap();
    let [of_echo] = &gauges.tasks.kinds[..] else { panic!("{:?}", gauges.tasks) };
    assert_eq!((of_echo.kind, of_echo.figures.queued, of_echo.figures.running), (KindName::Echo, 1, 1));
    assert_eq!(gauges.tasks.total.oldest_queued_seconds, Some(7.0));
    assert_eq!(gauges.vms, [(VmState::Running, 1)]);
    assert_eq!(gauges.nodes, [(NodeState::Ready, Freshness::Fresh, 1)]);
    assert_eq!((gauges.used.room(), gauges.held.memory_mib, gauges.seq), (one_vm(), 2, world.head().await));
}
