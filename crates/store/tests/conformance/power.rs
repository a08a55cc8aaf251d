//! Power: what becomes of machines that are stopped, started, paused; and of those that are started by themselves.

use hostler_model::{
    Code, VmId,
    event::Actor,
    kind::KindName,
    node::Freshness,
    restart::{PER_HOUR, RestartPolicy},
    task::{Effects, End, TaskState},
    vm::{Observation, VmReason, VmState},
};
use hostler_store::{LogFilter, Queue, Submission};
use serde_json::{Value, json};

use crate::world::{Agent, World, failed, one_vm, seen};

async fn done(world: &World, agent: Agent, kind: KindName, vm: VmId) {
    world.ok(world.on_vm(kind, vm)).await;
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.kind, kind);
    world.succeed(agent, &leased).await;
}

pub async fn a_machine_that_is_switched_keeps_its_charge(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    for (kind, state, ready) in [
        (KindName::VmPause, VmState::Paused, false),
        (KindName::VmResume, VmState::Running, true),
        (KindName::VmReboot, VmState::Running, true),
        (KindName::VmStop, VmState::Stopped, false),
        (KindName::VmStart, VmState::Running, true),
    ] {
        done(world, agent, kind, vm).await;
        let now = world.vm(vm).await;
        assert_eq!((now.state, now.ready, now.reason, now.task), (state, ready, None, None), "{kind}");
        assert_eq!(world.book().await.used.room(), one_vm(), "{kind}");
    }
}

pub async fn what_is_so_already_needs_no_node(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    for kind in [KindName::VmStart, KindName::VmResume] {
        let accepted = world.submit(world.on_vm(kind, vm)).await.unwrap();
        assert_eq!(accepted.task.state, TaskState::Succeeded, "{kind}");
    }
    done(world, agent, KindName::VmPause, vm).await;
    let head = world.head().await;
    let accepted = world.submit(world.on_vm(KindName::VmPause, vm)).await.unwrap();
    assert_eq!(accepted.task.output.unwrap()["already"], true);
    assert!(!world.kinds_after(head).await.contains(&"vm.paused".to_owned()), "nothing changed");
    assert!(world.lease(agent, 5).await.is_empty());
}

pub async fn what_a_state_does_not_allow_is_refused_with_what_to_do(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    done(world, agent, KindName::VmPause, vm).await;
    for (kind, hint) in
        [(KindName::VmStart, "vm.resume"), (KindName::VmReboot, "vm.resume"), (KindName::VmExec, "running")]
    {
        let refusal = world.refused(world.on_vm(kind, vm), Code::VmStateConflict).await;
        assert!(refusal.detail.contains("paused") && refusal.detail.contains(hint), "{refusal}");
    }
    done(world, agent, KindName::VmStop, vm).await;
    for kind in [KindName::VmPause, KindName::VmResume, KindName::VmReboot] {
        world.refused(world.on_vm(kind, vm), Code::VmStateConflict).await;
    }
}

pub async fn a_guest_that_does_not_answer_after_a_start_runs_and_is_not_ready(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    done(world, agent, KindName::VmStop, vm).await;
    let start = world.ok(world.on_vm(KindName::VmStart, vm)).await;
    let leased = world.lease_one(agent).await;
    let end = End::Failed {
        code: Code::GuestNotReady,
        detail: "it is silent".into(),
        retryable: true,
        effects: Effects::Remain,
    };
    world.end_with(agent, &leased, end).await;
    let now = world.vm(vm).await;
    assert_eq!((now.state, now.ready, now.detail.as_deref()), (VmState::Running, false, Some("it is silent")));
    assert_eq!(world.task(start.id).await.error.unwrap().code, Code::GuestNotReady);
    assert_eq!(world.book().await.used.room(), one_vm());
}

pub async fn a_stop_that_did_not_come_to_its_end_leaves_the_machine_to_its_node(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    world.ok(world.on_vm(KindName::VmStop, vm)).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
    world.beat(agent, vec![seen(vm, VmState::Stopped)]).await;
    world.beat(agent, vec![seen(vm, VmState::Stopped)]).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
}

