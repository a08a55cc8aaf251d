//! Snapshots of machines: taken, restored, removed; stopped halfway; by this agent and by the one after it.

use hostler_agent::hypervisor::sim::{Sim, SimConfig, SimHost};
use hostler_model::{
    Ids, SnapshotId, Timestamp, VmId,
    error::Code,
    internal::{Assignment, Report},
    kind::KindName,
    task::{Effects, End, Intent},
    vm::{Observation, VmState},
};
use serde_json::{Value, json};

use crate::{
    server::{Running, Server, again, folder, succeeded},
    world::{Gate, World},
};

fn id() -> SnapshotId {
    Ids::system().next(Timestamp::from_micros(1))
}

async fn done(server: &Server, kind: KindName, vm: VmId, params: Value) -> Report {
    let n = server.results().len();
    server.give(&server.task(kind, Some(vm), params));
    server.result(n + 1).await
}

fn failed(report: &Report) -> (Code, Effects) {
    match &report.end {
        End::Failed { code, effects, .. } => (*code, *effects),
        other => panic!("it did not fail: {other:?}"),
    }
}

async fn created(server: &Server) -> VmId {
    let (vm, n) = (server.vm(), server.results().len());
    server.give(&server.create(vm));
    succeeded(&server.result(n + 1).await);
    vm
}

/// What the next heartbeat says: of this machine, and which snapshots there are.
async fn seen(server: &Server, vm: VmId) -> (Observation, Vec<SnapshotId>) {
    let before = server.with(|heard| heard.heartbeats.len());
    let found = |heard: &crate::server::Heard| {
        let inventory = &heard.heartbeats.iter().skip(before).last()?.inventory;
        Some((inventory.vms.iter().find(|seen| seen.vm == vm)?.clone(), inventory.snapshots.clone()))
    };
    server.until(found).await
}

