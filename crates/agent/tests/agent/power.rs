//! The power of machines: stopped, started, restarted, paused, resumed; by this agent and by the one after it.

use std::time::Duration;

use hostler_agent::hypervisor::{
    Exit,
    sim::{Sim, SimConfig, SimHost},
};
use hostler_model::{
    VmId,
    error::Code,
    internal::{Assignment, Report},
    kind::KindName,
    task::{Effects, End},
    vm::{Observation, VmReason, VmState},
};
use serde_json::{Value, json};

use crate::{
    server::{Running, Server, folder, succeeded},
    world::{Gate, World},
};

fn on(server: &Server, kind: KindName, vm: VmId, params: Value) -> Assignment {
    server.task(kind, Some(vm), params)
}

/// Does it, and says what came of it.
async fn done(server: &Server, kind: KindName, vm: VmId, params: Value) -> Report {
    let n = server.results().len();
    server.give(&on(server, kind, vm, params));
    server.result(n + 1).await
}

async fn refused(server: &Server, kind: KindName, vm: VmId) -> (Code, String) {
    match done(server, kind, vm, json!({"argv": ["true"]})).await.end {
        End::Failed { code, detail, .. } => (code, detail),
        other => panic!("it was not refused: {other:?}"),
    }
}

/// What the next heartbeat says of a machine.
async fn seen(server: &Server, vm: VmId) -> Observation {
    let before = server.with(|heard| heard.heartbeats.len());
    let found = |heard: &crate::server::Heard| {
        let beat = heard.heartbeats.iter().skip(before).last()?;
        beat.inventory.vms.iter().find(|seen| seen.vm == vm).cloned()
    };
    server.until(found).await
}

async fn created(server: &Server) -> VmId {
    let (vm, n) = (server.vm(), server.results().len());
    server.give(&server.create(vm));
    succeeded(&server.result(n + 1).await);
    vm
}

/// A server, an agent that has joined it, and a machine that runs.
async fn running() -> (Server, tempfile::TempDir, World, Running, VmId) {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = created(&server).await;
    (server, data, world, agent, vm)
}

