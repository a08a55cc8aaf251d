//! Heartbeats: freshness, leases, and what inventories say.

use hostler_model::{
    Code,
    event::{Class, Entry},
    internal::{HeartbeatAnswer, HeldLease},
    kind::KindName,
    node::Freshness,
    refused::{Counted, Refused, Why},
    task::Effects,
    vm::{Observation, VmReason, VmState},
};

use hostler_store::LogFilter;
use serde_json::json;
use uuid::Uuid;

use crate::world::{Agent, World, cancelled, failed, one_vm, seen};

async fn beat_with(world: &World, agent: Agent, leases: &[&hostler_store::Leased]) -> HeartbeatAnswer {
    let beat = world.heartbeat(agent, leases, false, Vec::new());
    world.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap().answer
}

fn held(leased: &hostler_store::Leased) -> HeldLease {
    HeldLease { task: leased.task, fence: leased.fence }
}

pub async fn a_heartbeat_renews_leases(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    for _ in 0..3 {
        world.serve(29).await;
        let answer = beat_with(world, agent, &[&leased]).await;
        assert_eq!((answer.abort, answer.over, answer.next_ms), (Vec::new(), Vec::new(), 5000));
        assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    }
    world.serve(30).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
}

pub async fn a_heartbeat_learns_what_to_abort_and_what_is_over(world: &mut World) {
    let agent = world.node("a").await;
    for _ in 0..3 {
        world.ok(world.echo()).await;
    }
    let leased = world.lease(agent, 3).await;
    world.cancel(leased[0].task).await.unwrap();
    world.succeed(agent, &leased[1]).await;
    let answer = beat_with(world, agent, &[&leased[0], &leased[1], &leased[2]]).await;
    assert_eq!((answer.abort, answer.over), (vec![leased[0].task], vec![held(&leased[1])]));
    // Another attempt is current.
    let stale = hostler_store::Leased { fence: leased[2].fence.next(), ..leased[2].clone() };
    assert_eq!(beat_with(world, agent, &[&stale]).await.over, [held(&stale)]);
    // Nobody else has it: the attempt may still report.
    world.advance(31);
    world.store.lapse_leases().await.unwrap();
    assert_eq!(beat_with(world, agent, &[&leased[2]]).await.over, []);
}

pub async fn a_heartbeat_that_says_nothing_new_writes_no_entry(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let head = world.head().await;
    for _ in 0..3 {
        world.advance(5);
        world.beat(agent, vec![seen(vm, VmState::Running)]).await;
    }
    assert_eq!(world.head().await, head);
    assert_eq!(world.store.node(agent.node).await.unwrap().unwrap().last_seen, Some(world.now()));
}

pub async fn facts_are_kept(world: &mut World) {
    let agent = world.node("a").await;
    let mut beat = world.heartbeat(agent, &[], true, Vec::new());
    beat.heartbeat.facts.kernel = "7.0".into();
    beat.heartbeat.facts.capacity.vcpus = 3;
    world.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap();
    let node = world.store.node(agent.node).await.unwrap().unwrap();
    assert_eq!((node.facts.kernel.as_str(), node.schedulable.vcpus), ("7.0", 12));
}

pub async fn a_heartbeat_of_another_enrolment_is_refused(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let stranger = Agent { enrolment: b.enrolment, ..a };
    let beats = [a, stranger, b].map(|agent| world.heartbeat(agent, &[], true, Vec::new()));
    let answers = world.store.heartbeat(beats.to_vec()).await.unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().code, Code::IdentityMismatch);
}

fn crashed(vm: hostler_model::VmId) -> Observation {
    Observation { reason: Some(VmReason::Crashed), detail: Some("signal 9".into()), ..seen(vm, VmState::Error) }
}

pub async fn an_observed_crash_is_written_down(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    world.beat(agent, vec![crashed(vm)]).await;
    let vm = world.vm(vm).await;
    assert_eq!((vm.state, vm.reason, vm.last_state), (VmState::Error, Some(VmReason::Crashed), Some(VmState::Running)));
    assert_eq!((vm.detail.as_deref(), vm.ready), (Some("signal 9"), false));
    // It is still there, so it is still charged.
    assert_eq!(world.book().await.used.room(), one_vm());
    assert!(world.kinds_after(0).await.contains(&"vm.error".to_owned()));
}

pub async fn an_inventory_older_than_a_change_does_not_undo_it(world: &mut World) {
    let agent = world.node("a").await;
    world.beat(agent, Vec::new()).await;
    let id = world.ok(world.create("web")).await.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    // This one may have been taken before the machine was made.
    world.beat(agent, Vec::new()).await;
    assert_eq!(world.vm(id).await.state, VmState::Running);
    // This one was taken after the one before it was received.
    world.beat(agent, Vec::new()).await;
    assert_eq!(world.vm(id).await.reason, Some(VmReason::Missing));
}

