//! Snapshots: made, used, removed, charged, gone with their machine.

use std::time::Duration;

use hostler_model::{
    Code, Resources, SnapshotId, TaskId, VmId,
    kind::KindName,
    node::Slots,
    snapshot::{LIMIT, Snapshot, SnapshotState, Written},
    task::{Effects, End, Intent, TaskState, WaitingFor},
    tenant::{Limits, UNLIMITED},
    vm::VmState,
};
use hostler_store::{EditTenant, Leased, NewSnapshot, SnapshotFilter, Submission};
use serde_json::json;

use crate::world::{Agent, TENANT, World, cancelled, failed, one_vm, seen};

/// Half a GiB of memory and 300 MiB of disk: one GiB is charged.
const WRITTEN: Written = Written { disk_bytes: 300 << 20, memory_bytes: 512 << 20 };

fn take(world: &World, vm: VmId, name: &str, memory: bool) -> Submission {
    let new = NewSnapshot { id: world.id(), name: name.parse().unwrap(), memory };
    let params = json!({"name": name, "memory": memory, "snapshot": new.id});
    Submission { params, snapshot: Some(new), ..world.on_vm(KindName::VmSnapshot, vm) }
}

fn on(world: &World, kind: KindName, vm: VmId, id: SnapshotId) -> Submission {
    Submission { params: json!({"snapshot": id}), ..world.on_vm(kind, vm) }
}

async fn of(world: &World, id: SnapshotId) -> Snapshot {
    world.store.snapshot(id).await.unwrap().unwrap()
}

async fn finish(world: &World, agent: Agent, leased: &Leased) {
    let output = json!({"disk_bytes": WRITTEN.disk_bytes, "memory_bytes": WRITTEN.memory_bytes, "paused_ms": 5.0});
    world.end_with(agent, leased, End::Succeeded { output }).await;
}

/// A running machine and one snapshot of it that is ready.
pub async fn ready(world: &World) -> (Agent, VmId, SnapshotId) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let id = world.submit(take(world, vm, "one", true)).await.unwrap().snapshot.unwrap().id;
    let leased = world.lease_one(agent).await;
    finish(world, agent, &leased).await;
    (agent, vm, id)
}

async fn beat(world: &World, agent: Agent, full: bool, vm: VmId, snapshots: &[SnapshotId]) -> Vec<SnapshotId> {
    let mut beat = world.heartbeat(agent, &[], full, vec![seen(vm, VmState::Running)]);
    beat.heartbeat.inventory.snapshots = snapshots.to_vec();
    world.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap().answer.orphan_snapshots
}

fn gib(disk_gib: i64) -> Resources {
    Resources { disk_gib, ..Resources::ZERO }
}

pub async fn one_is_held_while_it_is_made_and_charged_for_what_was_written(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let accepted = world.submit(take(world, vm, "one", true)).await.unwrap();
    let snapshot = accepted.snapshot.unwrap();
    assert_eq!((snapshot.state, snapshot.task), (SnapshotState::Creating, Some(accepted.task.id)));
    assert_eq!(world.book().await.held.room(), gib(2), "all of its disk, and its memory");
    let leased = world.lease_one(agent).await;
    finish(world, agent, &leased).await;
    let snapshot = of(world, snapshot.id).await;
    assert_eq!((snapshot.state, snapshot.task, snapshot.written), (SnapshotState::Ready, None, Some(WRITTEN)));
    let book = world.book().await;
    assert_eq!((book.held.room(), book.used.room()), (Resources::ZERO, one_vm() + gib(1)));
    assert_eq!(world.vm(vm).await.state, VmState::Running);
    let filter = SnapshotFilter { tenant: Some(TENANT), vm: Some(vm), state: None };
    assert_eq!(world.store.snapshots(filter, None, 10).await.unwrap(), std::slice::from_ref(&snapshot));
    let named = world.store.snapshot_by_name(vm, snapshot.name.clone()).await.unwrap();
    assert_eq!(named, Some(snapshot));
    assert!(world.kinds_after(0).await.contains(&"snapshot.ready".to_owned()));
}

