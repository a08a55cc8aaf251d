//! Editing a machine's record, protection, the end of its time.

use std::time::Duration;

use hostler_model::{
    Code, PrincipalId, Resources, VmId,
    event::Actor,
    kind::KindName,
    task::{Effects, End, Task, TaskState},
    tenant::{Limits, UNLIMITED},
    vm::{Observation, Vm, VmState},
};
use hostler_store::{Answer, EditTenant, Edited, Idempotency, Queue, Submission};
use serde_json::{Value, json};

use crate::world::{Agent, TENANT, World, failed, one_vm, seen};

fn edit(world: &World, vm: VmId, patch: Value) -> Submission {
    Submission { params: patch, ..world.on_vm(KindName::VmEdit, vm) }
}

/// An edit of the record only.
async fn edited(world: &World, edit: Submission) -> Answer<Vm> {
    world.store.edit_vm(edit).await.unwrap().map(|edited| match edited {
        Edited::Record { vm, .. } => *vm,
        Edited::Task(accepted) => panic!("a task was filed: {accepted:?}"),
    })
}

/// An edit that its host must hear of.
async fn filed(world: &World, vm: VmId, patch: Value) -> Task {
    match world.store.edit_vm(edit(world, vm, patch)).await.unwrap().unwrap() {
        Edited::Task(accepted) => accepted.task,
        Edited::Record { vm, .. } => panic!("no task was filed: {vm:?}"),
    }
}

fn done(pending: bool, vcpus: i64) -> End {
    let charge = Resources { vcpus, ..one_vm() };
    End::Succeeded { output: json!({"vcpus": "next_start", "restart_pending": pending, "charge": charge}) }
}

pub async fn a_record_is_changed_with_its_event_and_audit_entry(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let before = world.vm(id).await;
    assert_eq!((before.generation, before.observed_generation), (1, 1));
    let head = world.head().await;
    let mut dry = edit(world, id, json!({"protected": true}));
    dry.dry_run = true;
    assert!(edited(world, dry).await.unwrap().protected);
    assert_eq!((world.vm(id).await, world.head().await), (before, head), "a dry run wrote something");
    let after = edited(world, edit(world, id, json!({"labels": {"a": "b"}, "protected": true}))).await.unwrap();
    assert_eq!(world.vm(id).await, after);
    assert_eq!((after.generation, after.observed_generation, after.protected), (2, 2, true));
    assert_eq!(world.kinds_after(head).await, ["vm.edit", "vm.edited"]);
    let again = edited(world, edit(world, id, json!({"labels": {"a": "b"}}))).await.unwrap();
    assert_eq!((again, world.head().await), (after, head + 2), "nothing differs, and something was written");
}

pub async fn an_edit_of_an_older_generation_is_refused(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let matching = |patch, generation: u32| Submission { if_match: Some(vec![generation]), ..edit(world, id, patch) };
    edited(world, matching(json!({"labels": {"a": "b"}}), 1)).await.unwrap();
    let refusal = edited(world, matching(json!({"labels": {"a": null}}), 1)).await.unwrap_err();
    assert_eq!((refusal.code, &refusal.facts["generation"]), (Code::PreconditionFailed, &json!(2)));
    assert_eq!(world.vm(id).await.spec.labels.len(), 1);
}

pub async fn another_tenants_or_a_deleted_machine_is_not_edited(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let mut theirs = edit(world, id, json!({"protected": true}));
    theirs.tenant = world.id();
    assert_eq!(edited(world, theirs).await.unwrap_err().code, Code::VmNotFound);
    let unknown = edit(world, world.id(), json!({}));
    assert_eq!(edited(world, unknown).await.unwrap_err().code, Code::VmNotFound);
    world.ok(world.on_vm(KindName::VmDelete, id)).await;
    let late = edited(world, edit(world, id, json!({"protected": true}))).await.unwrap_err();
    assert_eq!(late.code, Code::VmStateConflict);
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    assert_eq!(edited(world, edit(world, id, json!({}))).await.unwrap_err().code, Code::VmNotFound);
}

