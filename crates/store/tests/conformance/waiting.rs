//! Machines that wait for a node with room.

use std::time::Duration;

use hostler_model::{
    Code,
    event::Actor,
    kind::KindName,
    node::NodeEvent,
    placement::PATIENCE,
    task::{Target, Task, TaskState, WaitingFor},
    vm::{Observation, VmReason, VmState},
};
use hostler_store::Submission;
use serde_json::json;

use crate::world::{Agent, World, seen};

/// A create of so many processors that waits where there is no room.
fn waiting(world: &World, name: &str, vcpus: i64) -> Submission {
    let mut create = sized(world, name, vcpus);
    create.vm.as_mut().unwrap().wait_for_capacity = true;
    create
}

fn sized(world: &World, name: &str, vcpus: i64) -> Submission {
    let mut create = world.create(name);
    create.vm.as_mut().unwrap().spec.vcpus = vcpus;
    create
}

/// Ends a create that nobody has begun.
async fn withdraw(world: &World, task: &Task) {
    world.store.cancel(vec![world.wish(task.id)]).await.unwrap().pop().unwrap().unwrap();
}

async fn placed(world: &World) -> usize {
    world.store.place_waiting().await.unwrap().changed
}

pub async fn a_machine_that_waits_for_room_has_its_quota_and_gets_a_node_when_one_will_do(world: &mut World) {
    let agent = world.node("a").await;
    let large = world.ok(sized(world, "large", 8)).await;
    world.refused(sized(world, "refused", 1), Code::NoCapacity).await;
    let waits = world.ok(waiting(world, "waits", 2)).await;
    assert_eq!((waits.state, waits.waiting_for, waits.node), (TaskState::Queued, Some(WaitingFor::Capacity), None));
    assert_eq!(world.task(waits.id).await.waiting_for, Some(WaitingFor::Capacity));
    let vm = waits.target.vm.unwrap();
    assert_eq!((world.vm(vm).await.node, world.vm(vm).await.epoch), (None, 0));
    assert_eq!(world.book().await.held.vcpus, 10, "its quota is taken");
    assert_eq!(placed(world).await, 0);
    world.refused(world.on_vm(KindName::VmStart, vm), Code::VmStateConflict).await;
    withdraw(world, &large).await;
    let head = world.head().await;
    assert_eq!((placed(world).await, placed(world).await), (1, 0));
    assert_eq!(world.kinds_after(head).await, ["task.placed"]);
    assert_eq!((world.vm(vm).await.node, world.vm(vm).await.epoch), (Some(agent.node), 1));
    assert_eq!(world.task(waits.id).await.waiting_for, Some(WaitingFor::Node));
    let leased = world.lease_one(agent).await;
    assert_eq!((leased.task, leased.epoch), (waits.id, Some(1)));
    world.succeed(agent, &leased).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}

pub async fn room_comes_by_an_uncordon_or_a_node_that_joins_too(world: &mut World) {
    let a = world.node("a").await;
    world.store.change_node(a.node, NodeEvent::Cordon, Actor::system()).await.unwrap().unwrap();
    let (one, two) = (world.ok(waiting(world, "one", 8)).await, world.ok(waiting(world, "two", 8)).await);
    assert_eq!(placed(world).await, 0);
    world.store.change_node(a.node, NodeEvent::Uncordon, Actor::system()).await.unwrap().unwrap();
    assert_eq!(placed(world).await, 1);
    let b: Agent = world.node("b").await;
    assert_eq!(placed(world).await, 1);
    let nodes = [world.task(one.id).await.node, world.task(two.id).await.node];
    assert_eq!(nodes, [Some(a.node), Some(b.node)]);
}

pub async fn what_waits_is_placed_by_priority_and_then_in_its_order(world: &mut World) {
    world.node("a").await;
    let large = world.ok(sized(world, "large", 8)).await;
    let first = world.ok(waiting(world, "first", 4)).await;
    let second = world.ok(waiting(world, "second", 4)).await;
    let mut urgent = waiting(world, "urgent", 4);
    urgent.schedule.priority = "high".parse().unwrap();
    let urgent = world.ok(urgent).await;
    withdraw(world, &large).await;
    assert_eq!(placed(world).await, 2);
    assert!(world.task(urgent.id).await.node.is_some() && world.task(first.id).await.node.is_some());
    assert_eq!(world.task(second.id).await.node, None);
}