pub async fn a_name_is_unique_among_a_machines_also_within_one_batch(world: &mut World) {
    let (agent, vm, first) = ready(world).await;
    let other = world.running(agent, "db").await;
    let refusal = world.refused(take(world, vm, "one", false), Code::NameTaken).await;
    assert_eq!(refusal.facts["snapshot"], first.to_string());
    let batch = vec![take(world, vm, "two", false), take(world, vm, "two", false), take(world, other, "two", false)];
    let answers = world.store.submit(batch).await.unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().code, Code::NameTaken);
}

pub async fn quota_room_and_number_are_limited(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let limits = Limits { disk_gib: 2, ..UNLIMITED };
    let put = world.store.edit_tenant(EditTenant::of_system(TENANT, limits.into()));
    put.await.unwrap().unwrap();
    let refusal = world.refused(take(world, vm, "one", true), Code::QuotaExceeded).await;
    assert_eq!(refusal.facts["over"][0]["asked"], 2);
    world.ok(take(world, vm, "small", false)).await;
    let put = world.store.edit_tenant(EditTenant::of_system(TENANT, UNLIMITED.into()));
    put.await.unwrap().unwrap();
    for n in 1..LIMIT {
        world.ok(take(world, vm, &format!("s{n}"), false)).await;
    }
    let refusal = world.refused(take(world, vm, "more", false), Code::SnapshotLimit).await;
    assert_eq!(refusal.facts["limit"], LIMIT);
    let mut machine = world.create("large").vm.unwrap();
    machine.spec.disk_gib = 60;
    let id = world.ok(Submission { vm: Some(machine), ..world.create("large") }).await.target.vm.unwrap();
    let refusal = world.refused(take(world, id, "one", false), Code::NoCapacity).await;
    assert_eq!(refusal.facts["asked"]["disk_gib"], 60);
}

/// One that is to be taken in an hour.
async fn for_later(world: &World, vm: VmId, name: &str) -> (TaskId, SnapshotId) {
    let not_before = world.now().plus(Duration::from_secs(3600));
    let accepted = world.submit(Submission { not_before, ..take(world, vm, name, true) }).await.unwrap();
    (accepted.task.id, accepted.snapshot.unwrap().id)
}

/// The hour is over.
async fn come(world: &World) {
    world.advance(3600);
    world.store.expire_queued().await.unwrap();
}

async fn edited(world: &World, agent: Agent, vm: VmId, patch: serde_json::Value) {
    let edit = Submission { params: patch, ..world.on_vm(KindName::VmEdit, vm) };
    world.store.edit_vm(edit).await.unwrap().unwrap();
    let leased = world.lease_one(agent).await;
    let charge = world.vm(vm).await.spec.charge();
    world.end_with(agent, &leased, End::Succeeded { output: json!({"charge": charge}) }).await;
}

pub async fn one_for_later_is_of_the_machine_as_it_is_then(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let (task, id) = for_later(world, vm, "one").await;
    assert_eq!(world.book().await.held.room(), gib(2));
    edited(world, agent, vm, json!({"disk_gib": 5, "memory_mib": 1500})).await;
    world.refused(take(world, vm, "one", false), Code::NameTaken).await;
    come(world).await;
    let then = of(world, id).await;
    assert_eq!((then.spec.disk_gib, then.spec.memory_mib, then.state), (5, 1500, SnapshotState::Creating));
    assert_eq!(world.book().await.held.room(), gib(5 + 2), "all of its disk, and its memory");
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.task, task);
    finish(world, agent, &leased).await;
    assert_eq!((of(world, id).await.state, world.book().await.held.room()), (SnapshotState::Ready, Resources::ZERO));
}

pub async fn one_for_later_that_may_not_be_then_fails_and_gives_its_name_back(world: &mut World) {
    let agent = world.node("a").await;
    let (large, off) = (world.running(agent, "large").await, world.running(agent, "off").await);
    let (no_room, gone) = for_later(world, large, "one").await;
    let (no_memory, _) = for_later(world, off, "one").await;
    edited(world, agent, large, json!({"disk_gib": 60})).await;
    let stop = world.ok(world.on_vm(KindName::VmStop, off)).await;
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.task, stop.id);
    world.succeed(agent, &leased).await;
    come(world).await;
    assert!(world.lease(agent, 9).await.is_empty());
    for (task, code) in [(no_room, Code::NoCapacity), (no_memory, Code::VmStateConflict)] {
        assert_eq!(world.task(task).await.error.map(|error| error.code), Some(code));
    }
    assert_eq!(
        (of(world, gone).await.state, world.book().await.held.room()),
        (SnapshotState::Deleted, Resources::ZERO)
    );
    world.ok(take(world, off, "one", false)).await;
}