// Started by themselves.

async fn policy(world: &World, vm: VmId, patch: Value) {
    let submission = Submission { params: patch, ..world.on_vm(KindName::VmEdit, vm) };
    world.store.edit_vm(submission).await.unwrap().unwrap();
}

fn ended(vm: VmId, state: VmState, reason: VmReason) -> Observation {
    Observation { reason: Some(reason), ready: false, ..seen(vm, state) }
}

/// The node sees it, and then says so again: by then nobody doubts it.
async fn observe(world: &World, agent: Agent, seen: Observation) {
    for _ in 0..2 {
        world.beat(agent, vec![seen.clone()]).await;
    }
}

async fn crash(world: &World, agent: Agent, vm: VmId) {
    observe(world, agent, ended(vm, VmState::Error, VmReason::Crashed)).await;
}

async fn filed(world: &World) -> usize {
    world.store.restart_vms().await.unwrap().changed
}

async fn restarting(world: &World, kind: &str) -> Vec<Value> {
    let entries = world.store.log(LogFilter::default(), 0, 100_000).await.unwrap();
    entries.into_iter().filter(|entry| entry.kind == kind).map(|entry| entry.data).collect()
}

pub async fn a_machine_that_crashed_is_started_by_an_ordinary_task_after_a_pause(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    policy(world, vm, json!({"restart": "on_failure"})).await;
    crash(world, agent, vm).await;
    assert!(world.vm(vm).await.restart_at.is_some());
    assert_eq!(filed(world).await, 0, "not at once");
    world.advance(1);
    assert_eq!((filed(world).await, filed(world).await), (1, 0), "once");
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.kind, KindName::VmStart);
    let task = world.task(leased.task).await;
    assert_eq!(task.created_by, hostler_model::event::Actor::system().principal);
    world.advance(3600);
    assert_eq!(filed(world).await, 0, "its start is under way");
    world.succeed(agent, &leased).await;
    let now = world.vm(vm).await;
    assert_eq!((now.state, now.restart_at), (VmState::Running, None));
    let told = restarting(world, "vm.restarting").await;
    assert_eq!((told.len(), &told[0]["cause"], &told[0]["try"]), (1, &json!("crashed"), &json!(1)));
    assert_eq!(told[0]["task"], json!(leased.task));
}

