//! Changes of a machine that are to be made later: until their time they are in nobody's way.

use std::time::Duration;

use hostler_model::{
    Code, TaskId, VmId,
    kind::KindName,
    restart::RestartPolicy,
    task::{Effects, Task, TaskState, WaitingFor},
    vm::{Observation, VmReason, VmState},
};
use hostler_store::{Edited, Submission};
use serde_json::{Value, json};

use crate::world::{Agent, World, cancelled, one_vm, seen};

/// Eight hours, in seconds.
const LATER: u64 = 8 * 3600;

async fn later(world: &World, kind: KindName, vm: VmId, params: Value) -> Task {
    let not_before = world.now().plus(Duration::from_secs(LATER));
    world.ok(Submission { params, not_before, ..world.on_vm(kind, vm) }).await
}

async fn edit(world: &World, vm: VmId, patch: Value) -> Edited {
    let submission = Submission { params: patch, ..world.on_vm(KindName::VmEdit, vm) };
    world.store.edit_vm(submission).await.unwrap().unwrap()
}

/// Does what there is to do, which is this.
async fn does(world: &World, agent: Agent, task: TaskId) {
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.task, task);
    world.succeed(agent, &leased).await;
}

/// Their time comes.
async fn come(world: &World) {
    world.advance(LATER);
    assert_eq!(world.store.expire_queued().await.unwrap().changed, 0);
}

async fn failed_with(world: &World, task: TaskId, code: Code) {
    let task = world.task(task).await;
    assert_eq!((task.state, task.error.map(|error| error.code)), (TaskState::Failed, Some(code)));
}

pub async fn a_change_for_later_holds_nobody_up(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let stop = later(world, KindName::VmStop, vm, json!({})).await;
    assert_eq!((stop.waiting_for, world.vm(vm).await.task), (Some(WaitingFor::Time), None));
    for kind in [KindName::VmExec, KindName::VmPause, KindName::VmResume] {
        let task = world.ok(world.on_vm(kind, vm)).await;
        assert_eq!(task.waiting_for, Some(WaitingFor::Node), "{kind}");
        does(world, agent, task.id).await;
    }
    assert_eq!(world.vm(vm).await.task, None);
    world.advance(LATER - 1);
    assert!(world.lease(agent, 9).await.is_empty());
    world.advance(1);
    let head = world.head().await;
    // A claim lets it take its place, and gets it.
    let leased = world.lease_one(agent).await;
    assert_eq!((leased.task, world.vm(vm).await.task), (stop.id, Some(stop.id)));
    assert_eq!(world.kinds_after(head).await, ["task.due", "task.leased"]);
    world.succeed(agent, &leased).await;
    assert_eq!((world.vm(vm).await.state, world.vm(vm).await.task), (VmState::Stopped, None));
}

pub async fn a_machine_whose_change_is_for_later_is_observed_and_restarted(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    edit(world, vm, json!({"restart": RestartPolicy::OnFailure})).await;
    later(world, KindName::VmStop, vm, json!({})).await;
    let crashed = Observation { reason: Some(VmReason::Crashed), ..seen(vm, VmState::Error) };
    world.beat(agent, vec![crashed]).await;
    assert_eq!((world.vm(vm).await.state, world.vm(vm).await.reason), (VmState::Error, Some(VmReason::Crashed)));
    world.advance(2);
    assert_eq!(world.store.restart_vms().await.unwrap().changed, 1);
    assert_eq!(world.lease_one(agent).await.kind, KindName::VmStart);
}

pub async fn what_is_for_later_is_judged_when_its_time_comes(world: &mut World) {
    let agent = world.node("a").await;
    let (off, on) = (world.running(agent, "off").await, world.running(agent, "on").await);
    let start = later(world, KindName::VmStart, off, json!({})).await;
    let moot = later(world, KindName::VmStart, on, json!({})).await;
    let stop = world.ok(world.on_vm(KindName::VmStop, off)).await;
    does(world, agent, stop.id).await;
    let program = later(world, KindName::VmExec, off, json!({"argv": ["true"]})).await;
    come(world).await;
    does(world, agent, start.id).await;
    assert_eq!((world.task(moot.id).await.state, world.task(moot.id).await.fence.attempt), (TaskState::Succeeded, 0));
    does(world, agent, program.id).await;
    // What may not be done when its time comes fails then.
    let program = later(world, KindName::VmExec, off, json!({"argv": ["true"]})).await;
    let stop = world.ok(world.on_vm(KindName::VmStop, off)).await;
    does(world, agent, stop.id).await;
    come(world).await;
    assert!(world.lease(agent, 9).await.is_empty());
    failed_with(world, program.id, Code::VmStateConflict).await;
}