pub async fn a_stopped_machine_has_no_memory_to_keep(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    world.beat(agent, vec![seen(vm, VmState::Stopped)]).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
    world.refused(take(world, vm, "one", true), Code::VmStateConflict).await;
    world.ok(take(world, vm, "one", false)).await;
}

pub async fn one_that_could_not_be_made_leaves_nothing_or_an_error(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let id = world.submit(take(world, vm, "one", true)).await.unwrap().snapshot.unwrap().id;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    assert_eq!(of(world, id).await.state, SnapshotState::Deleted);
    assert_eq!(world.book().await.held.room(), Resources::ZERO);
    let id = world.submit(take(world, vm, "one", true)).await.unwrap().snapshot.unwrap().id;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    let broken = of(world, id).await;
    assert_eq!((broken.state, broken.detail.as_deref()), (SnapshotState::Error, Some("it broke")));
    assert_eq!(world.book().await.held.room(), gib(2), "nothing is given back without evidence");
    assert_eq!(world.vm(vm).await.task, None);
    beat(world, agent, false, vm, &[]).await;
    beat(world, agent, true, vm, &[]).await;
    assert_eq!(world.book().await.held.room(), Resources::ZERO, "its node lacks it");
}

pub async fn one_that_is_cancelled_before_its_lease_leaves_nothing(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let accepted = world.submit(take(world, vm, "one", false)).await.unwrap();
    world.cancel(accepted.task.id).await.unwrap();
    assert_eq!(of(world, accepted.snapshot.unwrap().id).await.state, SnapshotState::Deleted);
    assert_eq!(world.book().await.held.room(), Resources::ZERO);
}

pub async fn a_restore_needs_one_that_is_ready_and_of_this_machine(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    let other = world.running(agent, "db").await;
    world.refused(on(world, KindName::VmRestore, other, id), Code::SnapshotNotFound).await;
    world.refused(on(world, KindName::VmRestore, vm, world.id()), Code::SnapshotNotFound).await;
    world.refused(world.on_vm(KindName::VmRestore, vm), Code::SnapshotNotFound).await;
    let task = world.ok(on(world, KindName::VmRestore, vm, id)).await;
    let leased = world.lease_one(agent).await;
    let output = json!({"memory": true, "down_ms": 5.0, "clock_set": true});
    world.end_with(agent, &leased, End::Succeeded { output }).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Succeeded);
    assert_eq!((world.vm(vm).await.state, world.vm(vm).await.ready), (VmState::Running, true));
    assert_eq!(of(world, id).await.state, SnapshotState::Ready);
}

pub async fn a_restore_waits_for_the_snapshot_before_it_and_is_refused_when_that_failed(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let id = world.submit(take(world, vm, "one", true)).await.unwrap().snapshot.unwrap().id;
    let restore = world.ok(on(world, KindName::VmRestore, vm, id)).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    assert!(world.lease(agent, 10).await.is_empty());
    let ended = world.task(restore.id).await;
    assert_eq!((ended.state, ended.error.unwrap().code), (TaskState::Failed, Code::SnapshotStateConflict));
}

pub async fn a_deletion_gives_back_what_was_charged_and_is_not_needed_twice(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    let first = world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
    let second = world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
    let leased = world.lease_one(agent).await;
    let deleting = of(world, id).await;
    assert_eq!((deleting.state, deleting.task), (SnapshotState::Deleting, Some(first.id)));
    world.end_with(agent, &leased, End::Succeeded { output: json!({"existed": true, "layer_kept": true}) }).await;
    assert_eq!(of(world, id).await.state, SnapshotState::Deleted);
    assert_eq!(world.book().await.used.room(), one_vm());
    assert!(world.lease(agent, 10).await.is_empty());
    assert_eq!(world.task(second.id).await.output, Some(json!({"existed": false})));
    world.refused(on(world, KindName::SnapshotDelete, vm, id), Code::SnapshotNotFound).await;
    world.ok(take(world, vm, "one", false)).await;
}

pub async fn a_deletion_under_way_is_named_to_whoever_asks_for_another(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    let first = world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
    let leased = world.lease_one(agent).await;
    let refusal = world.refused(on(world, KindName::SnapshotDelete, vm, id), Code::SnapshotStateConflict).await;
    assert_eq!(refusal.facts["task"], first.id.to_string());
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
}