pub async fn a_protected_machine_is_not_deleted_also_within_a_batch(world: &mut World) {
    let agent = world.node("a").await;
    let (kept, gone) = (world.running(agent, "kept").await, world.running(agent, "gone").await);
    edited(world, edit(world, kept, json!({"protected": true}))).await.unwrap();
    let batch: Vec<Submission> = [kept, gone].map(|id| world.on_vm(KindName::VmDelete, id)).into();
    let answers = world.store.submit(batch).await.unwrap();
    let refusal = answers[0].as_ref().unwrap_err();
    assert_eq!(refusal.code, Code::VmProtected);
    assert!(refusal.detail.contains("--unprotect"), "{refusal}");
    assert!(answers[1].is_ok());
    edited(world, edit(world, kept, json!({"protected": false}))).await.unwrap();
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
    edited(world, edit(world, over, json!({"ttl_seconds": 60}))).await.unwrap();
    edited(world, edit(world, stays, json!({"ttl_seconds": 3600}))).await.unwrap();
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0);
    world.advance(60);
    let head = world.head().await;
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0, "it was filed twice");
    assert_eq!(world.kinds_after(head).await, ["vm.expired", "task.queued"]);
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
        edited(world, edit(world, id, json!({"ttl_seconds": 60}))).await.unwrap();
    }
    edited(world, edit(world, longer, json!({"ttl_seconds": 600}))).await.unwrap();
    edited(world, edit(world, never, json!({"expires_at": null}))).await.unwrap();
    world.advance(300);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0);
    world.advance(300);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
    assert_eq!(world.lease_one(agent).await.target.vm, Some(longer));
}

pub async fn a_protected_machine_outlives_its_time_until_it_is_unprotected(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    edited(world, edit(world, id, json!({"ttl_seconds": 60, "protected": true}))).await.unwrap();
    world.advance(600);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0);
    assert!(world.lease(agent, 10).await.is_empty());
    edited(world, edit(world, id, json!({"protected": false}))).await.unwrap();
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
}

pub async fn a_deletion_that_failed_is_filed_again_after_a_pause(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    edited(world, edit(world, id, json!({"ttl_seconds": 60}))).await.unwrap();
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

pub async fn a_machine_whose_time_is_over_on_a_node_that_does_not_listen_waits_for_it(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    edited(world, edit(world, id, json!({"ttl_seconds": 60}))).await.unwrap();
    world.store.queue_node(agent.node, Queue::Paused, Actor::system()).await.unwrap().unwrap();
    world.advance(3600);
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 0);
    world.store.queue_node(agent.node, Queue::Open, Actor::system()).await.unwrap().unwrap();
    assert_eq!(world.store.expire_vms().await.unwrap().changed, 1);
}

pub async fn an_edit_of_the_host_is_asked_for_charged_and_filed_together(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let head = world.head().await;
    let task = filed(world, id, json!({"vcpus": 3, "protected": true})).await;
    assert_eq!(world.kinds_after(head).await, ["task.queued", "vm.edited"]);
    let vm = world.vm(id).await;
    assert_eq!((vm.spec.vcpus, vm.protected, vm.generation, vm.observed_generation), (3, true, 2, 1));
    assert_eq!((vm.task, world.book().await.total().vcpus), (Some(task.id), 3));
    assert_eq!(task.params["filed"]["before"]["vcpus"], 1);
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.params["filed"]["after"]["vcpus"], 3);
    world.end_with(agent, &leased, done(false, 3)).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.state, vm.generation, vm.observed_generation, vm.task), (VmState::Running, 2, 2, None));
    assert_eq!(world.book().await.total().room(), Resources { vcpus: 3, ..one_vm() });
}

pub async fn what_waits_for_the_next_start_is_charged_as_the_larger_until_it_is_seen(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    filed(world, id, json!({"vcpus": 3})).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, done(true, 3)).await;
    let pending = Observation { restart_pending: true, ..seen(id, VmState::Running) };
    for _ in 0..2 {
        world.beat(agent, vec![pending.clone()]).await;
    }
    assert_eq!(world.vm(id).await.observed_generation, 1);
    // Less is asked for, and more still runs.
    filed(world, id, json!({"vcpus": 2})).await;
    assert_eq!(world.book().await.total().vcpus, 3);
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, done(true, 3)).await;
    assert_eq!((world.book().await.total().vcpus, world.vm(id).await.spec.vcpus), (3, 2));
    for _ in 0..2 {
        world.beat(agent, vec![seen(id, VmState::Running)]).await;
    }
    let vm = world.vm(id).await;
    assert_eq!((vm.generation, vm.observed_generation, world.book().await.total().vcpus), (3, 3, 2));
}