pub async fn nobody_waits_for_ever_behind_smaller_ones(world: &mut World) {
    let agent = world.node("a").await;
    let there = world.ok(sized(world, "there", 6)).await;
    let large = world.ok(waiting(world, "large", 8)).await;
    assert_eq!(placed(world).await, 0);
    let small = world.ok(sized(world, "small", 1)).await;
    // Its patience is over: the node is kept for it, and takes nothing else.
    world.advance(PATIENCE.as_secs());
    world.beat(agent, Vec::new()).await;
    assert_eq!(placed(world).await, 0);
    let refusal = world.refused(sized(world, "smaller", 1), Code::NoCapacity).await;
    assert_eq!(refusal.facts["nodes"][0]["reasons"], json!(["set_aside"]));
    let behind = world.ok(waiting(world, "behind", 1)).await;
    assert_eq!(placed(world).await, 0);
    world.ok(world.echo()).await;
    withdraw(world, &there).await;
    assert_eq!(placed(world).await, 0, "one small one is still there");
    withdraw(world, &small).await;
    assert_eq!(placed(world).await, 1);
    assert_eq!(world.task(large.id).await.node, Some(agent.node));
    withdraw(world, &large).await;
    assert_eq!(placed(world).await, 1, "nothing is kept for who has gone");
    assert_eq!(world.task(behind.id).await.node, Some(agent.node));
    world.ok(sized(world, "smaller", 1)).await;
}

pub async fn what_waits_goes_where_its_port_is_free_and_waits_while_it_is_nowhere(world: &mut World) {
    let publishing = |name: &str| {
        let mut create = waiting(world, name, 1);
        create.vm.as_mut().unwrap().spec.port_forwards = vec!["8080:80".parse().unwrap()];
        create
    };
    let a = world.node("a").await;
    let first = world.ok(publishing("first")).await;
    let second = world.ok(publishing("second")).await;
    let third = world.ok(publishing("third")).await;
    assert_eq!((first.node, second.waiting_for), (Some(a.node), Some(WaitingFor::Capacity)));
    assert_eq!(placed(world).await, 0);
    // The new node has less left than the other, where the port is taken.
    let b = world.node("b").await;
    world.ok(Submission { target: Target { node: Some(b.node), vm: None }, ..sized(world, "large", 4) }).await;
    assert_eq!(placed(world).await, 1);
    assert_eq!(world.task(second.id).await.node, Some(b.node));
    assert_eq!((placed(world).await, world.task(third.id).await.node), (0, None));
    withdraw(world, &first).await;
    assert_eq!(placed(world).await, 1);
    assert_eq!(world.task(third.id).await.node, Some(a.node));
    let mut fourth = publishing("fourth");
    fourth.schedule.queue_timeout_seconds = 7;
    let fourth = world.ok(fourth).await;
    world.serve(8).await;
    world.store.expire_queued().await.unwrap();
    let error = world.task(fourth.id).await.error.unwrap();
    assert!(error.detail.contains("8080/tcp"), "{error:?}");
}

pub async fn who_waits_too_long_fails_with_what_each_node_lacked(world: &mut World) {
    world.node("a").await;
    let waits = world.ok(waiting(world, "waits", 9)).await;
    world.serve(30 * 60 + 1).await;
    world.store.expire_queued().await.unwrap();
    let ended = world.task(waits.id).await;
    let error = ended.error.unwrap();
    assert_eq!((ended.state, error.code), (TaskState::Failed, Code::DeadlineExceeded));
    assert!(error.detail.contains("a: ") && error.detail.contains("vcpus: 9 asked, 8 free"), "{}", error.detail);
    let vm = world.vm(waits.target.vm.unwrap()).await;
    assert_eq!((vm.state, vm.reason), (VmState::Deleted, Some(VmReason::CreateFailed)));
    assert!(world.book().await.total().is_zero());
}

