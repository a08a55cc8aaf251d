//! Passes of the loops.

use std::time::Duration;

use hostler_model::{
    Code, TaskId,
    kind::KindName,
    node::Freshness,
    retry::{Backoff, RetryPolicy},
    task::{AbortReason, Effects, Intent, TaskState},
    vm::{Observation, VmReason, VmState},
};
use hostler_store::Submission;
use serde_json::json;

use crate::world::{World, cancelled, failed, one_vm, seen};

pub async fn a_lapsed_lease_comes_again_after_a_pause(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let first = world.lease_one(agent).await;
    world.advance(29);
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    world.advance(1);
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
    let queued = world.task(task.id).await;
    assert_eq!(queued.state, TaskState::Queued);
    let pause = queued.not_before.since(world.now());
    assert!(pause >= Duration::from_millis(500) && pause <= Duration::from_secs(1));
    assert!(world.lease(agent, 1).await.is_empty());
    world.advance(1);
    assert_eq!(world.lease_one(agent).await.fence, first.fence.next());
}

pub async fn leases_are_not_judged_before_a_full_lease_of_service(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.advance(1000);
    world.reopen();
    world.advance(29);
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    // The holder had its chance, and used it.
    world.progress(agent, &leased, "boot", &[]).await.unwrap();
    world.advance(1);
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    world.serve(30).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
}

pub async fn the_last_lapse_leads_to_aborting(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    for _ in 0..3 {
        world.lease_one(agent).await;
        world.serve(31).await;
        world.store.lapse_leases().await.unwrap();
        world.advance(10);
    }
    let aborting = world.task(task.id).await;
    assert_eq!((aborting.state, aborting.abort_reason), (TaskState::Aborting, Some(AbortReason::Attempts)));
    assert_eq!(world.book().await.held.memory_mib, 1);
    let last = world.lease_one(agent).await;
    assert_eq!(last.intent, Intent::Abort);
    world.end_with(agent, &last, cancelled(Effects::Undone)).await;
    let ended = world.task(task.id).await;
    assert_eq!((ended.state, ended.error.unwrap().code), (TaskState::Failed, Code::AttemptsExhausted));
    assert!(world.book().await.total().is_zero());
}

pub async fn what_nobody_leases_in_time_fails(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    world.advance(30 * 60 - 1);
    assert_eq!(world.store.expire_queued().await.unwrap().changed, 0);
    world.advance(1);
    // It is too late for a node to take it, even before the pass.
    assert!(world.lease(agent, 5).await.is_empty());
    assert_eq!(world.store.expire_queued().await.unwrap().changed, 1);
    let task = world.task(task.id).await;
    assert_eq!((task.state, task.error.unwrap().code), (TaskState::Failed, Code::DeadlineExceeded));
    assert_eq!(world.vm(task.target.vm.unwrap()).await.state, VmState::Deleted);
    assert!(world.book().await.total().is_zero());
}

pub async fn what_runs_too_long_is_aborted(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.advance(59);
    assert_eq!(world.store.expire_running().await.unwrap().changed, 0);
    world.advance(1);
    assert_eq!(world.store.expire_running().await.unwrap().changed, 1);
    assert_eq!(world.store.expire_running().await.unwrap().changed, 0);
    assert_eq!(world.task(task.id).await.abort_reason, Some(AbortReason::Deadline));
    assert!(world.progress(agent, &leased, "", &[]).await.unwrap().abort);
    world.end_with(agent, &leased, cancelled(Effects::Undone)).await;
    assert_eq!(world.task(task.id).await.error.unwrap().code, Code::DeadlineExceeded);
}

pub async fn a_retry_has_its_own_time_in_the_queue(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    world.advance(30 * 60);
    world.progress(agent, &leased, "boot", &[]).await.unwrap();
    world.advance(31);
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
    // More than half an hour after the submission it is queued anew, not overdue.
    assert_eq!(world.store.expire_queued().await.unwrap().changed, 0);
    assert_eq!(world.task(task.id).await.state, TaskState::Queued);
}

pub async fn silence_makes_a_node_stale_and_then_lost(world: &mut World) {
    let agent = world.node("a").await;
    let mut freshness = Vec::new();
    for seconds in [60, 1, 59, 1, 1000] {
        world.serve(seconds).await;
        world.store.judge_nodes().await.unwrap();
        freshness.push(world.store.node(agent.node).await.unwrap().unwrap().freshness);
    }
    assert_eq!(freshness, [Freshness::Fresh, Freshness::Stale, Freshness::Stale, Freshness::Lost, Freshness::Lost]);
    let told: Vec<_> =
        world.kinds_after(0).await.into_iter().filter(|k| k.starts_with("node.") && !k.contains("join")).collect();
    assert_eq!(told, ["node.stale", "node.lost"]);
    world.refused(world.echo(), Code::NoCapacity).await;
    world.beat(agent, Vec::new()).await;
    world.ok(world.echo()).await;
}

pub async fn a_lost_node_makes_its_vms_unknown(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let making = world.ok(world.create("other")).await.target.vm.unwrap();
    world.advance(121);
    assert_eq!(world.store.judge_nodes().await.unwrap().changed, 1);
    let vm = world.vm(id).await;
    assert_eq!(
        (vm.state, vm.reason, vm.last_state),
        (VmState::Unknown, Some(VmReason::NodeLost), Some(VmState::Running))
    );
    // It may well run: it stays charged.
    assert_eq!(world.book().await.used.room(), one_vm());
    assert_eq!(world.vm(making).await.state, VmState::Provisioning);
}

