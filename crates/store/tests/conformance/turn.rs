//! Turns: what waits for what on one VM.

use hostler_model::{
    Code,
    kind::KindName,
    task::{Effects, Intent, TaskState, WaitingFor},
    vm::VmState,
};

use crate::world::{World, cancelled, failed, output, seen};

pub async fn a_change_waits_for_the_one_before_it(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let first = world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    let second = world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    assert_eq!((first.waiting_for, second.waiting_for), (Some(WaitingFor::Node), Some(WaitingFor::Turn)));
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.task, first.id);
    assert_eq!(world.vm(vm).await.task, Some(first.id));
    assert!(world.lease(agent, 5).await.is_empty());
    world.end_with(agent, &leased, cancelled(Effects::Undone)).await;
    assert_eq!(world.vm(vm).await.task, Some(second.id));
    assert_eq!(world.lease_one(agent).await.task, second.id);
}

pub async fn a_program_waits_for_the_create_and_then_runs(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.ok(world.create("web")).await.target.vm.unwrap();
    let program = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    assert_eq!(program.waiting_for, Some(WaitingFor::Turn));
    let create = world.lease_one(agent).await;
    assert_eq!(create.kind, KindName::VmCreate);
    world.succeed(agent, &create).await;
    assert_eq!(world.lease_one(agent).await.task, program.id);
}

pub async fn programs_run_beside_each_other(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    for _ in 0..3 {
        world.ok(world.on_vm(KindName::VmExec, vm)).await;
    }
    assert_eq!(world.lease(agent, 5).await.len(), 3);
    assert_eq!(world.vm(vm).await.task, None);
}

pub async fn a_delete_ends_a_create_that_nobody_leased(world: &mut World) {
    let agent = world.node("a").await;
    let create = world.ok(world.create("web")).await;
    let vm = create.target.vm.unwrap();
    let accepted = world.submit(world.on_vm(KindName::VmDelete, vm)).await.unwrap();
    // Nothing was ever made: both are over at once.
    assert_eq!(accepted.task.state, TaskState::Succeeded);
    assert_eq!(accepted.task.output.unwrap()["existed"], false);
    assert_eq!(world.task(create.id).await.state, TaskState::Cancelled);
    assert_eq!(world.vm(vm).await.state, VmState::Deleted);
    assert!(world.book().await.total().is_zero());
    assert!(world.lease(agent, 5).await.is_empty());
    world.ok(world.create("web")).await;
}

pub async fn a_delete_aborts_a_create_under_way(world: &mut World) {
    let agent = world.node("a").await;
    let create = world.ok(world.create("web")).await;
    let vm = create.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    let delete = world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    assert_eq!(delete.waiting_for, Some(WaitingFor::Turn));
    assert_eq!(world.task(create.id).await.state, TaskState::Aborting);
    assert!(world.lease(agent, 5).await.is_empty());
    world.end_with(agent, &leased, cancelled(Effects::Undone)).await;
    assert_eq!(world.task(create.id).await.state, TaskState::Cancelled);
    assert_eq!(world.vm(vm).await.state, VmState::Deleted);
    assert!(world.book().await.total().is_zero());
    // Its turn has come, and there is nothing left to do.
    assert!(world.lease(agent, 5).await.is_empty());
    assert_eq!(world.task(delete.id).await.state, TaskState::Succeeded);
}

pub async fn a_delete_aborts_programs(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let running = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    let leased = world.lease_one(agent).await;
    let waiting = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    assert_eq!(world.task(running.id).await.state, TaskState::Aborting);
    assert_eq!(world.task(waiting.id).await.state, TaskState::Cancelled);
    // Programs have no turn of their own: the delete need not wait for their end.
    let delete = world.lease_one(agent).await;
    world.succeed(agent, &delete).await;
    world.end_with(agent, &leased, cancelled(Effects::Remain)).await;
    assert_eq!(world.task(running.id).await.state, TaskState::Cancelled);
}

pub async fn a_second_delete_finds_nothing_left_to_do(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    let first = world.lease_one(agent).await;
    let second = world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    // The one under way is not stopped by the one that wants the same.
    assert_eq!(world.task(first.task).await.state, TaskState::Running);
    world.succeed(agent, &first).await;
    assert!(world.lease(agent, 5).await.is_empty());
    let second = world.task(second.id).await;
    assert_eq!((second.state, second.fence.attempt), (TaskState::Succeeded, 0));
}

pub async fn a_delete_whose_vm_vanished_meanwhile_is_moot(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let first = world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    let second = world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    let waiting = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.task, first.id);
    world.succeed(agent, &leased).await;
    assert!(world.lease(agent, 5).await.is_empty());
    assert_eq!(world.task(second.id).await.output, Some(serde_json::json!({"existed": false})));
    assert!(world.lease(agent, 5).await.is_empty());
    let waiting = world.task(waiting.id).await;
    assert_eq!((waiting.state, waiting.error.unwrap().code), (TaskState::Failed, Code::VmStateConflict));
}

pub async fn what_waits_says_for_what(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.ok(world.create("web")).await.target.vm.unwrap();
    let program = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    let echo = world.ok(world.echo()).await;
    let waits = async |id| world.task(id).await.waiting_for;
    assert_eq!(waits(program.id).await, Some(WaitingFor::Turn));
    assert_eq!(waits(echo.id).await, Some(WaitingFor::Node));
    let leased = world.lease(agent, 5).await;
    let (echoing, creating): (Vec<_>, Vec<_>) = leased.iter().partition(|leased| leased.task == echo.id);
    world.end_with(agent, echoing[0], failed(true, Effects::Undone)).await;
    assert_eq!(waits(echo.id).await, Some(WaitingFor::Time));
    world.advance(60);
    assert_eq!(waits(echo.id).await, Some(WaitingFor::Node));
    assert_eq!(waits(creating[0].task).await, None);
}

pub async fn a_turn_is_held_through_backoff(world: &mut World) {
    let agent = world.node("a").await;
    let create = world.ok(world.create("web")).await;
    let vm = create.target.vm.unwrap();
    let program = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    assert!(world.lease(agent, 5).await.is_empty());
    assert_eq!(world.vm(vm).await.task, Some(create.id));
    // Nor does an inventory say anything of it meanwhile.
    world.beat(agent, vec![seen(vm, VmState::Running)]).await;
    world.beat(agent, Vec::new()).await;
    assert_eq!(world.vm(vm).await.state, VmState::Provisioning);
    world.advance(2);
    let again = world.lease_one(agent).await;
    assert_eq!((again.task, again.intent), (create.id, Intent::Run));
    world.end_with(agent, &again, hostler_model::task::End::Succeeded { output: output(KindName::VmCreate) }).await;
    assert_eq!(world.lease_one(agent).await.task, program.id);
}