pub async fn what_waits_is_withdrawn_at_once_by_a_cancel_or_a_deletion(world: &mut World) {
    let one = world.ok(waiting(world, "one", 1)).await;
    let two = world.ok(waiting(world, "two", 1)).await;
    withdraw(world, &one).await;
    assert_eq!(world.task(one.id).await.state, TaskState::Cancelled);
    let gone = world.ok(world.on_vm(KindName::VmDelete, two.target.vm.unwrap())).await;
    assert_eq!((gone.state, world.task(two.id).await.state), (TaskState::Succeeded, TaskState::Cancelled));
    for task in [&one, &two] {
        assert_eq!(world.vm(task.target.vm.unwrap()).await.state, VmState::Deleted);
    }
    assert!(world.book().await.total().is_zero());
}

pub async fn a_dry_run_says_that_it_would_wait_and_why(world: &mut World) {
    world.node("a").await;
    let accepted = world.submit(Submission { dry_run: true, ..waiting(world, "waits", 9) }).await.unwrap();
    assert_eq!((accepted.task.waiting_for, accepted.task.node), (Some(WaitingFor::Capacity), None));
    let choice = accepted.placement.unwrap();
    assert_eq!((choice.node, choice.nodes[0].why.as_deref()), (None, Some("vcpus: 9 asked, 8 free")));
    // What is not a question of room is refused all the same.
    let mut image = waiting(world, "other", 1);
    image.vm.as_mut().unwrap().name = "not".parse().unwrap();
    world.ok(image.clone()).await;
    world.refused(Submission { task: world.id(), ..image }, Code::NameTaken).await;
}

pub async fn a_machine_whose_time_is_over_waits_no_longer(world: &mut World) {
    let mut brief = waiting(world, "brief", 1);
    brief.vm.as_mut().unwrap().ttl = Some(Duration::from_secs(60));
    let brief = world.ok(brief).await;
    world.serve(61).await;
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
    assert_eq!(world.task(brief.id).await.state, TaskState::Cancelled);
    assert_eq!(world.vm(brief.target.vm.unwrap()).await.state, VmState::Deleted);
}

pub async fn after_a_restore_what_waits_goes_where_it_was_made(world: &mut World) {
    let [a, b] = [world.node("a").await, world.node("b").await];
    let mut create = waiting(world, "waits", 8);
    create.vm.as_mut().unwrap().spec.memory_mib = 4097;
    let waits = world.ok(create).await;
    let vm = waits.target.vm.unwrap();
    // The copy was made now. What was done since (more memory, a node, a machine) is lost.
    world.store.restored().await.unwrap();
    world.reopen();
    world.beat(a, Vec::new()).await;
    let there = Observation { epoch: 3, ..seen(vm, VmState::Running) };
    assert_eq!(world.beat(b, vec![there]).await.orphans, []);
    let found = world.vm(vm).await;
    assert_eq!((found.node, found.epoch), (Some(b.node), 3));
    let leased = world.lease_one(b).await;
    assert_eq!((leased.task, leased.epoch, leased.fence.attempt), (waits.id, Some(3), 1));
    world.cancel(waits.id).await.unwrap();
    assert_eq!(world.task(waits.id).await.state, TaskState::Aborting, "nobody knows what is left of it");
}

pub async fn after_a_restore_what_waits_is_placed_once_every_node_was_heard(world: &mut World) {
    let [a, b] = [world.node("a").await, world.node("b").await];
    for agent in [a, b] {
        world.store.change_node(agent.node, NodeEvent::Cordon, Actor::system()).await.unwrap().unwrap();
    }
    let waits = world.ok(waiting(world, "waits", 1)).await;
    world.store.restored().await.unwrap();
    world.reopen();
    world.store.change_node(a.node, NodeEvent::Uncordon, Actor::system()).await.unwrap().unwrap();
    world.beat(a, Vec::new()).await;
    assert_eq!(placed(world).await, 0, "the other may have it");
    let later = world.ok(waiting(world, "later", 1)).await;
    assert!(later.node.is_some(), "nobody can have begun it");
    world.beat(b, Vec::new()).await;
    assert_eq!(placed(world).await, 1);
    assert_eq!(world.task(waits.id).await.node, Some(a.node));
    world.cancel(waits.id).await.unwrap();
    assert_eq!(world.task(waits.id).await.state, TaskState::Cancelled, "nobody has begun it");
}