pub async fn a_vm_that_a_full_inventory_lacks_is_missing_and_no_longer_charged(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    world.beat(agent, Vec::new()).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.state, vm.reason), (VmState::Error, Some(VmReason::Missing)));
    assert!(world.book().await.total().is_zero());
    assert!(world.store.node(agent.node).await.unwrap().unwrap().book.total().is_zero());
    let head = world.head().await;
    world.beat(agent, Vec::new()).await;
    assert_eq!(world.head().await, head);
}

pub async fn a_light_inventory_misses_nothing(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    for _ in 0..2 {
        beat_with(world, agent, &[]).await;
    }
    assert_eq!(world.vm(id).await.state, VmState::Running);
}

pub async fn a_vm_whose_making_failed_and_that_is_seen_is_in_use(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.ok(world.create("web")).await.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    assert_eq!((world.vm(vm).await.state, world.book().await.held.vms), (VmState::Error, 1));
    world.beat(agent, Vec::new()).await;
    world.beat(agent, vec![seen(vm, VmState::Running)]).await;
    let book = world.book().await;
    assert_eq!((book.held.vms, book.used.vms, book.used.running_vms), (0, 1, 1));
}

pub async fn a_missing_vm_that_is_seen_again_is_charged_again(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    world.beat(agent, Vec::new()).await;
    world.beat(agent, vec![seen(id, VmState::Running)]).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.state, vm.reason, vm.ready), (VmState::Running, None, true));
    assert_eq!(world.book().await.used.room(), one_vm());
}

pub async fn a_missing_vm_that_is_started_is_charged_again(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    world.beat(agent, Vec::new()).await;
    assert!(world.book().await.total().is_zero());
    world.ok(world.on_vm(KindName::VmStart, id)).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let book = world.book().await;
    assert_eq!((world.vm(id).await.state, book.used.room(), book.used.running_vms), (VmState::Running, one_vm(), 1));
}

pub async fn a_vm_in_error_that_is_gone_is_no_longer_charged(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.ok(world.create("web")).await.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    assert_eq!(world.book().await.held.room(), one_vm());
    world.beat(agent, Vec::new()).await;
    world.beat(agent, Vec::new()).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.state, vm.reason), (VmState::Error, Some(VmReason::CreateFailed)));
    assert!(world.book().await.total().is_zero());
}

pub async fn a_vm_whose_task_is_under_way_is_left_alone(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    world.ok(world.on_vm(KindName::VmDelete, id)).await;
    let delete = world.lease_one(agent).await;
    world.beat(agent, Vec::new()).await;
    world.beat(agent, Vec::new()).await;
    assert_eq!(world.vm(id).await.state, VmState::Running);
    world.end_with(agent, &delete, cancelled(Effects::Undone)).await;
    world.beat(agent, vec![seen(id, VmState::Running)]).await;
}

pub async fn an_orphan_is_answered_each_time_and_logged_once(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let mut submission = world.create("web");
    submission.target.node = Some(a.node);
    let elsewhere = world.ok(submission).await.target.vm.unwrap();
    let stranger = world.id();
    for _ in 0..3 {
        let mut orphans =
            world.beat(b, vec![seen(stranger, VmState::Running), seen(elsewhere, VmState::Running)]).await.orphans;
        orphans.sort_unstable();
        let mut expected = vec![stranger, elsewhere];
        expected.sort_unstable();
        assert_eq!(orphans, expected);
    }
    let logged = |kinds: Vec<String>| kinds.iter().filter(|kind| *kind == "node.orphan").count();
    assert_eq!(logged(world.kinds_after(0).await), 2);
    assert_eq!(world.beat(b, Vec::new()).await.orphans, []);
    world.beat(b, vec![seen(stranger, VmState::Running)]).await;
    assert_eq!(logged(world.kinds_after(0).await), 3);
    // A machine of ours elsewhere is not touched by it.
    assert_eq!(world.vm(elsewhere).await.state, VmState::Provisioning);
}

async fn deleted(world: &World, agent: Agent) -> hostler_model::VmId {
    let id = world.running(agent, "web").await;
    world.ok(world.on_vm(KindName::VmDelete, id)).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    id
}

pub async fn a_vm_that_was_just_deleted_is_no_orphan(world: &mut World) {
    let agent = world.node("a").await;
    let id = deleted(world, agent).await;
    assert_eq!(world.beat(agent, vec![seen(id, VmState::Running)]).await.orphans, []);
    assert_eq!(world.beat(agent, Vec::new()).await.orphans, []);
}