pub async fn deletions_that_wait_keep_nobody_from_the_slots_of_their_class(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    let mut deletions = Vec::new();
    for _ in 0..4 {
        deletions.push(world.ok(on(world, KindName::SnapshotDelete, vm, id)).await.id);
    }
    let class = KindName::SnapshotDelete.spec().class;
    assert_eq!(class, KindName::VmPause.spec().class, "what stands behind them waits for the same slots");
    let one = Slots::only(class, 1);
    let first = world.claim_of(agent, one).await;
    assert_eq!(first.iter().map(|leased| leased.task).collect::<Vec<_>>(), deletions[..1]);
    let other = world.ok(world.on_vm(KindName::VmPause, vm)).await;
    let behind = world.claim_of(agent, one).await;
    assert_eq!(behind.iter().map(|leased| leased.task).collect::<Vec<_>>(), [other.id]);
    // The snapshot is gone: nothing is left to be done.
    world.end_with(agent, &first[0], End::Succeeded { output: json!({"existed": true}) }).await;
    assert!(world.claim_of(agent, Slots::only(class, 9)).await.is_empty());
    for waited in &deletions[1..] {
        assert_eq!(world.task(*waited).await.output, Some(json!({"existed": false})));
    }
}

pub async fn a_deletion_that_did_nothing_leaves_it_as_it_was(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
    let leased = world.lease_one(agent).await;
    world.cancel(leased.task).await.unwrap();
    world.end_with(agent, &leased, cancelled(Effects::Undone)).await;
    let back = of(world, id).await;
    assert_eq!((back.state, back.task), (SnapshotState::Ready, None));
    assert_eq!(world.book().await.used.room(), one_vm() + gib(1));
}

pub async fn what_a_deletion_leaves_to_another_is_charged_to_that_one(world: &mut World) {
    let (agent, vm, one) = ready(world).await;
    let other = world.running(agent, "db").await;
    let mut more = Vec::new();
    for (vm, name) in [(vm, "two"), (vm, "three"), (other, "foreign")] {
        more.push(world.submit(take(world, vm, name, true)).await.unwrap().snapshot.unwrap().id);
        let leased = world.lease_one(agent).await;
        finish(world, agent, &leased).await;
    }
    let before = world.book().await.used.room();
    world.ok(on(world, KindName::SnapshotDelete, vm, one)).await;
    let leased = world.lease_one(agent).await;
    let share = |id: SnapshotId, disk_bytes: i64| json!({"snapshot": id, "disk_bytes": disk_bytes});
    let shares = [share(more[0], 3 << 30), share(more[1], 5), share(more[2], 9 << 30), share(world.id(), 9 << 30)];
    let output = json!({"existed": true, "layer_kept": false, "shares": shares});
    world.end_with(agent, &leased, End::Succeeded { output }).await;
    let grown = of(world, more[0]).await;
    assert_eq!(grown.written, Some(Written { disk_bytes: 3 << 30, ..WRITTEN }));
    for id in &more[1..] {
        assert_eq!(of(world, *id).await.written, Some(WRITTEN), "never less, and never another machine's");
    }
    // Three GiB of disk and half a GiB of memory, in place of one GiB; and what was deleted is given back.
    assert_eq!(world.book().await.used.room(), before + gib(4 - 1) - gib(1));
    world.ok(on(world, KindName::SnapshotDelete, vm, more[0])).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, End::Succeeded { output: json!({"existed": true}) }).await;
    assert_eq!(world.book().await.used.room(), before - gib(2));
}

pub async fn a_deletion_that_left_its_layer_stays_charged_until_it_is_deleted_again(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    beat(world, agent, true, vm, &[id]).await;
    beat(world, agent, true, vm, &[id]).await;
    let left = of(world, id).await;
    assert_eq!((left.state, left.written, left.task), (SnapshotState::Error, None, None), "its layer is not it");
    assert_eq!(world.book().await.used.room(), one_vm() + gib(1));
    world.refused(on(world, KindName::VmRestore, vm, id), Code::SnapshotStateConflict).await;
    world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, End::Succeeded { output: json!({"existed": true}) }).await;
    assert_eq!((of(world, id).await.state, world.book().await.used.room()), (SnapshotState::Deleted, one_vm()));
}

