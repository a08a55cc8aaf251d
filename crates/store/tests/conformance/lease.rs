//! Leasing.

use std::time::Duration;

use hostler_model::{
    Code,
    event::Actor,
    kind::KindName,
    node::{NodeEvent, Slots},
    task::{Intent, TaskState},
    vm::{VmReason, VmState},
};
use hostler_store::Claim;

use crate::world::{Agent, World, seen};

pub async fn tasks_are_leased_in_the_order_of_their_submission(world: &mut World) {
    let agent = world.node("a").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.ok(world.echo()).await.id);
    }
    let leased: Vec<_> = world.lease(agent, 3).await.iter().map(|leased| leased.task).collect();
    assert_eq!(leased, ids[..3]);
    let leased: Vec<_> = world.lease(agent, 3).await.iter().map(|leased| leased.task).collect();
    assert_eq!(leased, ids[3..]);
}

pub async fn a_node_gets_its_own_tasks_only(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let mut submission = world.echo();
    submission.target.node = Some(b.node);
    let task = world.ok(submission).await;
    assert!(world.lease(a, 10).await.is_empty());
    assert_eq!(world.lease_one(b).await.task, task.id);
}

pub async fn a_claim_gets_no_more_than_it_asks_for(world: &mut World) {
    let agent = world.node("a").await;
    for _ in 0..3 {
        world.ok(world.echo()).await;
    }
    assert!(world.lease(agent, 0).await.is_empty());
    assert_eq!(world.lease(agent, 2).await.len(), 2);
    assert_eq!(world.lease(agent, 2).await.len(), 1);
}

pub async fn two_claims_of_one_node_share_what_there_is(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    for agent in [a, a, a, b] {
        let mut submission = world.echo();
        submission.target.node = Some(agent.node);
        world.ok(submission).await;
    }
    let claim =
        |agent: Agent| Claim { node: agent.node, enrolment: agent.enrolment, free: Slots::each(2), resync: None };
    let answers = world.store.lease(vec![claim(a), claim(b), claim(a)]).await.unwrap();
    let counts: Vec<usize> = answers.iter().map(|answer| answer.as_ref().unwrap().len()).collect();
    assert_eq!(counts, [2, 1, 1]);
}

pub async fn another_enrolment_is_refused(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let other = Agent { enrolment: world.id(), ..agent };
    assert_eq!(world.claim(other, 1, None).await.unwrap_err().code, Code::IdentityMismatch);
    world.lease_one(agent).await;
}

pub async fn an_unknown_node_is_refused(world: &mut World) {
    let nobody = Agent { node: world.id(), enrolment: world.id() };
    assert_eq!(world.claim(nobody, 1, None).await.unwrap_err().code, Code::NodeNotFound);
}

pub async fn a_node_that_is_not_approved_gets_nothing(world: &mut World) {
    let (agent, node) = world.joined("a", false).await;
    assert!(world.lease(agent, 1).await.is_empty());
    world.store.change_node(node.id, NodeEvent::Approve, Actor::system()).await.unwrap().unwrap();
    world.ok(world.echo()).await;
    world.lease_one(agent).await;
}

pub async fn what_is_leased_is_not_leased_twice(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    assert_eq!((leased.intent, leased.fence.attempt), (Intent::Run, 1));
    assert!(world.lease(agent, 10).await.is_empty());
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
}

pub async fn a_resync_sends_what_the_agent_never_saw_under_the_same_fence(world: &mut World) {
    let agent = world.node("a").await;
    for _ in 0..2 {
        world.ok(world.echo()).await;
    }
    let leased = world.lease(agent, 2).await;
    world.advance(20);
    let held = vec![(leased[0].task, leased[0].fence)];
    let again = world.claim(agent, 5, Some(held.clone())).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].task, again[0].fence), (leased[1].task, leased[1].fence));
    // Sent again means held for a whole lease again.
    assert_eq!(again[0].lease_expires_at, world.now().plus(Duration::from_secs(30)));
    let other_fence = vec![(leased[0].task, leased[0].fence.next())];
    assert_eq!(world.claim(agent, 5, Some(other_fence)).await.unwrap().len(), 2);
    world.ok(world.echo()).await;
    assert_eq!(world.claim(agent, 5, Some(held)).await.unwrap().len(), 2);
}

