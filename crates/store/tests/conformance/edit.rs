//! Editing a machine's record, protection, the end of its time.

use std::time::Duration;

use hostler_model::{
    Code, PrincipalId, VmId,
    edit::VmPatch,
    event::Actor,
    kind::KindName,
    task::{Effects, TaskState},
    vm::{Vm, VmState},
};
use hostler_store::{Answer, EditVm, Submission};
use serde_json::{Value, json};

use crate::world::{TENANT, World, failed};

fn edit(vm: VmId, patch: Value) -> EditVm {
    let patch: VmPatch = serde_json::from_value(patch).unwrap();
    EditVm { vm, tenant: TENANT, actor: Actor::system(), patch, if_match: None, dry_run: false }
}

async fn edited(world: &World, edit: EditVm) -> Answer<Vm> {
    world.store.edit_vm(edit).await.unwrap()
}

pub async fn a_record_is_changed_with_its_event_and_audit_entry(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let before = world.vm(id).await;
    assert_eq!((before.generation, before.observed_generation), (1, 1));
    let head = world.head().await;
    let dry = EditVm { dry_run: true, ..edit(id, json!({"protected": true})) };
    assert!(edited(world, dry).await.unwrap().protected);
    assert_eq!((world.vm(id).await, world.head().await), (before, head), "a dry run wrote something");
    let after = edited(world, edit(id, json!({"labels": {"a": "b"}, "protected": true}))).await.unwrap();
    assert_eq!(world.vm(id).await, after);
    assert_eq!((after.generation, after.observed_generation, after.protected), (2, 2, true));
    assert_eq!(world.kinds_after(head).await, ["vm.edited", "vm.edit"]);
    let again = edited(world, edit(id, json!({"labels": {"a": "b"}}))).await.unwrap();
    assert_eq!((again, world.head().await), (after, head + 2), "nothing differs, and something was written");
}

pub async fn an_edit_of_an_older_generation_is_refused(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let matching = |patch, generation| EditVm { if_match: Some(vec![generation]), ..edit(id, patch) };
    edited(world, matching(json!({"labels": {"a": "b"}}), 1)).await.unwrap();
    let refusal = edited(world, matching(json!({"labels": {"a": null}}), 1)).await.unwrap_err();
    assert_eq!((refusal.code, &refusal.facts["generation"]), (Code::PreconditionFailed, &json!(2)));
    assert_eq!(world.vm(id).await.spec.labels.len(), 1);
}

pub async fn another_tenants_or_a_deleted_machine_is_not_edited(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let theirs = EditVm { tenant: world.id(), ..edit(id, json!({"protected": true})) };
    assert_eq!(edited(world, theirs).await.unwrap_err().code, Code::VmNotFound);
    let unknown = edit(world.id(), json!({}));
    assert_eq!(edited(world, unknown).await.unwrap_err().code, Code::VmNotFound);
    world.ok(world.on_vm(KindName::VmDelete, id)).await;
    let late = edited(world, edit(id, json!({"protected": true}))).await.unwrap_err();
    assert_eq!(late.code, Code::VmStateConflict);
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    assert_eq!(edited(world, edit(id, json!({}))).await.unwrap_err().code, Code::VmNotFound);
}

pub async fn a_protected_machine_is_not_deleted_also_within_a_batch(world: &mut World) {
    let agent = world.node("a").await;
    let (kept, gone) = (world.running(agent, "kept").await, world.running(agent, "gone").await);
    edited(world, edit(kept, json!({"protected": true}))).await.unwrap();
    let batch: Vec<Submission> = [kept, gone].map(|id| world.on_vm(KindName::VmDelete, id)).into();
    let answers = world.store.submit(batch).await.unwrap();
    let refusal = answers[0].as_ref().unwrap_err();
    assert_eq!(refusal.code, Code::VmProtected);
    assert!(refusal.detail.contains("--unprotect"), "{refusal}");
    assert!(answers[1].is_ok());
    edited(world, edit(kept, json!({"protected": false}))).await.unwrap();
    world.ok(world.on_vm(KindName::VmDelete, kept)).await;
}

pub async fn a_machine_made_protected_and_for_a_time_is_both(world: &mut World) {
    world.node("a").await;
    let mut create = world.create("web");
    let machine = create.vm.as_mut().unwrap();
    (machine.protected, machine.ttl) = (true, Some(Duration::from_secs(60)));
    let id = world.ok(create).await.target.vm.unwrap();
    let vm = world.vm(id).await;
    assert_eq!((vm.protected, vm.expires_at), (true, Some(world.now().plus(Duration::from_secs(60)))));
    assert_eq!((vm.generation, vm.observed_generation), (1, 0));
}

pub async fn a_machine_whose_time_is_over_is_deleted_by_the_system(world: &mut World) {
    let agent = world.node("a").await;
    let (over, stays) = (world.running(agent, "over").await, world.running(agent, "stays").await);
    edited(world, edit(over, json!({"ttl_seconds": 60}))).await.unwrap();
    edited(world, edit(stays, json!({"ttl_seconds": 3600}))).await.unwrap();
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0);
    world.advance(60);
    let head = world.head().await;
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0, "it was filed twice");
    assert_eq!(world.kinds_after(head).await, ["vm.expired", "task.queued", "task.submit"]);
    let leased = world.lease_one(agent).await;
    let task = world.task(leased.task).await;
    assert_eq!((task.kind, task.target.vm, task.created_by), (KindName::VmDelete, Some(over), PrincipalId::SYSTEM));
    world.succeed(agent, &leased).await;
    assert_eq!((world.vm(over).await.state, world.vm(stays).await.state), (VmState::Deleted, VmState::Running));
}

pub async fn a_time_that_was_extended_or_taken_back_does_not_end_a_machine(world: &mut World) {
    let agent = world.node("a").await;
    let (longer, never) = (world.running(agent, "longer").await, world.running(agent, "never").await);
    for id in [longer, never] {
        edited(world, edit(id, json!({"ttl_seconds": 60}))).await.unwrap();
    }
    edited(world, edit(longer, json!({"ttl_seconds": 600}))).await.unwrap();
    edited(world, edit(never, json!({"expires_at": null}))).await.unwrap();
    world.advance(300);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0);
    world.advance(300);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
    assert_eq!(world.lease_one(agent).await.target.vm, Some(longer));
}

pub async fn a_protected_machine_outlives_its_time_until_it_is_unprotected(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    edited(world, edit(id, json!({"ttl_seconds": 60, "protected": true}))).await.unwrap();
    world.advance(600);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0);
    assert!(world.lease(agent, 10).await.is_empty());
    edited(world, edit(id, json!({"protected": false}))).await.unwrap();
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
}

pub async fn a_deletion_that_failed_is_filed_again_after_a_pause(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    edited(world, edit(id, json!({"ttl_seconds": 60}))).await.unwrap();
    world.advance(60);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    assert_eq!((world.task(leased.task).await.state, world.vm(id).await.state), (TaskState::Failed, VmState::Error));
    world.advance(299);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0);
    world.advance(1);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
}
