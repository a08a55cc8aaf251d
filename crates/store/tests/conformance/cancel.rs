//! Cancelling, and force.

use hostler_model::{
    Code,
    event::Class,
    kind::KindName,
    task::{AbortReason, Effects, Intent, TaskState},
    vm::VmState,
};
use hostler_store::LogFilter;

use crate::world::{World, cancelled, one_vm};

pub async fn what_was_never_leased_ends_at_once(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let ended = world.cancel(task.id).await.unwrap();
    assert_eq!((ended.state, ended.error.unwrap().code), (TaskState::Cancelled, Code::Cancelled));
    assert_eq!(world.vm(task.target.vm.unwrap()).await.state, VmState::Deleted);
    assert!(world.book().await.total().is_zero());
    assert!(world.lease(agent, 5).await.is_empty());
    let audit = LogFilter { class: Some(Class::Audit), subject: Some(task.id.0), tenant: None };
    let kinds: Vec<_> = world.store.log(audit, 0, 10).await.unwrap().into_iter().map(|e| e.kind).collect();
    assert_eq!(kinds, ["task.submit", "task.cancel"]);
}

pub async fn what_is_leased_waits_for_its_nodes_word(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    let aborting = world.cancel(task.id).await.unwrap();
    assert_eq!((aborting.state, aborting.abort_reason), (TaskState::Aborting, Some(AbortReason::Cancel)));
    assert_eq!(world.book().await.held.room(), one_vm());
    world.end_with(agent, &leased, cancelled(Effects::Undone)).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Cancelled);
    assert!(world.book().await.total().is_zero());
}

pub async fn a_success_that_arrives_first_wins(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    world.cancel(task.id).await.unwrap();
    world.succeed(agent, &leased).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Succeeded);
    assert_eq!(world.vm(task.target.vm.unwrap()).await.state, VmState::Running);
}

pub async fn an_ended_task_cannot_be_cancelled(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let refusal = world.cancel(task.id).await.unwrap_err();
    assert_eq!((refusal.code, &refusal.facts["state"]), (Code::TaskStateConflict, &"succeeded".into()));
}

pub async fn another_tenants_task_is_not_found(world: &mut World) {
    world.node("a").await;
    let task = world.ok(world.echo()).await;
    let mut wish = world.wish(task.id);
    wish.tenant = world.id();
    let unknown = world.wish(world.id());
    let answers = world.store.cancel(vec![wish, unknown, world.wish(task.id)]).await.unwrap();
    let codes: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|refusal| refusal.code)).collect();
    assert_eq!(codes, [Some(Code::TaskNotFound), Some(Code::TaskNotFound), None]);
}

pub async fn cancelling_twice_is_cancelling_once(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    world.lease_one(agent).await;
    world.cancel(task.id).await.unwrap();
    assert_eq!(world.cancel(task.id).await.unwrap().state, TaskState::Aborting);
    let aborting = world.kinds_after(0).await.into_iter().filter(|kind| kind == "task.aborting").count();
    assert_eq!(aborting, 1);
}

pub async fn an_aborting_task_is_leased_to_be_undone(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let first = world.lease_one(agent).await;
    world.cancel(task.id).await.unwrap();
    world.advance(31);
    world.store.lapse_leases().await.unwrap();
    world.advance(2);
    let again = world.lease_one(agent).await;
    assert_eq!((again.intent, again.fence), (Intent::Abort, first.fence.next()));
    assert!(again.deadline > world.now());
    world.end_with(agent, &again, cancelled(Effects::Undone)).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Cancelled);
}

pub async fn force_ends_only_what_is_aborting_and_keeps_the_allocation(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    world.lease_one(agent).await;
    assert_eq!(world.force(task.id).await.unwrap_err().code, Code::TaskStateConflict);
    world.cancel(task.id).await.unwrap();
    assert_eq!(world.force(task.id).await.unwrap().state, TaskState::Cancelled);
    assert_eq!(world.vm(task.target.vm.unwrap()).await.state, VmState::Error);
    assert_eq!(world.book().await.held.room(), one_vm());
    assert!(world.kinds_after(0).await.contains(&"task.force".to_owned()));
    // A delete is the way out.
    world.ok(world.on_vm(KindName::VmDelete, task.target.vm.unwrap())).await;
    let delete = world.lease_one(agent).await;
    world.succeed(agent, &delete).await;
    assert!(world.book().await.total().is_zero());
}

pub async fn a_cancelled_task_may_be_cancelled_again(world: &mut World) {
    world.node("a").await;
    let task = world.ok(world.echo()).await;
    let ended = world.cancel(task.id).await.unwrap();
    let head = world.head().await;
    assert_eq!(world.cancel(task.id).await, Ok(ended));
    assert_eq!(world.head().await, head);
}