pub async fn a_resync_under_a_new_enrolment_gets_nothing_of_the_old_one(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let old = world.lease_one(agent).await;
    let again = world.node("a").await;
    assert_eq!(again.node, agent.node);
    assert!(world.claim(again, 5, Some(Vec::new())).await.unwrap().is_empty());
    assert_eq!(world.claim(agent, 5, Some(Vec::new())).await.unwrap_err().code, Code::IdentityMismatch);
    world.advance(31);
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
    world.advance(5);
    let new = world.lease_one(again).await;
    assert_eq!((new.task, new.fence), (task.id, old.fence.next()));
}

pub async fn a_lease_says_the_vms_epoch_and_the_deadline(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    assert_eq!((leased.epoch, leased.kind, leased.target), (Some(1), KindName::VmCreate, task.target));
    assert_eq!(leased.params, task.params);
    // Ten minutes, and the minute in which the guest may become ready.
    assert_eq!(leased.deadline, world.now().plus(Duration::from_secs(660)));
    assert_eq!(world.task(task.id).await.deadline, Some(leased.deadline));
}

pub async fn what_can_no_longer_be_done_is_refused_when_its_turn_comes(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let program = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    let mut crashed = seen(vm, VmState::Error);
    crashed.reason = Some(VmReason::Crashed);
    world.beat(agent, vec![crashed]).await;
    assert!(world.lease(agent, 5).await.is_empty());
    let task = world.task(program.id).await;
    assert_eq!((task.state, task.error.unwrap().code), (TaskState::Failed, Code::VmStateConflict));
    assert_eq!(task.fence.attempt, 0);
}

pub async fn what_is_about_an_unknown_vm_waits_until_it_is_known(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let program = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    world.advance(121);
    world.store.judge_nodes().await.unwrap();
    assert_eq!(world.vm(vm).await.state, VmState::Unknown);
    assert!(world.lease(agent, 5).await.is_empty());
    assert_eq!(world.task(program.id).await.state, TaskState::Queued);
    let mut wakes = world.store.wakes();
    world.beat(agent, vec![seen(vm, VmState::Running)]).await;
    assert!(wakes.try_recv().unwrap().nodes.contains(&agent.node));
    assert_eq!(world.lease_one(agent).await.task, program.id);
}

pub async fn nodes_that_have_something_to_fetch_are_found_one_after_another(world: &mut World) {
    let mut agents = Vec::new();
    for name in ["a", "b", "c", "d"] {
        agents.push(world.node(name).await);
    }
    agents.sort_by_key(|agent| agent.node);
    let [none, leased, two, later] = agents[..] else { unreachable!("four nodes") };
    let at = |agent: Agent| {
        let mut submission = world.echo();
        submission.target.node = Some(agent.node);
        submission
    };
    let mut in_a_minute = at(later);
    in_a_minute.not_before = world.now().plus(Duration::from_secs(60));
    for submission in [at(leased), at(two), at(two), in_a_minute] {
        world.ok(submission).await;
    }
    world.lease_one(leased).await;
    let found = async |behind, limit| world.store.nodes_with_work(behind, limit).await.unwrap();
    assert_eq!(found(None, 9).await, [two.node]);
    world.advance(61);
    assert_eq!(found(None, 9).await, [two.node, later.node]);
    assert_eq!(found(None, 1).await, [two.node]);
    assert_eq!(found(Some(two.node), 9).await, [later.node]);
    assert_eq!(found(Some(later.node), 9).await, []);
    assert!(world.lease(none, 9).await.is_empty());
}