pub async fn only_growth_is_checked_against_quota_and_room(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    // The node has room for eight processors.
    let refusal = world.store.edit_vm(edit(world, id, json!({"vcpus": 9}))).await.unwrap().unwrap_err();
    assert_eq!((refusal.code, &refusal.facts["asked"]["vcpus"]), (Code::NoCapacity, &json!(8)));
    let tight = Limits { vcpus: 0, memory_mib: 0, disk_gib: 0, vms: 0, ..UNLIMITED };
    world.store.edit_tenant(EditTenant::of_system(TENANT, tight.into())).await.unwrap().unwrap();
    let refusal = world.store.edit_vm(edit(world, id, json!({"vcpus": 2}))).await.unwrap().unwrap_err();
    assert_eq!((refusal.code, &refusal.facts["over"][0]["asked"]), (Code::QuotaExceeded, &json!(1)));
    assert_eq!(world.vm(id).await.generation, 1);
    filed(world, id, json!({"memory_mib": 128})).await;
    assert_eq!(world.book().await.total().room(), one_vm());
}

pub async fn an_edit_that_was_undone_is_taken_back(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    filed(world, id, json!({"vcpus": 3, "labels": {"a": "b"}})).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.spec.vcpus, vm.spec.labels.len(), vm.generation, vm.observed_generation), (1, 1, 3, 3));
    assert_eq!(world.book().await.total().room(), one_vm());
    // Cancelled before anybody leased it: the same.
    let task = filed(world, id, json!({"vcpus": 3})).await;
    world.cancel(task.id).await.unwrap();
    assert_eq!((world.vm(id).await.spec.vcpus, world.book().await.total().room()), (1, one_vm()));
}

pub async fn an_edit_whose_end_is_not_known_stays_charged_for_the_larger(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    filed(world, id, json!({"vcpus": 3})).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.spec.vcpus, vm.generation, vm.observed_generation), (3, 2, 1));
    assert_eq!((vm.state, world.book().await.total().vcpus), (VmState::Running, 3));
}

pub async fn one_edit_runs_at_a_time_and_a_repeat_gets_the_first_answer(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let keyed = |vcpus: i64, world: &World| {
        let mut edit = edit(world, id, json!({"vcpus": vcpus}));
        let key = Idempotency { key: "k".into(), route: "PATCH /vms".into(), body: vcpus.to_string(), part: None };
        edit.idempotency = Some(key);
        edit
    };
    let Edited::Task(first) = world.store.edit_vm(keyed(2, world)).await.unwrap().unwrap() else { panic!("a task") };
    let Edited::Task(again) = world.store.edit_vm(keyed(2, world)).await.unwrap().unwrap() else { panic!("a task") };
    assert_eq!((again.task.id, again.replayed), (first.task.id, true));
    let other = world.store.edit_vm(keyed(3, world)).await.unwrap().unwrap_err();
    assert_eq!(other.code, Code::IdempotencyMismatch);
    let refusal = world.store.edit_vm(edit(world, id, json!({"memory_mib": 512}))).await.unwrap().unwrap_err();
    assert_eq!((refusal.code, &refusal.facts["task"]), (Code::VmStateConflict, &json!(first.task.id)));
    // What concerns no host is no matter of turns.
    edited(world, edit(world, id, json!({"labels": {"a": "b"}}))).await.unwrap();
    assert_eq!(world.vm(id).await.observed_generation, 1);
}

pub async fn an_edit_of_the_record_under_a_key_is_done_once(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let keyed = |patch: Value, world: &World| {
        let key = Idempotency { key: "k".into(), route: "PATCH /vms".into(), body: patch.to_string(), part: None };
        Submission { idempotency: Some(key), if_match: Some(vec![1]), ..edit(world, id, patch) }
    };
    let ttl = || json!({"ttl_seconds": 60});
    let refused = Submission { if_match: Some(vec![9]), ..keyed(ttl(), world) };
    assert_eq!(edited(world, refused).await.unwrap_err().code, Code::PreconditionFailed, "it uses no key up");
    let first = edited(world, keyed(ttl(), world)).await.unwrap();
    world.advance(30);
    let head = world.head().await;
    let Edited::Record { vm, replayed } = world.store.edit_vm(keyed(ttl(), world)).await.unwrap().unwrap() else {
        panic!("a task")
    };
    assert_eq!((*vm, replayed), (first.clone(), true));
    for other in [json!({"ttl_seconds": 90}), json!({"vcpus": 2})] {
        let refusal = world.store.edit_vm(keyed(other, world)).await.unwrap().unwrap_err();
        assert_eq!(refusal.code, Code::IdempotencyMismatch);
    }
    assert_eq!((world.vm(id).await, world.head().await), (first, head));
    world.advance(24 * 3600);
    assert_eq!(world.store.drop_idempotency_keys().await.unwrap().changed, 1);
}