#[tokio::test(start_paused = true)]
async fn a_machine_goes_through_all_its_states() {
    let (server, _data, world, agent, vm) = running().await;

    assert_eq!(succeeded(&done(&server, KindName::VmPause, vm, json!({})).await)["already"], false);
    assert_eq!((seen(&server, vm).await.state, seen(&server, vm).await.ready), (VmState::Paused, false));
    let (code, why) = refused(&server, KindName::VmExec, vm).await;
    assert!(code == Code::VmStateConflict && why.contains("paused; resume it first"), "{why}");
    assert_eq!(succeeded(&done(&server, KindName::VmPause, vm, json!({})).await)["already"], true);
    let resumed = done(&server, KindName::VmResume, vm, json!({})).await;
    assert_eq!(succeeded(&resumed), &json!({"already": false, "ready": true}));
    assert_eq!((seen(&server, vm).await.state, seen(&server, vm).await.ready), (VmState::Running, true));

    assert_eq!(succeeded(&done(&server, KindName::VmStop, vm, json!({})).await)["how"], "graceful");
    assert_eq!((seen(&server, vm).await.state, seen(&server, vm).await.reason), (VmState::Stopped, None));
    let (_, why) = refused(&server, KindName::VmExec, vm).await;
    assert!(why.contains("not running; start it first"), "{why}");
    assert_eq!(succeeded(&done(&server, KindName::VmStop, vm, json!({})).await)["how"], "already");

    let started = done(&server, KindName::VmStart, vm, json!({})).await;
    assert_eq!(succeeded(&started), &json!({"how": "started", "boot_ms": 12.5}));
    let phases: Vec<_> = started.phases.iter().map(|timing| timing.phase.as_str()).collect();
    assert_eq!(phases, ["start", "boot"]);
    assert_eq!(succeeded(&done(&server, KindName::VmStart, vm, json!({})).await)["how"], "already");
    assert_eq!(world.see().machines[&vm].process, 2, "one process after the other, and no third");

    assert_eq!(succeeded(&done(&server, KindName::VmReboot, vm, json!({})).await)["how"], "graceful");
    assert_eq!(succeeded(&done(&server, KindName::VmReboot, vm, json!({"hard": true})).await)["how"], "hard");
    assert_eq!(seen(&server, vm).await.state, VmState::Running);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_turn_itself_off_is_stopped_hard() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    world.hold(Gate::Shutdown);
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = created(&server).await;
    let stopped = done(&server, KindName::VmStop, vm, json!({"timeout_seconds": 5})).await;
    assert_eq!(succeeded(&stopped)["how"], "hard");
    assert!(stopped.finished_at.since(stopped.started_at) >= Duration::from_secs(5));
    assert_eq!(world.begun(Gate::Shutdown), 1);
    assert_eq!(world.see().machines[&vm].exit, Some(Exit::Requested));

    succeeded(&done(&server, KindName::VmStart, vm, json!({})).await);
    let at_once = done(&server, KindName::VmStop, vm, json!({"timeout_seconds": 0})).await;
    assert_eq!(succeeded(&at_once)["how"], "hard");
    assert_eq!(world.begun(Gate::Shutdown), 1, "the guest was not asked");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_machine_is_woken_to_turn_itself_off() {
    let (server, _data, world, agent, vm) = running().await;
    succeeded(&done(&server, KindName::VmPause, vm, json!({})).await);
    assert_eq!(succeeded(&done(&server, KindName::VmStop, vm, json!({})).await)["how"], "graceful");
    assert!(!world.see().machines[&vm].paused);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_knows_how_machines_stand() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let [paused, stopped, off, crashed] =
        [created(&server).await, created(&server).await, created(&server).await, created(&server).await];
    succeeded(&done(&server, KindName::VmPause, paused, json!({})).await);
    succeeded(&done(&server, KindName::VmStop, stopped, json!({})).await);
    world.exit(off, Exit::GuestShutdown);
    world.until(|state| state.machines[&off].ended.is_some()).await;
    agent.kill().await;
    world.exit(crashed, Exit::Crashed("nobody saw it".into()));

    let agent = server.agent(data.path(), world.clone()).await;
    let state = async |vm| {
        let seen = seen(&server, vm).await;
        (seen.state, seen.reason)
    };
    assert_eq!(state(paused).await, (VmState::Paused, None));
    assert_eq!(state(stopped).await, (VmState::Stopped, None));
    assert_eq!(state(off).await, (VmState::Stopped, Some(VmReason::GuestShutdown)));
    assert_eq!(state(crashed).await, (VmState::Error, Some(VmReason::Crashed)));
    succeeded(&done(&server, KindName::VmResume, paused, json!({})).await);
    for vm in [stopped, off, crashed] {
        succeeded(&done(&server, KindName::VmStart, vm, json!({})).await);
        assert_eq!(state(vm).await, (VmState::Running, None));
    }
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_stopped_for_its_host_says_so_once_another_agent_is_there_and_what_stood_still_before_does_not() {
    for (first, reason) in [(None, Some(VmReason::HostWentDown)), (Some(json!({})), None)] {
        let (server, data, world, agent, vm) = running().await;
        if let Some(stop) = &first {
            succeeded(&done(&server, KindName::VmStop, vm, stop.clone()).await);
        }
        let stopped = done(&server, KindName::VmStop, vm, json!({"host_goes_down": true})).await;
        assert_eq!(succeeded(&stopped)["how"] == "already", first.is_some());
        let now = seen(&server, vm).await;
        assert_eq!((now.state, now.reason), (VmState::Stopped, None), "its host is still there");
        agent.stop().await;
        let agent = server.agent(data.path(), world.clone()).await;
        let now = seen(&server, vm).await;
        assert_eq!((now.state, now.reason), (VmState::Stopped, reason), "{first:?}");
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_after_a_start_runs_and_is_not_ready() {
    let (server, _data, world, agent, vm) = running().await;
    succeeded(&done(&server, KindName::VmStop, vm, json!({})).await);
    world.hold(Gate::Ready);
    let report = done(&server, KindName::VmStart, vm, json!({"ready_timeout_seconds": 7})).await;
    let End::Failed { code, effects, .. } = report.end else { panic!("it succeeded") };
    assert_eq!((code, effects), (Code::GuestNotReady, Effects::Remain));
    let now = seen(&server, vm).await;
    assert_eq!((now.state, now.ready), (VmState::Running, false));
    // It answers at last: nobody has to ask.
    world.release(Gate::Ready);
    let ready =
        |heard: &crate::server::Heard| heard.heartbeats.last()?.inventory.vms.iter().find(|seen| seen.ready).cloned();
    assert_eq!(server.until(ready).await.state, VmState::Running);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_start_is_undone() {
    for gate in [Gate::Start, Gate::Ready] {
        let (server, _data, world, agent, vm) = running().await;
        succeeded(&done(&server, KindName::VmStop, vm, json!({})).await);
        world.hold(gate);
        let start = on(&server, KindName::VmStart, vm, json!({}));
        let begun = world.begun(gate);
        server.give(&start);
        world.until_begun(gate, begun + 1).await;
        server.with(|heard| heard.abort.push(start.sub));
        if gate == Gate::Start {
            // What a driver has begun it finishes; the machine is stopped after that.
            let heard = |heard: &crate::server::Heard| heard.heartbeats.len().checked_sub(3);
            server.until(heard).await;
            world.release(gate);
        }
        assert_eq!(server.result(3).await.end, End::Cancelled { effects: Effects::Undone }, "{gate:?}");
        assert_eq!(world.see().machines[&vm].exit, Some(Exit::Requested));
        assert_eq!(seen(&server, vm).await.state, VmState::Stopped);
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_an_agent_left_unfinished_is_completed_by_the_next() {
    for gate in [Gate::Start, Gate::Ready] {
        let (server, data, world, agent, vm) = running().await;
        succeeded(&done(&server, KindName::VmStop, vm, json!({})).await);
        world.hold(gate);
        let begun = world.begun(gate);
        server.give(&on(&server, KindName::VmStart, vm, json!({})));
        world.until_begun(gate, begun + 1).await;
        agent.kill().await;
        world.release(gate);
        let agent = server.agent(data.path(), world.clone()).await;
        succeeded(&server.result(3).await);
        let machine = world.see().machines[&vm].clone();
        assert_eq!((machine.process, machine.exit), (2, None), "{gate:?}");
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reboot_is_never_done_twice() {
    let (server, data, world, agent, vm) = running().await;
    world.hold(Gate::Shutdown);
    server.give(&on(&server, KindName::VmReboot, vm, json!({"timeout_seconds": 600})));
    world.until_begun(Gate::Shutdown, 1).await;
    agent.kill().await;
    world.release(Gate::Shutdown);
    let agent = server.agent(data.path(), world.clone()).await;
    let End::Failed { code, retryable, .. } = server.result(2).await.end else { panic!("it succeeded") };
    assert_eq!((code, retryable), (Code::OutcomeUnknown, false));
    assert_eq!(world.begun(Gate::Shutdown), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reboot_that_is_cancelled_while_the_machine_starts_again_leaves_it_running() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = created(&server).await;
    world.change(|state| state.reboots_off = true);
    world.hold(Gate::Start);
    let reboot = on(&server, KindName::VmReboot, vm, json!({}));
    server.give(&reboot);
    world.until_begun(Gate::Start, 1).await;
    server.with(|heard| heard.abort.push(reboot.sub));
    assert_eq!(server.result(2).await.end, End::Cancelled { effects: Effects::Remain });
    world.release(Gate::Start);
    // A program waits until nothing is done to the machine any more, and needs one that runs.
    succeeded(&done(&server, KindName::VmExec, vm, json!({"argv": ["true"]})).await);
    assert_eq!(seen(&server, vm).await.state, VmState::Running);
    let machine = world.see().machines[&vm].clone();
    assert_eq!((machine.process, machine.exit), (2, None));
    assert_eq!(succeeded(&done(&server, KindName::VmStop, vm, json!({})).await)["how"], "graceful");
    assert_eq!(seen(&server, vm).await.state, VmState::Stopped);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_removed_whatever_is_being_done_to_it() {
    let (server, _data, world, agent, vm) = running().await;
    world.hold(Gate::Shutdown);
    let stop = on(&server, KindName::VmStop, vm, json!({"timeout_seconds": 3600}));
    server.give(&stop);
    world.until_begun(Gate::Shutdown, 1).await;
    let delete = on(&server, KindName::VmDelete, vm, json!({}));
    server.give(&delete);
    // That of the stop, which is broken off, may come before it.
    let of =
        |heard: &crate::server::Heard| heard.batches.iter().flatten().find(|report| report.task == delete.sub).cloned();
    assert_eq!(succeeded(&server.until(of).await)["existed"], true);
    assert!(!world.has(vm));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_here_can_be_neither_started_nor_stopped() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    for kind in [KindName::VmStart, KindName::VmStop, KindName::VmReboot, KindName::VmPause, KindName::VmResume] {
        let (code, why) = refused(&server, kind, server.vm()).await;
        assert!(code == Code::VmStateConflict && why.contains("not on this node"), "{kind}: {why}");
    }
    let beat = server.until(|heard| heard.heartbeats.last().cloned()).await;
    assert_eq!(beat.inventory.vms, []);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_simulated_machine_does_as_a_real_one_and_knows_that_its_host_went_down() {
    let (server, data, host) = (Server::new(), folder(), SimHost::new());
    let sim = || Sim::new(SimConfig::steady(3), host.clone());
    let agent: Running = server.agent(data.path(), sim()).await;
    let vm = created(&server).await;
    assert_eq!(succeeded(&done(&server, KindName::VmReboot, vm, json!({})).await)["how"], "graceful");
    succeeded(&done(&server, KindName::VmPause, vm, json!({})).await);
    succeeded(&done(&server, KindName::VmResume, vm, json!({})).await);
    assert_eq!(succeeded(&done(&server, KindName::VmStop, vm, json!({})).await)["how"], "graceful");
    assert_eq!(host.alive(vm), 0);
    succeeded(&done(&server, KindName::VmStart, vm, json!({})).await);
    agent.kill().await;
    host.reboot();
    let agent = server.agent(data.path(), sim()).await;
    let now = seen(&server, vm).await;
    assert_eq!((now.state, now.reason), (VmState::Error, Some(VmReason::HostWentDown)));
    succeeded(&done(&server, KindName::VmStart, vm, json!({})).await);
    assert_eq!((host.alive(vm), host.most_alive(vm)), (1, 1));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_and_leaves_a_process_is_not_called_stopped() {
    let (server, data, host) = (Server::new(), folder(), SimHost::new());
    let failing = SimConfig { create_failures: 1.0, ..SimConfig::quick(7) };
    let agent: Running = server.agent(data.path(), Sim::new(SimConfig::quick(7), host.clone())).await;
    let vm = created(&server).await;
    succeeded(&done(&server, KindName::VmStop, vm, json!({})).await);
    agent.kill().await;
    let agent = server.agent(data.path(), Sim::new(failing, host.clone())).await;
    // Half of the failures come when the process is there.
    for _ in 0..64 {
        assert!(matches!(done(&server, KindName::VmStart, vm, json!({})).await.end, End::Failed { .. }));
        if host.alive(vm) == 1 {
            break;
        }
        assert_eq!(seen(&server, vm).await.state, VmState::Stopped);
    }
    assert_eq!(host.alive(vm), 1);
    assert_eq!(seen(&server, vm).await.state, VmState::Running);
    assert_eq!(succeeded(&done(&server, KindName::VmStop, vm, json!({})).await)["how"], "graceful");
    assert_eq!(host.alive(vm), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_stops_a_machine_is_told_already_only_when_no_process_is_there() {
    let (server, _data, world, agent, vm) = running().await;
    succeeded(&done(&server, KindName::VmStop, vm, json!({})).await);
    world.change(|state| {
        state.machines.get_mut(&vm).unwrap().exit = None;
        state.attach_fails = 1;
    });
    assert!(refused(&server, KindName::VmStop, vm).await.1.contains("too many open files"));
    assert_eq!(succeeded(&done(&server, KindName::VmStop, vm, json!({})).await)["how"], "graceful");
    assert!(world.see().machines[&vm].exit.is_some());
    assert_eq!(succeeded(&done(&server, KindName::VmStop, vm, json!({})).await)["how"], "already");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_comes_while_the_machine_is_being_changed_is_remembered() {
    let (server, data, world, agent, vm) = running().await;
    world.hold(Gate::Snapshot);
    let snapshot = "0190f1f0-0000-7000-8000-0000000000c1";
    server.give(&on(&server, KindName::VmSnapshot, vm, json!({"name": "one", "snapshot": snapshot})));
    world.until_begun(Gate::Snapshot, 1).await;
    let n = server.results().len();
    world.exit(vm, Exit::GuestShutdown);
    world.release(Gate::Snapshot);
    server.result(n + 1).await;
    let off = (VmState::Stopped, Some(VmReason::GuestShutdown));
    let now = seen(&server, vm).await;
    assert_eq!((now.state, now.reason), off);
    agent.kill().await;
    let agent = server.agent(data.path(), world.clone()).await;
    let now = seen(&server, vm).await;
    assert_eq!((now.state, now.reason), off, "the agent that comes next knows it too");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_its_hypervisor_holds_is_seen_as_paused_with_the_reason_and_resumed() {
    let (server, data, host) = (Server::new(), folder(), SimHost::new());
    let sim = || Sim::new(SimConfig::quick(5), host.clone());
    let agent: Running = server.agent(data.path(), sim()).await;
    let vm = created(&server).await;
    assert!(host.fail_io(vm));
    let held = |seen: &Observation| {
        let (state, reason, ready) = (seen.state, seen.reason, seen.ready);
        (state, reason, ready) == (VmState::Paused, Some(VmReason::IoError), false)
    };
    let now = seen(&server, vm).await;
    assert!(held(&now) && now.detail.as_ref().is_some_and(|why| why.contains("resume the VM")), "{now:?}");
    assert!(refused(&server, KindName::VmExec, vm).await.1.contains("paused; resume it first"));
    agent.kill().await;
    let agent = server.agent(data.path(), sim()).await;
    assert!(held(&seen(&server, vm).await), "the agent that comes next sees it too");
    let resumed = done(&server, KindName::VmResume, vm, json!({})).await;
    assert_eq!(succeeded(&resumed), &json!({"already": false, "ready": true}));
    let now = seen(&server, vm).await;
    assert_eq!((now.state, now.reason, now.ready), (VmState::Running, None, true));
    agent.stop().await;
}