pub async fn at_most_one_of_few_nodes_is_lost_per_lease_period(world: &mut World) {
    for name in ["a", "b", "c"] {
        world.node(name).await;
    }
    world.advance(121);
    let lost = async |world: &World| {
        world.store.judge_nodes().await.unwrap();
        let nodes = world.store.nodes().await.unwrap();
        nodes.iter().filter(|node| node.freshness == Freshness::Lost).count()
    };
    assert_eq!(lost(world).await, 1);
    assert_eq!(lost(world).await, 1);
    world.serve(30).await;
    assert_eq!(lost(world).await, 2);
    world.serve(29).await;
    assert_eq!(lost(world).await, 2);
    world.advance(1);
    assert_eq!(lost(world).await, 3);
}

pub async fn silence_counts_from_the_stores_own_start(world: &mut World) {
    let agent = world.node("a").await;
    world.advance(10_000);
    world.reopen();
    assert_eq!(world.store.judge_nodes().await.unwrap().changed, 0);
    world.serve(61).await;
    assert_eq!(world.store.judge_nodes().await.unwrap().changed, 1);
    assert_eq!(world.store.node(agent.node).await.unwrap().unwrap().freshness, Freshness::Stale);
}

pub async fn a_suspended_process_burns_no_attempt_and_loses_no_node(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    world.lease_one(agent).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    // Nobody could be heard.
    world.advance(1000);
    for _ in 0..2 {
        assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
        assert_eq!(world.store.judge_nodes().await.unwrap().changed, 0);
        world.serve(29).await;
    }
    // This time it is the node that is silent.
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
    assert_eq!(world.task(task.id).await.state, TaskState::Queued);
    assert_eq!(world.store.judge_nodes().await.unwrap().changed, 0);
    world.serve(3).await;
    assert_eq!(world.store.judge_nodes().await.unwrap().changed, 1);
    assert_eq!(world.store.node(agent.node).await.unwrap().unwrap().freshness, Freshness::Stale);
}

pub async fn a_clock_that_steps_back_keeps_no_lease_and_no_start_waiting(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let policy = Submission { params: json!({"restart": "always"}), ..world.on_vm(KindName::VmEdit, vm) };
    world.store.edit_vm(policy).await.unwrap().unwrap();
    let crashed = Observation { reason: Some(VmReason::Crashed), ..seen(vm, VmState::Error) };
    world.beat(agent, vec![crashed]).await;
    let task = world.ok(world.echo()).await;
    world.lease_one(agent).await;
    world.serve(1).await;
    world.step_back(7 * 24 * 3600);
    // A week ago nobody is overdue, and what is known of time begins anew.
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    assert_eq!(world.store.restart_vms().await.unwrap().changed, 1, "its start is due in a week");
    world.serve(29).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0, "the holder had no full lease to renew it");
    world.serve(2).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1, "the lease lasts for a week");
    assert_eq!(world.task(task.id).await.state, TaskState::Queued);
}

pub async fn a_clock_that_steps_back_keeps_no_backoff_waiting(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let own = world.ok(world.on_vm(KindName::VmStop, vm)).await;
    let mut patient = world.echo();
    patient.schedule.retry =
        RetryPolicy { attempts: 9, backoff: Backoff::Linear, first_seconds: 9000, most_seconds: 9000 };
    let patient = world.ok(patient).await;
    let mut later = world.echo();
    later.not_before = world.now().plus(Duration::from_secs(60));
    let later = world.ok(later).await;
    for leased in world.lease(agent, 9).await {
        world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    }
    assert_eq!(world.task(own.id).await.state, TaskState::Queued);
    world.step_back(7 * 24 * 3600);
    world.store.lapse_leases().await.unwrap();
    let pause = async |task: TaskId| world.task(task).await.not_before.since(world.now()).as_secs();
    let most = KindName::VmStop.spec().retry.most_seconds;
    assert_eq!((pause(own.id).await, pause(patient.id).await), (u64::from(most), 9000));
    assert_eq!(pause(later.id).await, 7 * 24 * 3600 + 60, "somebody's word is kept");
    world.advance(most.into());
    assert_eq!(world.lease_one(agent).await.task, own.id);
}

pub async fn what_could_be_leased_before_the_clock_stepped_back_still_can_be(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    world.lease_one(agent).await;
    world.serve(31).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
    world.advance(90);
    // A claim lets it be leased, and has no slot for it.
    assert!(world.lease(agent, 0).await.is_empty());
    world.step_back(7 * 24 * 3600);
    world.cancel(task.id).await.unwrap();
    let leased = world.lease_one(agent).await;
    assert_eq!((leased.task, leased.intent), (task.id, Intent::Abort));
}

pub async fn service_begins_anew_when_a_server_begins_to_serve(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    world.lease_one(agent).await;
    world.reopen();
    // An image is taken in meanwhile, and nobody can be heard.
    world.advance(600);
    world.store.begin_service();
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    assert_eq!(world.store.judge_nodes().await.unwrap().changed, 0);
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
    world.serve(31).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
}

pub async fn a_pass_says_when_there_is_more(world: &mut World) {
    world.node("a").await;
    for _ in 0..2 {
        let batch = (0..255).map(|_| world.echo()).collect();
        assert!(world.store.submit(batch).await.unwrap().iter().all(Result::is_ok));
    }
    world.advance(15 * 60);
    let first = world.store.expire_queued().await.unwrap();
    assert_eq!((first.changed, first.more), (500, true));
    let second = world.store.expire_queued().await.unwrap();
    assert_eq!((second.changed, second.more), (10, false));
}