pub async fn a_deletion_of_an_older_generation_is_refused(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let matching = |generations: Vec<u32>, world: &World| Submission {
        if_match: Some(generations),
        ..world.on_vm(KindName::VmDelete, id)
    };
    edited(world, edit(world, id, json!({"labels": {"a": "b"}}))).await.unwrap();
    let refusal = world.refused(matching(vec![1], world), Code::PreconditionFailed).await;
    assert_eq!(refusal.facts["generation"], 2);
    assert_eq!(world.vm(id).await.task, None);
    world.ok(matching(vec![1, 2], world)).await;
}

/// A machine with this forward.
async fn publishing(world: &World, agent: Agent, name: &str, port: u16) -> Answer<VmId> {
    let mut create = world.create(name);
    let forward = format!("{port}:80").parse().unwrap();
    create.vm.as_mut().unwrap().spec.port_forwards = vec![forward];
    let id = world.submit(create).await?.task.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    Ok(id)
}

pub async fn a_port_that_another_machine_has_is_refused_with_its_name(world: &mut World) {
    let agent = world.node("a").await;
    let web = publishing(world, agent, "web", 8080).await.unwrap();
    let refusal = publishing(world, agent, "other", 8080).await.unwrap_err();
    assert_eq!(refusal.code, Code::PortTaken);
    assert!(refusal.detail.contains("the VM web") && refusal.detail.contains("127.0.0.1:8080/tcp"), "{refusal}");
    let db = world.running(agent, "db").await;
    let ports = |port: u16| json!({"port_forwards": [{"host_port": port, "guest_port": 22}]});
    let refusal = world.store.edit_vm(edit(world, db, ports(8080))).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::PortTaken);
    // Its own it may keep, and what is given back is free.
    filed(world, web, json!({"port_forwards": [{"host_port": 8080, "guest_port": 81}]})).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, done(false, 1)).await;
    filed(world, web, json!({"port_forwards": null})).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, done(false, 1)).await;
    filed(world, db, ports(8080)).await;
}

pub async fn a_port_that_the_node_chose_is_kept(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    filed(world, id, json!({"port_forwards": [{"guest_port": 80}, {"guest_port": 22}]})).await;
    let leased = world.lease_one(agent).await;
    let forwards = json!([{"host_port": 40001, "guest_port": 80}, {"host_port": 40002, "guest_port": 22}]);
    let output = json!({"port_forwards": "live", "forwards": forwards, "charge": one_vm()});
    world.end_with(agent, &leased, End::Succeeded { output }).await;
    let ports: Vec<u16> = world.vm(id).await.spec.port_forwards.iter().map(|forward| forward.host_port).collect();
    assert_eq!(ports, [40001, 40002]);
}

/// A machine whose create is under way and an edit behind it.
async fn edited_while_made(world: &World, patch: Value) -> (VmId, Task) {
    let mut create = world.create("web");
    create.vm.as_mut().unwrap().spec.port_forwards = ["80", "22"].map(|text| text.parse().unwrap()).to_vec();
    let id = world.ok(create).await.target.vm.unwrap();
    (id, filed(world, id, patch).await)
}

fn made() -> End {
    let forwards = json!([{"host_port": 40001, "guest_port": 80}, {"host_port": 40002, "guest_port": 22}]);
    let output = json!({"charge": one_vm(), "boot_ms": 1.0, "acceleration": "tcg", "port_forwards": forwards});
    End::Succeeded { output }
}

fn ports(vm: &Vm) -> Vec<(u16, u16)> {
    vm.spec.port_forwards.iter().map(|forward| (forward.host_port, forward.guest_port)).collect()
}