#[tokio::test(start_paused = true)]
async fn one_whose_time_is_up_before_its_machine_hears_of_it_is_not_taken_afterwards() {
    let (server, data, host) = (Server::new(), folder(), SimHost::new());
    let agent = server.agent(data.path(), Sim::new(SimConfig::quick(1), host.clone())).await;
    let vm = created(&server).await;
    let params = json!({"name": "late", "memory": false, "snapshot": id()});
    let task = server.task(KindName::VmSnapshot, Some(vm), params);
    let n = server.results().len();
    server.give(&Assignment { deadline: server.clock.now(), ..task });
    assert_eq!(failed(&server.result(n + 1).await), (Code::DeadlineExceeded, Effects::Undone));
    // What is asked of the machine afterwards comes after all that was asked before.
    succeeded(&done(&server, KindName::VmPause, vm, json!({})).await);
    assert_eq!(host.kept_snapshots(), []);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_is_taken_reported_restored_and_removed() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let (vm, one) = (created(&server).await, id());
    let params = json!({"name": "one", "memory": true, "snapshot": one});
    let output = succeeded(&done(&server, KindName::VmSnapshot, vm, params).await).clone();
    assert_eq!(output, json!({"disk_bytes": 5, "memory_bytes": 7, "paused_ms": 1.0}));
    let (machine, snapshots) = seen(&server, vm).await;
    assert_eq!((machine.state, machine.ready, snapshots), (VmState::Running, true, vec![one]));

    let restored = done(&server, KindName::VmRestore, vm, json!({"snapshot": one})).await;
    let output = succeeded(&restored);
    assert_eq!((&output["memory"], &output["clock_set"]), (&json!(true), &json!(true)));
    assert_eq!((seen(&server, vm).await.0.state, seen(&server, vm).await.0.ready), (VmState::Running, true));
    // Of a machine that is stopped too.
    succeeded(&done(&server, KindName::VmStop, vm, json!({})).await);
    succeeded(&done(&server, KindName::VmRestore, vm, json!({"snapshot": one})).await);
    assert_eq!(seen(&server, vm).await.0.state, VmState::Running);

    let (code, _) = failed(&done(&server, KindName::VmRestore, vm, json!({"snapshot": id()})).await);
    assert_eq!(code, Code::SnapshotUnusable);
    assert_eq!(seen(&server, vm).await.0.state, VmState::Running, "nothing was touched");

    let removed = done(&server, KindName::SnapshotDelete, vm, json!({"snapshot": one})).await;
    assert_eq!(succeeded(&removed), &json!({"existed": true, "layer_kept": false}));
    let again = done(&server, KindName::SnapshotDelete, vm, json!({"snapshot": one})).await;
    assert_eq!(succeeded(&again)["existed"], false);
    assert!(seen(&server, vm).await.1.is_empty());
    let elsewhere = done(&server, KindName::SnapshotDelete, server.vm(), json!({"snapshot": one})).await;
    assert_eq!(succeeded(&elsewhere)["existed"], false, "no machine, no snapshots");
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn a_restored_machine_that_is_not_what_it_should_be_waits_for_its_next_start() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let (vm, one) = (created(&server).await, id());
    succeeded(&done(&server, KindName::VmSnapshot, vm, json!({"name": "one", "memory": true, "snapshot": one})).await);
    assert!(!seen(&server, vm).await.0.restart_pending);
    world.change(|state| state.restored_behind = true);
    succeeded(&done(&server, KindName::VmRestore, vm, json!({"snapshot": one})).await);
    assert!(seen(&server, vm).await.0.restart_pending);
    succeeded(&done(&server, KindName::VmPause, vm, json!({})).await);
    assert!(seen(&server, vm).await.0.restart_pending, "it is the same process");
    succeeded(&done(&server, KindName::VmStop, vm, json!({})).await);
    assert!(!seen(&server, vm).await.0.restart_pending);
    succeeded(&done(&server, KindName::VmStart, vm, json!({})).await);
    assert!(!seen(&server, vm).await.0.restart_pending);
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn how_a_snapshot_left_its_machine_is_a_line_in_the_tasks_log() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = created(&server).await;
    world.change(|state| state.snapshot_warning = Some("its guest may not write".to_owned()));
    let report = done(&server, KindName::VmSnapshot, vm, json!({"name": "one", "snapshot": id()})).await;
    assert_eq!(succeeded(&report), &json!({"disk_bytes": 5, "memory_bytes": 0, "paused_ms": 1.0}));
    let told = server.with(|heard| heard.progress.iter().flat_map(|(_, told)| told.log.clone()).collect::<Vec<_>>());
    let lines: Vec<_> = told.iter().chain(&report.log).map(|line| line.text.as_str()).collect();
    assert!(lines.contains(&"its guest may not write"), "{lines:?}");
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_stopped_halfway_leaves_nothing() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = created(&server).await;
    world.change(|state| state.held.push(Gate::Snapshot));
    let task = server.task(KindName::VmSnapshot, Some(vm), json!({"name": "one", "snapshot": id()}));
    let n = server.results().len();
    server.give(&task);
    world.until(|state| state.begun.contains_key(&Gate::Snapshot)).await;
    server.with(|heard| heard.abort.push(task.sub));
    let report = server.result(n + 1).await;
    assert_eq!(report.end, End::Cancelled { effects: Effects::Undone });
    assert_eq!(world.begun(Gate::Flatten), 0, "nothing is left of it, and nobody's copy is waited for");
    world.change(|state| state.held.clear());
    assert_eq!(seen(&server, vm).await.0.state, VmState::Running);
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_says_what_the_others_have_and_one_that_is_stopped_leaves_what_it_left() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let (vm, one, two) = (created(&server).await, id(), id());
    for snapshot in [one, two] {
        succeeded(&done(&server, KindName::VmSnapshot, vm, json!({"name": "s", "snapshot": snapshot})).await);
    }
    world.change(|state| state.held.push(Gate::Flatten));
    let task = server.task(KindName::SnapshotDelete, Some(vm), json!({"snapshot": one}));
    let n = server.results().len();
    server.give(&task);
    world.until(|state| state.begun.contains_key(&Gate::Flatten)).await;
    // The machine is free meanwhile.
    succeeded(&done(&server, KindName::VmPause, vm, json!({})).await);
    server.with(|heard| heard.abort.push(task.sub));
    let report = server.result(n + 2).await;
    assert_eq!((report.task, failed(&report)), (task.sub, (Code::Cancelled, Effects::Remain)));
    world.change(|state| state.held.clear());
    let again = done(&server, KindName::SnapshotDelete, vm, json!({"snapshot": one})).await;
    assert_eq!(succeeded(&again)["shares"], json!([{"snapshot": two, "disk_bytes": 9}]));
    let phases: Vec<&str> = again.phases.iter().map(|timing| timing.phase.as_str()).collect();
    assert_eq!(phases, ["remove", "flatten"]);
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_whose_copy_failed_goes_on_with_its_next_attempt() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let (vm, one) = (created(&server).await, id());
    succeeded(&done(&server, KindName::VmSnapshot, vm, json!({"name": "one", "snapshot": one})).await);
    // Once as it is done, and once as it is tried to be completed.
    world.change(|state| state.flatten_fails = 2);
    let task = server.task(KindName::SnapshotDelete, Some(vm), json!({"snapshot": one}));
    let n = server.results().len();
    server.give(&task);
    let report = server.result(n + 1).await;
    assert_eq!(failed(&report), (Code::HypervisorFailed, Effects::Remain));
    assert!(matches!(report.end, End::Failed { retryable: true, .. }), "{report:?}");
    server.give(&again(&task, 2, Intent::Run));
    let report = server.result(n + 2).await;
    assert_eq!((report.task, report.fence.attempt), (task.sub, 2));
    succeeded(&report);
    assert_eq!(world.begun(Gate::Flatten), 3);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_cannot_be_looked_at_is_not_taken_for_one_without_snapshots() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let (vm, one) = (created(&server).await, id());
    succeeded(&done(&server, KindName::VmSnapshot, vm, json!({"name": "one", "snapshot": one})).await);
    agent.stop().await;
    world.change(|state| state.unread = vec![vm]);
    let agent = server.agent(data.path(), world.clone()).await;
    let removed = done(&server, KindName::SnapshotDelete, vm, json!({"snapshot": one})).await;
    assert_eq!(succeeded(&removed), &json!({"existed": true, "layer_kept": false}));
    assert!(world.see().snapshots.is_empty());
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn parameters_without_a_snapshot_are_refused_and_change_nothing() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = created(&server).await;
    for (kind, params) in [
        (KindName::VmSnapshot, json!({"name": "one"})),
        (KindName::VmRestore, json!({"snapshot": "one"})),
        (KindName::SnapshotDelete, json!({"snapshot": "../one"})),
    ] {
        assert_eq!(failed(&done(&server, kind, vm, params).await).0, Code::TaskRefused, "{kind}");
    }
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn the_simulated_driver_does_the_same() {
    let (server, data, host) = (Server::new(), folder(), SimHost::new());
    let agent: Running = server.agent(data.path(), Sim::new(SimConfig::steady(3), host.clone())).await;
    let (vm, one, two) = (created(&server).await, id(), id());
    let output = |memory| json!({"memory": memory});
    for (id, memory) in [(one, true), (two, false)] {
        let params = json!({"name": "s", "memory": memory, "snapshot": id});
        succeeded(&done(&server, KindName::VmSnapshot, vm, params).await);
        let restored = done(&server, KindName::VmRestore, vm, json!({"snapshot": id})).await;
        assert_eq!(succeeded(&restored)["memory"], output(memory)["memory"]);
    }
    assert_eq!((host.alive(vm), host.most_alive(vm)), (1, 1));
    succeeded(&done(&server, KindName::VmStop, vm, json!({})).await);
    let params = json!({"name": "m", "memory": true, "snapshot": id()});
    assert_eq!(
        failed(&done(&server, KindName::VmSnapshot, vm, params).await),
        (Code::VmStateConflict, Effects::Undone)
    );
    assert_eq!(seen(&server, vm).await.1.len(), 2);
    succeeded(&done(&server, KindName::VmDelete, vm, json!({})).await);
    drop(agent);
}