pub async fn a_deleted_vm_that_is_still_there_is_an_orphan(world: &mut World) {
    let agent = world.node("a").await;
    let id = deleted(world, agent).await;
    world.beat(agent, vec![seen(id, VmState::Running)]).await;
    assert_eq!(world.beat(agent, vec![seen(id, VmState::Running)]).await.orphans, [id]);
    assert_eq!(world.vm(id).await.state, VmState::Deleted);
}

pub async fn what_was_unknown_is_known_again_when_its_node_returns(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    world.advance(121);
    world.store.judge_nodes().await.unwrap();
    assert_eq!(world.vm(id).await.state, VmState::Unknown);
    world.beat(agent, vec![seen(id, VmState::Running)]).await;
    assert_eq!(world.store.node(agent.node).await.unwrap().unwrap().freshness, Freshness::Fresh);
    let vm = world.vm(id).await;
    assert_eq!((vm.state, vm.reason, vm.last_state, vm.ready), (VmState::Running, None, None, true));
    assert_eq!(world.book().await.used.room(), one_vm());
}

pub async fn an_unknown_vm_is_not_what_it_was_in_another_life(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    world.advance(121);
    world.store.judge_nodes().await.unwrap();
    world.beat(agent, vec![Observation { epoch: 7, ..seen(id, VmState::Running) }]).await;
    assert_eq!(world.vm(id).await.state, VmState::Unknown);
}

pub async fn a_state_that_no_node_can_see_changes_nothing(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.ok(world.create("web")).await.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    for phantom in [VmState::Provisioning, VmState::Unknown, VmState::Deleted] {
        world.beat(agent, vec![seen(id, phantom)]).await;
        world.beat(agent, vec![seen(id, phantom)]).await;
        let vm = world.vm(id).await;
        assert_eq!((vm.state, vm.reason), (VmState::Error, Some(VmReason::CreateFailed)), "{phantom}");
    }
    // Something of it is there all the same.
    assert_eq!(world.book().await.held.room(), one_vm());
}

pub async fn what_an_agent_refused_is_in_the_audit_one_line_for_each_reason(world: &mut World) {
    let agent = world.node("a").await;
    let head = world.head().await;
    let all = Why::ALL.iter().copied().chain([Why::Expired; 50]).map(|why| (why, 7));
    say(world, agent, 1, all.collect()).await;
    let entries = audited(world, head).await;
    assert_eq!(entries.len(), Why::ALL.len(), "an agent that says more is not written down for it");
    for (entry, why) in entries.iter().zip(Why::ALL) {
        assert_eq!((entry.kind.as_str(), entry.subject), ("task.refused", agent.node.0));
        assert_eq!((&entry.data["what"]["why"], &entry.data["what"]["count"]), (&json!(why.as_str()), &json!(7)));
        assert_eq!(entry.data["actor"]["role"], "node");
    }
}

/// A heartbeat that says how many tasks were refused in all, for each reason.
async fn say(world: &World, agent: Agent, count: u128, refused: Vec<(Why, u64)>) {
    let at = world.now();
    let line = |(why, count)| Refused { why, count, task: None, fence: None, at };
    let refused = refused.into_iter().map(line).collect();
    let mut beat = world.heartbeat(agent, &[], false, Vec::new());
    beat.heartbeat.refused = Some(Counted { count: Uuid::from_u128(count), refused });
    world.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap();
}

async fn audited(world: &World, after: i64) -> Vec<Entry> {
    let filter = LogFilter { class: Some(Class::Audit), ..LogFilter::default() };
    world.store.log(filter, after, 100).await.unwrap()
}

pub async fn what_an_agent_refused_is_written_down_once_however_often_it_says_so(world: &mut World) {
    let agent = world.node("a").await;
    let head = world.head().await;
    let three = vec![(Why::Expired, 3)];
    say(world, agent, 1, three.clone()).await;
    // The answer was lost, and the agent says the same again; then more.
    say(world, agent, 1, three.clone()).await;
    say(world, agent, 1, vec![(Why::Expired, 5), (Why::Malformed, 1)]).await;
    // It is kept with the node, for whichever server hears the next one, and whatever else changes of it.
    world.reopen();
    say(world, agent, 1, vec![(Why::Expired, 5), (Why::Malformed, 1)]).await;
    // A host that lost its journal counts anew.
    say(world, agent, 2, vec![(Why::Expired, 2)]).await;
    let told: Vec<(String, u64)> = audited(world, head)
        .await
        .iter()
        .map(|entry| &entry.data["what"])
        .map(|what| (what["why"].as_str().unwrap().to_owned(), what["count"].as_u64().unwrap()))
        .collect();
    let expected = [("expired", 3), ("expired", 2), ("malformed", 1), ("expired", 2)];
    assert_eq!(told, expected.map(|(why, count)| (why.to_owned(), count)));
}