pub async fn a_deletion_for_later_stops_nothing_until_then(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let program = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    let running = world.lease_one(agent).await;
    let delete = later(world, KindName::VmDelete, vm, json!({})).await;
    assert_eq!(world.task(program.id).await.state, TaskState::Running);
    assert!(matches!(edit(world, vm, json!({"labels": {"a": "b"}})).await, Edited::Record { .. }));
    // The end of its time is another reason to delete it, and does not wait for the later one.
    edit(world, vm, json!({"ttl_seconds": 60})).await;
    come(world).await;
    let leased = world.lease_one(agent).await;
    assert_eq!((leased.task, world.task(program.id).await.state), (delete.id, TaskState::Aborting));
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0);
    world.end_with(agent, &running, cancelled(Effects::Remain)).await;
    world.succeed(agent, &leased).await;
    assert_eq!(world.vm(vm).await.state, VmState::Deleted);
}

pub async fn a_deletion_for_later_ends_nothing_that_became_protected(world: &mut World) {
    let agent = world.node("a").await;
    let (kept, gone) = (world.running(agent, "kept").await, world.running(agent, "gone").await);
    let late = [
        later(world, KindName::VmDelete, kept, json!({})).await,
        later(world, KindName::VmDelete, gone, json!({})).await,
    ];
    edit(world, kept, json!({"protected": true})).await;
    let now = world.ok(world.on_vm(KindName::VmDelete, gone)).await;
    does(world, agent, now.id).await;
    come(world).await;
    assert!(world.lease(agent, 9).await.is_empty());
    failed_with(world, late[0].id, Code::VmProtected).await;
    assert_eq!((world.vm(kept).await.state, world.vm(kept).await.task), (VmState::Running, None));
    assert_eq!(world.task(late[1].id).await.output, Some(json!({"existed": false})));
}

pub async fn an_edit_for_later_changes_nothing_until_then(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let task = later(world, KindName::VmEdit, vm, json!({"vcpus": 3, "labels": {"a": "b"}})).await;
    assert_eq!((world.vm(vm).await.spec.vcpus, world.vm(vm).await.generation), (1, 1));
    assert_eq!(world.book().await.total().room(), one_vm());
    let Edited::Task(now) = edit(world, vm, json!({"memory_mib": 512})).await else { panic!("a task") };
    does(world, agent, now.task.id).await;
    assert_eq!((world.vm(vm).await.generation, world.vm(vm).await.observed_generation), (2, 2));
    come(world).await;
    let leased = world.lease_one(agent).await;
    assert_eq!((leased.task, &leased.params["filed"]["before"]["memory_mib"]), (task.id, &json!(512)));
    assert_eq!(leased.params["filed"]["after"]["vcpus"], 3);
    let then = world.vm(vm).await;
    assert_eq!((then.spec.vcpus, then.spec.labels.len(), then.generation), (3, 1, 3));
    assert_eq!(world.book().await.total().vcpus, 3);
}

pub async fn an_edit_of_the_record_for_later_is_a_task(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let not_before = world.now().plus(Duration::from_secs(LATER));
    let params = json!({"labels": {"a": "b"}});
    let edit = Submission { params, not_before, ..world.on_vm(KindName::VmEdit, vm) };
    let Edited::Task(accepted) = world.store.edit_vm(edit).await.unwrap().unwrap() else { panic!("a task") };
    assert!(world.vm(vm).await.spec.labels.is_empty());
    come(world).await;
    does(world, agent, accepted.task.id).await;
    assert_eq!((world.vm(vm).await.spec.labels.len(), world.vm(vm).await.generation), (1, 2));
}

pub async fn an_edit_for_later_that_may_not_be_then_fails_with_the_refusals_code(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let large = later(world, KindName::VmEdit, vm, json!({"vcpus": 9})).await;
    let cancelled = later(world, KindName::VmEdit, vm, json!({"vcpus": 2})).await;
    world.cancel(cancelled.id).await.unwrap();
    come(world).await;
    assert!(world.lease(agent, 9).await.is_empty());
    failed_with(world, large.id, Code::NoCapacity).await;
    assert_eq!((world.vm(vm).await.spec.vcpus, world.vm(vm).await.generation), (1, 1));
    assert_eq!((world.vm(vm).await.task, world.book().await.total().room()), (None, one_vm()));
}

pub async fn a_name_for_later_is_taken_at_its_time(world: &mut World) {
    let agent = world.node("a").await;
    let (web, db) = (world.running(agent, "web").await, world.running(agent, "db").await);
    let taken = later(world, KindName::VmRename, web, json!({"name": "db"})).await;
    let free = later(world, KindName::VmRename, db, json!({"name": "shop"})).await;
    assert_eq!(world.vm(db).await.name.as_str(), "db");
    come(world).await;
    // Both times have come, that of the older one first, and the name was not free yet.
    does(world, agent, free.id).await;
    failed_with(world, taken.id, Code::NameTaken).await;
    assert_eq!((world.vm(web).await.name.as_str(), world.vm(db).await.name.as_str()), ("web", "shop"));
}