pub async fn an_edit_behind_the_create_stays_charged_for_what_it_asks(world: &mut World) {
    let agent = world.node("a").await;
    let patch = json!({"memory_mib": 1024, "port_forwards": [{"guest_port": 443}, {"guest_port": 22}]});
    let (id, edit) = edited_while_made(world, patch).await;
    let create = world.lease_one(agent).await;
    world.end_with(agent, &create, made()).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.state, vm.task), (VmState::Running, Some(edit.id)));
    assert_eq!((vm.generation, vm.observed_generation), (2, 1), "the edit is yet to come");
    assert_eq!(world.book().await.used.memory_mib, 1024);
    assert_eq!(ports(&vm), [(0, 443), (40002, 22)], "a port is the one that was chosen for it");
    let leased = world.lease_one(agent).await;
    let charge = Resources { memory_mib: 1024, ..one_vm() };
    let forwards = json!([{"host_port": 40003, "guest_port": 443}, {"host_port": 40002, "guest_port": 22}]);
    let output = json!({"memory_mib": "live", "port_forwards": "live", "forwards": forwards, "charge": charge});
    world.end_with(agent, &leased, End::Succeeded { output }).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.spec.memory_mib, vm.generation, vm.observed_generation), (1024, 2, 2));
    assert_eq!((world.book().await.total().room(), ports(&vm)), (charge, vec![(40003, 443), (40002, 22)]));
}

pub async fn an_edit_behind_the_create_that_is_undone_leaves_what_was_made(world: &mut World) {
    let agent = world.node("a").await;
    let (id, edit) = edited_while_made(world, json!({"memory_mib": 1024, "port_forwards": null})).await;
    let create = world.lease_one(agent).await;
    world.end_with(agent, &create, made()).await;
    world.cancel(edit.id).await.unwrap();
    let vm = world.vm(id).await;
    assert_eq!((vm.spec.memory_mib, ports(&vm)), (256, vec![(40001, 80), (40002, 22)]));
    assert_eq!((vm.generation, vm.observed_generation, vm.task), (3, 3, None));
    assert_eq!(world.book().await.total().room(), one_vm());
}

fn renamed(world: &World, vm: VmId, name: &str) -> Submission {
    Submission { params: json!({"name": name}), ..world.on_vm(KindName::VmRename, vm) }
}

pub async fn a_name_changes_with_the_submission_and_the_old_one_is_free(world: &mut World) {
    let agent = world.node("a").await;
    let (web, db) = (world.running(agent, "web").await, world.running(agent, "db").await);
    world.refused(renamed(world, web, "db"), Code::NameTaken).await;
    let mut dry = renamed(world, web, "site");
    dry.dry_run = true;
    assert_eq!(world.submit(dry).await.unwrap().vm.unwrap().name.as_str(), "site");
    assert_eq!(world.vm(web).await.name.as_str(), "web");
    // Within one batch: what is given back may be taken, and what is taken may not.
    let batch = vec![renamed(world, web, "site"), renamed(world, db, "web"), renamed(world, db, "site")];
    let answers = world.store.submit(batch).await.unwrap();
    let codes: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|refusal| refusal.code)).collect();
    assert_eq!(codes, [None, None, Some(Code::NameTaken)]);
    let named = |name: &str| world.store.vm_by_name(TENANT, name.parse().unwrap());
    assert_eq!(named("web").await.unwrap().unwrap().id, db);
    let site = named("site").await.unwrap().unwrap();
    assert_eq!((site.id, site.generation, site.observed_generation), (web, 2, 2));
    for leased in world.lease(agent, 10).await {
        world.succeed(agent, &leased).await;
    }
    assert_eq!(world.vm(web).await.task, None);
}

pub async fn a_node_that_takes_nothing_new_still_looks_at_what_it_has(world: &mut World) {
    let agent = world.node("a").await;
    let look = |node| Submission {
        kind: KindName::InventoryRefresh,
        params: json!({}),
        target: hostler_model::task::Target { vm: None, node },
        ..world.echo()
    };
    world.refused(look(None), Code::ValidationError).await;
    world.refused(look(Some(world.id())), Code::ValidationError).await;
    let (pending, _) = world.joined("b", false).await;
    world.refused(look(Some(pending.node)), Code::NodeStateConflict).await;
    let event = hostler_model::node::NodeEvent::Cordon;
    world.store.change_node(agent.node, event, Actor::system()).await.unwrap().unwrap();
    let task = world.ok(look(Some(agent.node))).await;
    assert_eq!(world.lease_one(agent).await.task, task.id);
}
