//! Submitting.

use futures_util::future::join_all;
use hostler_model::{
    Code, PrincipalId,
    event::{Actor, Class},
    kind::KindName,
    node::NodeEvent,
    task::{Effects, TaskState, WaitingFor},
    tenant::{Limits, UNLIMITED},
    vm::VmState,
};
use hostler_store::{EditTenant, LogFilter, Submission, TaskFilter};
use serde_json::json;

use crate::world::{TENANT, World, failed, one_vm};

pub async fn a_task_its_allocation_its_audit_entry_and_its_event_are_written_together(world: &mut World) {
    let agent = world.node("a").await;
    let head = world.head().await;
    let task = world.ok(world.echo()).await;
    assert_eq!(
        (task.state, task.waiting_for, task.node),
        (TaskState::Queued, Some(WaitingFor::Node), Some(agent.node))
    );
    assert_eq!(world.task(task.id).await, task);
    assert_eq!(world.book().await.held.memory_mib, 1);
    // One entry of the log, and what each of those see in it whom it is for.
    let mut told = Vec::new();
    for class in [None, Some(Class::Event), Some(Class::Audit)] {
        let entries = world.store.log(LogFilter { class, ..LogFilter::default() }, head, 10).await.unwrap();
        told.extend(
            entries.into_iter().map(|entry| (entry.seq - head, entry.class, entry.kind, entry.subject, entry.data)),
        );
    }
    let subject = task.id.0;
    let what = json!({"kind": "echo", "node": agent.node});
    let actor = json!({"principal": PrincipalId::SYSTEM, "role": "system", "request": null});
    let act = json!({"actor": actor, "by": "task.submit", "what": what});
    let audit = json!({"actor": actor, "what": what, "result": "done"});
    assert_eq!(
        told,
        [
            (1, Class::Act, "task.queued".to_owned(), subject, act),
            (1, Class::Event, "task.queued".to_owned(), subject, what),
            (1, Class::Audit, "task.submit".to_owned(), subject, audit),
        ]
    );
}

pub async fn a_vm_is_charged_and_placed_with_its_task(world: &mut World) {
    let agent = world.node("a").await;
    let accepted = world.submit(world.create("web")).await.unwrap();
    let vm = accepted.vm.unwrap();
    assert_eq!(
        (vm.state, vm.epoch, vm.node, vm.task),
        (VmState::Provisioning, 1, Some(agent.node), Some(accepted.task.id))
    );
    assert_eq!(world.vm(vm.id).await, vm);
    assert_eq!(world.book().await.held.room(), one_vm());
    assert_eq!(world.store.node(agent.node).await.unwrap().unwrap().book.held.room(), one_vm());
    assert!(world.kinds_after(0).await.contains(&"vm.created".to_owned()));
}

pub async fn a_name_that_is_taken_is_refused_also_within_one_batch(world: &mut World) {
    world.node("a").await;
    let first = world.create("web");
    let batch = vec![first.clone(), world.create("web"), world.create("db")];
    let answers = world.store.submit(batch).await.unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    let refusal = answers[1].as_ref().unwrap_err();
    assert_eq!(refusal.code, Code::NameTaken);
    assert_eq!(refusal.facts["vm"], first.vm.unwrap().id.to_string());
    world.refused(world.create("db"), Code::NameTaken).await;
}

pub async fn a_deleted_vm_gives_its_name_back(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    world.refused(world.create("web"), Code::NameTaken).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    world.ok(world.create("web")).await;
    world.refused(world.on_vm(KindName::VmDelete, vm), Code::VmNotFound).await;
}