pub async fn a_name_for_later_may_be_the_one_that_another_gives_back_just_then(world: &mut World) {
    let agent = world.node("a").await;
    let (older, younger) = (world.running(agent, "a").await, world.running(agent, "b").await);
    let free = later(world, KindName::VmRename, younger, json!({"name": "c"})).await;
    let taken = later(world, KindName::VmRename, older, json!({"name": "b"})).await;
    come(world).await;
    let leased = world.lease(agent, 9).await;
    assert_eq!(leased.iter().map(|leased| leased.task).collect::<Vec<_>>(), [free.id, taken.id]);
    for leased in &leased {
        world.succeed(agent, leased).await;
    }
    assert_eq!((world.vm(older).await.name.as_str(), world.vm(younger).await.name.as_str()), ("b", "c"));
}

pub async fn one_that_the_store_fails_on_fails_alone(world: &mut World) {
    let agent = world.node("a").await;
    let mut renames = Vec::new();
    for name in ["a", "b", "c"] {
        let vm = world.running(agent, name).await;
        renames.push(later(world, KindName::VmRename, vm, json!({"name": format!("new-{name}")})).await);
    }
    // The table does not take the second name beside the first machine, whatever the step says.
    let first = renames[0].target.vm.unwrap();
    world.tamper(&format!(
        "CREATE UNIQUE INDEX poison ON vms ((CASE WHEN name = 'new-b' OR id = '{first}' THEN 1 END))"
    ));
    come(world).await;
    let leased: Vec<TaskId> = world.lease(agent, 9).await.iter().map(|leased| leased.task).collect();
    assert_eq!(leased, [renames[0].id, renames[2].id]);
    failed_with(world, renames[1].id, Code::Internal).await;
    for (rename, name) in renames.iter().zip(["new-a", "b", "new-c"]) {
        assert_eq!(world.vm(rename.target.vm.unwrap()).await.name.as_str(), name);
    }
}

pub async fn one_whose_time_came_while_the_server_was_away_has_its_whole_time_in_the_queue(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let program = world.ok(world.on_vm(KindName::VmExec, vm)).await;
    world.lease_one(agent).await;
    let delete = later(world, KindName::VmDelete, vm, json!({})).await;
    world.advance(2 * LATER);
    come(world).await;
    assert_eq!(world.task(program.id).await.state, TaskState::Aborting);
    let task = world.task(delete.id).await;
    assert_eq!((task.state, task.waiting_for), (TaskState::Queued, Some(WaitingFor::Node)));
    assert_eq!(task.queue_deadline, world.now().plus(Duration::from_secs(task.schedule.queue_timeout_seconds.into())));
    does(world, agent, delete.id).await;
}

pub async fn what_was_queued_meanwhile_comes_before_it(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let (program, start) = (
        later(world, KindName::VmExec, vm, json!({"argv": ["true"]})).await,
        later(world, KindName::VmStart, vm, json!({})).await,
    );
    world.advance(LATER - 1);
    let stop = world.ok(world.on_vm(KindName::VmStop, vm)).await;
    let stopping = world.lease_one(agent).await;
    world.advance(2);
    assert!(world.lease(agent, 9).await.is_empty(), "it overtook what is under way");
    assert_eq!(world.task(start.id).await.waiting_for, Some(WaitingFor::Turn));
    assert_eq!(world.task(program.id).await.waiting_for, Some(WaitingFor::Turn));
    assert_eq!((stopping.task, world.vm(vm).await.task), (stop.id, Some(stop.id)));
    world.succeed(agent, &stopping).await;
    does(world, agent, start.id).await;
    failed_with(world, program.id, Code::VmStateConflict).await;
}

pub async fn its_turn_comes_also_while_no_node_asks_for_work(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let stop = later(world, KindName::VmStop, vm, json!({})).await;
    come(world).await;
    assert_eq!(world.vm(vm).await.task, Some(stop.id));
    world.beat(agent, vec![seen(vm, VmState::Running)]).await;
    world.advance(901);
    assert_eq!(world.store.expire_queued().await.unwrap().changed, 1);
    failed_with(world, stop.id, Code::DeadlineExceeded).await;
    assert_eq!(world.vm(vm).await.task, None);
}

pub async fn a_machine_made_later_is_named_and_held_at_once(world: &mut World) {
    let agent = world.node("a").await;
    let not_before = world.now().plus(Duration::from_secs(LATER));
    let create = world.ok(Submission { not_before, ..world.create("web") }).await;
    let vm = create.target.vm.unwrap();
    assert_eq!((world.vm(vm).await.task, world.book().await.held.room()), (Some(create.id), one_vm()));
    world.refused(world.create("web"), Code::NameTaken).await;
    come(world).await;
    does(world, agent, create.id).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}
