//! Agents that die in the middle, and those that come after them.

use hostler_agent::{hypervisor::Exit, metrics::Counter};
use hostler_model::{
    error::Code,
    kind::KindName,
    task::{Effects, End, Intent},
    vm::{VmReason, VmState},
};
use serde_json::json;

use crate::{
    server::{Server, again, folder, succeeded},
    world::{Gate, World},
};

#[tokio::test(start_paused = true)]
async fn an_echo_is_sent_again_and_done_again() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    let task = server.task(KindName::Echo, None, json!({ "message": "hi", "delay_ms": 5000 }));
    server.give(&task);
    agent.counted(Counter::Begun, 1).await;
    agent.kill().await;
    let polls = server.with(|heard| heard.polls.len());
    let agent = server.agent(data.path(), World::new()).await;
    // Nothing was written of it: the first poll names nothing, and a server sends what it is not told is held.
    let poll = server.until(|heard| heard.polls.get(polls).cloned()).await;
    assert!(poll.contains("resync=true") && poll.ends_with("&held="), "{poll}");
    server.give(&task);
    assert_eq!(succeeded(&server.result(1).await)["message"], "hi");
    assert_eq!(server.with(|heard| heard.joins), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_join_whose_answer_is_lost_is_repeated_with_the_same_key_by_the_next_agent_too() {
    let (server, data) = (Server::new(), folder());
    server.with(|heard| heard.joins_lost = 3);
    let first = server.agent(data.path(), World::new()).await;
    server.until(|heard| (heard.joins >= 2).then_some(())).await;
    first.kill().await;
    let agent = server.agent(data.path(), World::new()).await;
    server.until(|heard| (!heard.heartbeats.is_empty()).then_some(())).await;
    let keys = server.with(|heard| heard.join_keys.clone());
    assert!(keys.len() >= 4 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert!(!data.path().join("agent/joining.key").exists(), "it is the identity's now");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_is_never_run_twice() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Exec);
    let agent = server.agent(data.path(), world.clone()).await;
    server.give(&server.exec(vm));
    world.until_begun(Gate::Exec, 1).await;
    agent.kill().await;
    let agent = server.agent(data.path(), world.clone()).await;
    let End::Failed { code, retryable, .. } = server.result(1).await.end else { panic!("it succeeded") };
    assert_eq!((code, retryable), (Code::OutcomeUnknown, false));
    assert_eq!(world.begun(Gate::Exec), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_lives_is_completed() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    world.hold(Gate::Ready);
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = server.vm();
    server.give(&server.create(vm));
    world.until_begun(Gate::Ready, 1).await;
    agent.kill().await;
    world.release(Gate::Ready);
    let agent = server.agent(data.path(), world.clone()).await;
    succeeded(&server.result(1).await);
    let machine = world.see().machines[&vm].clone();
    assert_eq!((machine.process, machine.complete), (1, true));
    assert_eq!(world.begun(Gate::Remove), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_half_made_is_removed_and_made_again() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    world.hold(Gate::Create);
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = server.vm();
    server.give(&server.create(vm));
    world.until_begun(Gate::Create, 1).await;
    agent.kill().await;
    world.release(Gate::Create);
    let agent = server.agent(data.path(), world.clone()).await;
    succeeded(&server.result(1).await);
    assert_eq!((world.begun(Gate::Remove), world.see().machines.len()), (1, 1));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_completed() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Remove);
    let agent = server.agent(data.path(), world.clone()).await;
    server.give(&server.delete(vm));
    world.until_begun(Gate::Remove, 1).await;
    agent.kill().await;
    world.release(Gate::Remove);
    let agent = server.agent(data.path(), world.clone()).await;
    succeeded(&server.result(1).await);
    assert!(!world.has(vm));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_that_was_never_received_is_reported_by_the_next() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    server.with(|heard| heard.results_fail = usize::MAX);
    let agent = server.agent(data.path(), world.clone()).await;
    let task = server.exec(vm);
    server.give(&task);
    agent.counted(Counter::Ended, 1).await;
    agent.kill().await;
    server.with(|heard| heard.results_fail = 0);
    let agent = server.agent(data.path(), world.clone()).await;
    let report = server.result(1).await;
    assert_eq!(report.task, task.sub);
    succeeded(&report);
    assert_eq!(world.begun(Gate::Exec), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_poll_after_a_start_says_what_is_held() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Remove);
    let agent = server.agent(data.path(), world.clone()).await;
    let task = server.delete(vm);
    server.give(&task);
    world.until_begun(Gate::Remove, 1).await;
    agent.kill().await;
    let polls = server.with(|heard| heard.polls.len());
    let agent = server.agent(data.path(), world.clone()).await;
    let poll = server.until(|heard| heard.polls.get(polls).cloned()).await;
    assert!(poll.contains("resync=true"), "{poll}");
    assert!(poll.ends_with(&format!("&held={}:1.1", task.sub)), "{poll}");
    world.release(Gate::Remove);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_later_fence_finds_what_an_earlier_agent_was_told_is_over() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Exec);
    let agent = server.agent(data.path(), world.clone()).await;
    let task = server.exec(vm);
    server.give(&task);
    world.until_begun(Gate::Exec, 1).await;
    server.with(|heard| heard.over.push(task.sub));
    let last = |heard: &crate::server::Heard| heard.heartbeats.last().cloned();
    server.until(|heard| last(heard).filter(|beat| !beat.leases.is_empty())).await;
    server.until(|heard| last(heard).filter(|beat| beat.leases.is_empty())).await;
    server.with(|heard| heard.over.clear());
    server.give(&again(&task, 2, Intent::Run));
    let End::Failed { code, .. } = server.result(1).await.end else { panic!("it ran twice") };
    assert_eq!(code, Code::OutcomeUnknown);
    assert_eq!(world.begun(Gate::Exec), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn machines_outlive_their_agent_and_are_found_again() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let (alive, dead) = (server.vm(), server.vm());
    for vm in [alive, dead] {
        server.give(&server.create(vm));
    }
    server.result(2).await;
    agent.stop().await;
    world.exit(dead, Exit::Crashed("while nobody looked".into()));
    let beats = server.with(|heard| heard.heartbeats.len());
    let agent = server.agent(data.path(), world.clone()).await;
    let inventory = server.until(|heard| heard.heartbeats.get(beats).cloned()).await.inventory;
    assert!(inventory.full);
    let state = |vm| inventory.vms.iter().find(|seen| seen.vm == vm).map(|seen| (seen.state, seen.reason));
    assert_eq!(state(alive), Some((VmState::Running, None)));
    assert_eq!(state(dead), Some((VmState::Error, Some(VmReason::Crashed))));
    server.give(&server.exec(alive));
    succeeded(&server.result(3).await);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_told_to_end_leaves_long_work_to_the_next() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    world.hold(Gate::Ready);
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = server.vm();
    server.give(&server.create(vm));
    world.until_begun(Gate::Ready, 1).await;
    agent.stop().await;
    assert!(server.results().is_empty());
    world.release(Gate::Ready);
    let agent = server.agent(data.path(), world.clone()).await;
    let report = server.result(1).await;
    succeeded(&report);
    assert_ne!(report.end, End::Cancelled { effects: Effects::Undone });
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_agents_never_share_a_folder() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    let second = hostler_agent::Agent::start(server.config(data.path(), World::new())).await;
    assert!(matches!(second, Err(hostler_agent::AgentError::Locked { .. })));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_cannot_be_looked_at_is_not_taken_for_dead_and_is_tried_again() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let (shy, other, hidden) = (server.vm(), server.vm(), server.vm());
    for vm in [shy, other, hidden] {
        world.running(vm);
    }
    // The first in order fails.
    world.change(|state| {
        state.attach_fails = 1;
        state.unread = vec![hidden];
    });
    let agent = server.agent(data.path(), world.clone()).await;
    let inventory = server.until(|heard| heard.heartbeats.first().cloned()).await.inventory;
    assert!(!inventory.full);
    let seen: Vec<_> = inventory.vms.iter().map(|seen| (seen.vm, seen.state)).collect();
    assert_eq!(seen, [(other, VmState::Running)], "{shy} and {hidden} are neither here nor gone");
    let inventory = server
        .until(|heard| heard.heartbeats.iter().map(|beat| &beat.inventory).find(|it| it.vms.len() == 2).cloned())
        .await;
    assert!(!inventory.full, "{hidden} is not known yet");
    world.change(|state| state.unread.clear());
    let full = |heard: &crate::server::Heard| heard.heartbeats.last().map(|beat| beat.inventory.clone());
    let inventory = server.until(|heard| full(heard).filter(|inventory| inventory.full)).await;
    assert!(inventory.vms.len() == 3 && inventory.vms.iter().all(|seen| seen.state == VmState::Running));
    server.give(&server.exec(shy));
    succeeded(&server.result(1).await);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_deleted_before_it_could_be_looked_at_stays_deleted() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.change(|state| state.attach_fails = 1);
    let agent = server.agent(data.path(), world.clone()).await;
    server.give(&server.delete(vm));
    assert_eq!(succeeded(&server.result(1).await)["existed"], true);
    let full = |heard: &crate::server::Heard| heard.heartbeats.last().map(|beat| beat.inventory.clone());
    let inventory = server.until(|heard| full(heard).filter(|inventory| inventory.full)).await;
    assert!(inventory.vms.is_empty(), "{inventory:?}");
    agent.stop().await;
}