pub async fn a_name_given_back_within_a_batch_is_free(world: &mut World) {
    world.node("a").await;
    let old = world.ok(world.create("web")).await.target.vm.unwrap();
    let batch = vec![world.on_vm(KindName::VmDelete, old), world.create("web"), world.create("web")];
    let answers = world.store.submit(batch.clone()).await.unwrap();
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert_eq!(answers[2].as_ref().unwrap_err().code, Code::NameTaken);
    let web = world.store.vm_by_name(TENANT, "web".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(web.id, batch[1].vm.as_ref().unwrap().id);
}

pub async fn a_name_that_a_rename_gives_back_within_a_batch_is_free(world: &mut World) {
    let agent = world.node("a").await;
    let (older, younger) = (world.running(agent, "a").await, world.running(agent, "b").await);
    let rename = |vm, name: &str| Submission { params: json!({"name": name}), ..world.on_vm(KindName::VmRename, vm) };
    let batch = vec![rename(younger, "c"), rename(older, "b"), world.create("a"), rename(younger, "d")];
    for answer in world.store.submit(batch).await.unwrap() {
        answer.unwrap();
    }
    assert_eq!((world.vm(older).await.name.as_str(), world.vm(younger).await.name.as_str()), ("b", "d"));
    // A name that comes back to its machine is its own.
    let batch = vec![rename(older, "x"), rename(older, "b")];
    assert!(world.store.submit(batch).await.unwrap().iter().all(Result::is_ok));
    assert_eq!(world.vm(older).await.name.as_str(), "b");
}

pub async fn two_tenants_may_use_one_name(world: &mut World) {
    world.node("a").await;
    let other = world.tenant("other").await;
    world.ok(world.create("web")).await;
    world.image_for(other);
    world.ok(Submission { tenant: other, ..world.create("web") }).await;
    assert_eq!(world.store.vm_by_name(other, "web".parse().unwrap()).await.unwrap().unwrap().tenant, other);
}

pub async fn quota_counts_what_earlier_items_of_the_batch_took(world: &mut World) {
    world.node("a").await;
    let limits = Limits { vms: 2, ..UNLIMITED };
    world.store.edit_tenant(EditTenant::of_system(TENANT, limits.into())).await.unwrap().unwrap();
    let answers = world.store.submit(["a", "b", "c"].map(|name| world.create(name)).to_vec()).await.unwrap();
    assert!(answers[0].is_ok() && answers[1].is_ok());
    let refusal = answers[2].as_ref().unwrap_err();
    assert_eq!(refusal.code, Code::QuotaExceeded);
    assert_eq!(refusal.facts["over"], json!([{"resource": "vms", "limit": 2, "used": 0, "held": 2, "asked": 1}]));
}

pub async fn an_unknown_tenant_is_not_found(world: &mut World) {
    world.node("a").await;
    world.refused(Submission { tenant: world.id(), ..world.echo() }, Code::NotFound).await;
}

pub async fn room_that_an_earlier_item_took_is_gone(world: &mut World) {
    // Two nodes with room for eight processors each.
    let (a, b) = (world.node("a").await, world.node("b").await);
    let batch = (0..17).map(|n| world.create(&format!("vm-{n}"))).collect();
    let answers = world.store.submit(batch).await.unwrap();
    assert!(answers[..16].iter().all(Result::is_ok));
    assert_eq!(answers[16].as_ref().unwrap_err().code, Code::NoCapacity);
    for agent in [a, b] {
        assert_eq!(world.store.node(agent.node).await.unwrap().unwrap().book.held.vms, 8);
    }
}

pub async fn a_refusal_for_want_of_room_explains_every_node(world: &mut World) {
    let none = world.refused(world.create("web"), Code::NoCapacity).await;
    assert_eq!(none.facts["nodes"], json!([]));
    let (a, _) = (world.node("a").await, world.joined("b", false).await);
    world.store.change_node(a.node, NodeEvent::Cordon, Actor::system()).await.unwrap().unwrap();
    let refusal = world.refused(world.create("web"), Code::NoCapacity).await;
    assert_eq!(
        refusal.facts["nodes"],
        json!([
            {"node": "a", "why": "it is cordoned", "reasons": ["state"]},
            {"node": "b", "why": "it is pending", "reasons": ["state"]},
        ])
    );
}

pub async fn a_named_node_is_the_only_one_that_will_do(world: &mut World) {
    let (_, b) = (world.node("a").await, world.node("b").await);
    let mut probe = world.echo();
    probe.kind = KindName::DiagHealthProbe;
    probe.target.node = Some(b.node);
    assert_eq!(world.ok(probe.clone()).await.node, Some(b.node));
    world.store.change_node(b.node, NodeEvent::Cordon, Actor::system()).await.unwrap().unwrap();
    world.refused(Submission { task: world.id(), ..probe }, Code::NoCapacity).await;
}

pub async fn a_refused_item_does_not_spoil_its_neighbours(world: &mut World) {
    world.node("a").await;
    let batch = vec![
        world.echo(),
        world.on_vm(KindName::VmExec, world.id()),
        world.create("web"),
        Submission { tenant: world.id(), ..world.echo() },
        world.echo(),
    ];
    let answers = world.store.submit(batch.clone()).await.unwrap();
    let codes: Vec<Option<Code>> =
        answers.iter().map(|answer| answer.as_ref().err().map(|refusal| refusal.code)).collect();
    assert_eq!(codes, [None, Some(Code::VmNotFound), None, Some(Code::NotFound), None]);
    for (item, answer) in batch.iter().zip(&answers) {
        assert_eq!(world.store.task(item.task).await.unwrap().is_some(), answer.is_ok());
    }
}

pub async fn a_dry_run_answers_the_same_and_writes_nothing(world: &mut World) {
    let agent = world.node("a").await;
    let head = world.head().await;
    let dry = Submission { dry_run: true, ..world.create("web") };
    let answers = world.store.submit(vec![dry.clone(), dry.clone()]).await.unwrap();
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!((answer.task.node, answer.vm.unwrap().state), (Some(agent.node), VmState::Provisioning));
    }
    assert_eq!(world.head().await, head);
    assert!(world.store.task(dry.task).await.unwrap().is_none());
    assert!(world.book().await.total().is_zero());
    let wet = world.ok(Submission { dry_run: false, ..dry.clone() }).await;
    world.refused(Submission { task: world.id(), ..dry }, Code::NameTaken).await;
    assert_eq!(world.store.tasks(TaskFilter::default(), None, 10).await.unwrap(), [wet]);
}