pub async fn a_machine_that_cannot_be_kept_up_is_tried_more_and_more_seldom_and_so_often_in_an_hour(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    policy(world, vm, json!({"restart": "always"})).await;
    crash(world, agent, vm).await;
    let first = world.now();
    let mut pauses = Vec::new();
    for _ in 0..=PER_HOUR {
        let pause = world.vm(vm).await.restart_at.unwrap().since(world.now()).as_secs();
        world.advance(pause - 1);
        assert_eq!(filed(world).await, 0, "too early");
        world.advance(1);
        assert_eq!(filed(world).await, 1);
        pauses.push(pause);
        let leased = world.lease_one(agent).await;
        world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    }
    assert_eq!(pauses[..PER_HOUR], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert_eq!(world.now().since(first).as_secs(), 3601, "the next one came when the first was an hour ago");
    let held = restarting(world, "vm.restart_held").await;
    assert_eq!(held[0]["until"], json!(first.plus(std::time::Duration::from_secs(3601))));
}

pub async fn a_machine_on_a_node_that_does_not_listen_is_not_started_until_it_does(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    policy(world, vm, json!({"restart": "always"})).await;
    crash(world, agent, vm).await;
    world.store.queue_node(agent.node, Queue::Paused, Actor::system()).await.unwrap().unwrap();
    world.advance(2);
    assert_eq!(world.store.restart_vms().await.unwrap().changed, 0, "its queue is paused");
    world.store.queue_node(agent.node, Queue::Open, Actor::system()).await.unwrap().unwrap();
    // A node that fell silent: first the service must have gone on for a lease.
    for _ in 0..7 {
        world.serve(15).await;
        world.store.judge_nodes().await.unwrap();
    }
    assert_eq!(world.store.node(agent.node).await.unwrap().unwrap().freshness, Freshness::Stale);
    assert_eq!(world.store.restart_vms().await.unwrap().changed, 0, "its node is silent");
    crash(world, agent, vm).await;
    assert_eq!(world.store.restart_vms().await.unwrap().changed, 1);
    assert_eq!(world.lease_one(agent).await.kind, KindName::VmStart);
}

pub async fn what_somebody_stopped_stays_stopped(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    policy(world, vm, json!({"restart": "always", "autostart": true})).await;
    done(world, agent, KindName::VmStop, vm).await;
    assert_eq!(world.vm(vm).await.restart_at, None);
    // Whatever its node makes of it afterwards.
    for reason in [VmReason::Crashed, VmReason::HostWentDown] {
        observe(world, agent, ended(vm, VmState::Error, reason)).await;
        world.advance(600);
        assert_eq!(filed(world).await, 0, "{reason:?}");
    }
    // Nor one that is stopped while it waits to be started.
    done(world, agent, KindName::VmStart, vm).await;
    crash(world, agent, vm).await;
    done(world, agent, KindName::VmStop, vm).await;
    observe(world, agent, seen(vm, VmState::Stopped)).await;
    world.advance(600);
    assert_eq!(filed(world).await, 0);
    // Nor one whose stop came after its start was filed.
    done(world, agent, KindName::VmStart, vm).await;
    crash(world, agent, vm).await;
    world.advance(600);
    assert_eq!(filed(world).await, 1);
    world.ok(world.on_vm(KindName::VmStop, vm)).await;
    for kind in [KindName::VmStart, KindName::VmStop] {
        let leased = world.lease_one(agent).await;
        assert_eq!(leased.kind, kind);
        world.succeed(agent, &leased).await;
    }
    world.advance(600);
    assert_eq!((filed(world).await, world.vm(vm).await.state), (0, VmState::Stopped));
}

pub async fn each_policy_starts_what_it_says(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    for (restart, autostart, [crashed, off, host]) in [
        (RestartPolicy::Never, false, [0, 0, 0]),
        (RestartPolicy::OnFailure, false, [1, 0, 0]),
        (RestartPolicy::Always, false, [1, 1, 0]),
        (RestartPolicy::Never, true, [0, 0, 1]),
    ] {
        policy(world, vm, json!({"restart": restart, "autostart": autostart})).await;
        for (state, reason, starts) in [
            (VmState::Error, VmReason::Crashed, crashed),
            (VmState::Stopped, VmReason::GuestShutdown, off),
            (VmState::Error, VmReason::HostWentDown, host),
        ] {
            observe(world, agent, ended(vm, state, reason)).await;
            world.advance(3600);
            assert_eq!(filed(world).await, starts, "{restart} {autostart} {reason:?}");
            if starts == 0 {
                world.ok(world.on_vm(KindName::VmStart, vm)).await;
            }
            let leased = world.lease_one(agent).await;
            world.succeed(agent, &leased).await;
        }
    }
}

pub async fn a_policy_that_changes_changes_what_is_to_come(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    crash(world, agent, vm).await;
    world.advance(600);
    assert_eq!((filed(world).await, world.vm(vm).await.restart_at), (0, None));
    policy(world, vm, json!({"restart": "on_failure"})).await;
    assert!(world.vm(vm).await.restart_at.is_some());
    policy(world, vm, json!({"restart": null})).await;
    world.advance(600);
    assert_eq!((filed(world).await, world.vm(vm).await.restart_at), (0, None));
    policy(world, vm, json!({"restart": "always"})).await;
    let delete: Submission = world.on_vm(KindName::VmDelete, vm);
    world.ok(delete).await;
    world.advance(600);
    assert_eq!(filed(world).await, 0, "it is being deleted");
}