pub async fn a_deletion_that_left_its_layer_is_tried_again_and_goes_on_from_there(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    let deletion = world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
    let first = world.lease_one(agent).await;
    world.end_with(agent, &first, failed(true, Effects::Remain)).await;
    let waits = world.task(deletion.id).await;
    assert_eq!((waits.state, waits.waiting_for), (TaskState::Queued, Some(WaitingFor::Time)));
    assert_eq!(
        (of(world, id).await.state, world.book().await.used.room()),
        (SnapshotState::Deleting, one_vm() + gib(1))
    );
    // Said once more, it is the same.
    world.advance(1);
    let head = world.head().await;
    world.end_with(agent, &first, failed(true, Effects::Remain)).await;
    assert_eq!((world.head().await, world.task(deletion.id).await.not_before), (head, waits.not_before));
    world.advance(5);
    let second = world.lease_one(agent).await;
    assert_eq!((second.task, second.fence), (deletion.id, first.fence.next()));
    world.end_with(agent, &second, End::Succeeded { output: json!({"existed": true}) }).await;
    assert_eq!(world.task(deletion.id).await.state, TaskState::Succeeded);
    assert_eq!((of(world, id).await.state, world.book().await.used.room()), (SnapshotState::Deleted, one_vm()));
}

pub async fn a_deletion_that_waits_to_go_on_is_stopped_by_its_node_only(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    let deletion = world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
    let first = world.lease_one(agent).await;
    world.end_with(agent, &first, failed(true, Effects::Remain)).await;
    world.cancel(deletion.id).await.unwrap();
    assert_eq!(world.task(deletion.id).await.state, TaskState::Aborting);
    world.advance(5);
    let abort = world.lease_one(agent).await;
    assert_eq!((abort.task, abort.intent), (deletion.id, Intent::Abort));
    world.end_with(agent, &abort, cancelled(Effects::Remain)).await;
    assert_eq!(world.task(deletion.id).await.state, TaskState::Cancelled);
    assert_eq!((of(world, id).await.state, world.book().await.used.room()), (SnapshotState::Error, one_vm() + gib(1)));
}

pub async fn a_deletion_leaves_its_turn_to_whatever_else_is_asked_of_the_machine(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    let deletion = world.ok(on(world, KindName::SnapshotDelete, vm, id)).await;
    let leased = world.lease_one(agent).await;
    let stop = world.ok(world.on_vm(KindName::VmStop, vm)).await;
    assert_eq!(world.lease_one(agent).await.task, stop.id);
    assert_eq!(world.vm(vm).await.task, Some(stop.id));
    world.end_with(agent, &leased, End::Succeeded { output: json!({"existed": true}) }).await;
    assert_eq!(world.task(deletion.id).await.state, TaskState::Succeeded);
    assert_eq!(world.vm(vm).await.task, Some(stop.id));
}

pub async fn they_go_with_their_machine(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    assert_eq!(of(world, id).await.state, SnapshotState::Deleted);
    let book = world.book().await;
    assert_eq!((book.held.room(), book.used.room()), (Resources::ZERO, Resources::ZERO));
}

pub async fn one_that_its_node_lacks_is_in_error_and_no_longer_charged(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    beat(world, agent, true, vm, &[]).await;
    assert_eq!(of(world, id).await.state, SnapshotState::Ready, "the inventory may be older than the snapshot");
    beat(world, agent, false, vm, &[]).await;
    assert_eq!(of(world, id).await.state, SnapshotState::Ready, "a light inventory misses nothing");
    beat(world, agent, true, vm, &[]).await;
    assert_eq!(of(world, id).await.state, SnapshotState::Error);
    assert_eq!(world.book().await.used.room(), one_vm());
    beat(world, agent, true, vm, &[id]).await;
    beat(world, agent, true, vm, &[id]).await;
    assert_eq!(of(world, id).await.state, SnapshotState::Ready);
    assert_eq!(world.book().await.used.room(), one_vm() + gib(1));
}

pub async fn one_that_is_not_ours_is_named_as_an_orphan(world: &mut World) {
    let (agent, vm, id) = ready(world).await;
    let foreign = world.id();
    assert_eq!(beat(world, agent, true, vm, &[id, foreign]).await, [foreign]);
}