pub async fn another_tenants_vm_is_not_found(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    let other = world.tenant("other").await;
    for kind in [KindName::VmExec, KindName::VmDelete] {
        world.refused(Submission { tenant: other, ..world.on_vm(kind, vm) }, Code::VmNotFound).await;
    }
}

pub async fn a_program_cannot_run_in_a_vm_that_is_not_running(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.ok(world.create("web")).await.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    let refusal = world.refused(world.on_vm(KindName::VmExec, vm), Code::VmStateConflict).await;
    assert_eq!(refusal.facts["state"], "error");
}

pub async fn a_kind_that_makes_a_vm_needs_one_described(world: &mut World) {
    world.node("a").await;
    world.refused(Submission { vm: None, ..world.create("web") }, Code::ValidationError).await;
    let targetless = Submission { kind: KindName::VmDelete, ..world.echo() };
    world.refused(targetless, Code::ValidationError).await;
}

pub async fn a_poisoned_item_fails_alone(world: &mut World) {
    world.node("a").await;
    let there = world.ok(world.echo()).await;
    let mut batch: Vec<Submission> = (0..9).map(|_| world.echo()).collect();
    // An id that exists already: the database refuses the whole statement.
    batch[4].task = there.id;
    let answers = world.store.submit(batch.clone()).await.unwrap();
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.as_ref().err().map(|refusal| refusal.code), (n == 4).then_some(Code::Internal), "item {n}");
    }
    assert_eq!(world.store.tasks(TaskFilter::default(), None, 100).await.unwrap().len(), 9);
    assert!(world.store.submit(vec![batch[4].clone()]).await.is_err());
}

pub async fn many_callers_at_once_are_all_answered(world: &mut World) {
    world.node("a").await;
    let submissions: Vec<Submission> = (0..300).map(|_| world.echo()).collect();
    let answers = join_all(submissions.iter().cloned().map(|submission| world.submit(submission))).await;
    for (submission, answer) in submissions.iter().zip(answers) {
        assert_eq!(answer.unwrap().task.id, submission.task);
    }
    assert_eq!(world.book().await.held.memory_mib, 300);
}

pub async fn a_call_that_is_dropped_leaves_all_or_nothing(world: &mut World) {
    world.node("a").await;
    let submissions: Vec<Submission> = (0..20).map(|n| world.create(&format!("vm-{}", n % 8))).collect();
    for submission in &submissions {
        let call = world.store.submit(vec![submission.clone()]);
        let mut call = std::pin::pin!(call);
        // Begun, and given up at its first pause.
        let _ = futures_util::poll!(&mut call);
    }
    // A step of our own follows those that were begun.
    world.ok(world.echo()).await;
    world.reopen();
    for submission in &submissions {
        let task = world.store.task(submission.task).await.unwrap();
        let vm = world.store.vm(submission.vm.as_ref().unwrap().id).await.unwrap();
        assert_eq!(task.is_some(), vm.is_some());
    }
}
