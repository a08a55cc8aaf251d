//! Settling.

use std::time::Duration;

use hostler_model::{
    Code, Resources, Timestamp,
    internal::Receipt,
    kind::KindName,
    proof::said,
    task::{Effects, End, TaskState, WaitingFor},
    vm::{VmReason, VmState},
};
use hostler_store::NodeCertificate;
use serde_json::json;

use crate::world::{Agent, World, cancelled, failed, one_vm, output};

pub async fn a_success_is_written_down_with_all_that_follows(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    let head = world.head().await;
    world.succeed(agent, &leased).await;
    let task = world.task(task.id).await;
    assert_eq!((task.state, task.output), (TaskState::Succeeded, Some(output(KindName::VmCreate))));
    assert_eq!((task.finished_at, task.phases.len()), (Some(world.now()), 1));
    let vm = world.vm(task.target.vm.unwrap()).await;
    assert_eq!((vm.state, vm.ready, vm.task), (VmState::Running, true, None));
    let book = world.book().await;
    assert_eq!((book.held.room(), book.used.room()), (Resources::ZERO, one_vm()));
    assert_eq!(world.kinds_after(head).await, ["task.succeeded", "vm.running"]);
}

pub async fn what_proves_a_result_is_kept_with_its_task_and_its_certificate_beside_it(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.ok(world.echo()).await.id;
    assert_eq!(world.store.task_proof(id).await.unwrap(), None);
    let certificate =
        |name: &str| NodeCertificate { thumbprint: name.into(), pem: format!("of {name}"), ends_at: world.now() };
    world.store.keep_certificate(certificate("a thumbprint")).await.unwrap();
    let first = world.lease_one(agent).await;
    world.end_with(agent, &first, failed(true, Effects::Undone)).await;
    let proof = world.store.task_proof(id).await.unwrap().unwrap();
    assert_eq!((proof.signed.as_str(), proof.certificate_pem.as_str()), ("a signature", "of a thumbprint"));
    assert_eq!(proof.said, said(id, first.fence, &failed(true, Effects::Undone)));
    assert!(world.task(id).await.signed);
    // It stays while the task is tried again, until there is another.
    world.serve(60).await;
    let second = world.lease_one(agent).await;
    assert_eq!(world.store.task_proof(id).await.unwrap(), Some(proof));
    world.succeed(agent, &second).await;
    let output = output(KindName::Echo);
    let proof = world.store.task_proof(id).await.unwrap().unwrap();
    assert_eq!(proof.said, said(id, second.fence, &End::Succeeded { output }));
    // A certificate goes some time after what was signed by it.
    world.advance(89 * 24 * 60 * 60);
    world.store.keep_certificate(certificate("another")).await.unwrap();
    assert!(world.store.task_proof(id).await.unwrap().is_some());
    world.advance(2 * 24 * 60 * 60);
    world.store.keep_certificate(certificate("a third")).await.unwrap();
    assert_eq!(world.store.task_proof(id).await.unwrap(), None);
}

pub async fn a_repeat_of_a_result_changes_nothing(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let (head, before) = (world.head().await, world.task(task.id).await);
    world.advance(1);
    world.succeed(agent, &leased).await;
    // Not even when it says something else.
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    assert_eq!((world.head().await, world.task(task.id).await), (head, before));
}

pub async fn a_repeat_within_one_batch_changes_nothing(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let result = world.result(agent, &leased, End::Succeeded { output: json!({}) });
    let head = world.head().await;
    let receipts = world.store.settle(vec![result.clone(), result.clone(), result]).await.unwrap();
    assert_eq!(receipts, [Ok(Receipt::Settled), Ok(Receipt::Settled), Ok(Receipt::Settled)]);
    assert_eq!(world.kinds_after(head).await, ["task.succeeded"]);
}

pub async fn a_repeat_of_a_failure_that_is_retried_changes_nothing(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    let (head, before) = (world.head().await, world.task(task.id).await);
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    assert_eq!((world.head().await, world.task(task.id).await), (head, before));
}

pub async fn a_stale_fence_changes_nothing(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let first = world.lease_one(agent).await;
    world.advance(31);
    world.store.lapse_leases().await.unwrap();
    world.advance(5);
    let second = world.lease_one(agent).await;
    let (head, before) = (world.head().await, world.task(task.id).await);
    let result = world.result(agent, &first, End::Succeeded { output: json!({}) });
    assert_eq!(world.settle(result).await, Ok(Receipt::Stale));
    let ahead = hostler_store::Leased { fence: second.fence.next(), ..second.clone() };
    let result = world.result(agent, &ahead, End::Succeeded { output: json!({}) });
    assert_eq!(world.settle(result).await, Ok(Receipt::Stale));
    assert_eq!((world.head().await, world.task(task.id).await), (head, before));
    world.succeed(agent, &second).await;
}

pub async fn a_result_for_an_unknown_task_is_unknown(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let unknown = hostler_store::Leased { task: world.id(), ..leased };
    assert_eq!(world.settle(world.result(agent, &unknown, cancelled(Effects::Undone))).await, Ok(Receipt::Unknown));
}

pub async fn a_result_of_another_enrolment_is_refused(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let again = world.node("a").await;
    let result = world.result(agent, &leased, End::Succeeded { output: json!({}) });
    assert_eq!(world.settle(result).await.unwrap_err().code, Code::IdentityMismatch);
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
    // The same node in its new enrolment may still say how its attempt ended.
    world.succeed(again, &leased).await;
}

pub async fn a_result_of_another_node_is_stale(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let mut submission = world.echo();
    submission.target.node = Some(a.node);
    let task = world.ok(submission).await;
    let leased = world.lease_one(a).await;
    assert_eq!(world.settle(world.result(b, &leased, End::Succeeded { output: json!({}) })).await, Ok(Receipt::Stale));
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
}

pub async fn a_retryable_failure_comes_again_after_a_pause(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    let queued = world.task(task.id).await;
    assert_eq!((queued.state, queued.waiting_for), (TaskState::Queued, Some(WaitingFor::Time)));
    assert!(queued.not_before > world.now());
    assert!(world.lease(agent, 1).await.is_empty());
    assert_eq!(world.book().await.held.memory_mib, 1);
    world.advance(1);
    let again = world.lease_one(agent).await;
    assert_eq!(again.fence, leased.fence.next());
    assert!(world.kinds_after(0).await.contains(&"task.retrying".to_owned()));
}

pub async fn the_last_attempt_fails_for_good(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    for _ in 0..3 {
        let leased = world.lease_one(agent).await;
        world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
        world.advance(10);
    }
    let task = world.task(task.id).await;
    assert_eq!((task.state, task.error.unwrap().code), (TaskState::Failed, Code::HandlerFailed));
    assert!(world.book().await.total().is_zero());
}

pub async fn a_failure_that_left_something_keeps_its_allocation(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(true, Effects::Remain)).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Failed);
    assert_eq!(world.book().await.held.memory_mib, 1);
}

pub async fn a_create_that_was_undone_gives_everything_back(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.ok(world.create("web")).await.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.state, vm.reason, vm.task), (VmState::Deleted, Some(VmReason::CreateFailed), None));
    assert!(world.book().await.total().is_zero());
    world.ok(world.create("web")).await;
}

pub async fn a_create_that_left_something_is_in_error_and_charged(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.ok(world.create("web")).await.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    let vm = world.vm(id).await;
    assert_eq!(
        (vm.state, vm.reason, vm.last_state),
        (VmState::Error, Some(VmReason::CreateFailed), Some(VmState::Provisioning))
    );
    assert_eq!(world.book().await.held.room(), one_vm());
    world.ok(world.on_vm(KindName::VmDelete, id)).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    assert!(world.book().await.total().is_zero());
}

pub async fn a_vm_is_charged_what_its_node_says(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    let charge = Resources { memory_mib: 300, ..one_vm() };
    let output = json!({"charge": charge, "boot_ms": 1.0, "acceleration": "tcg"});
    world.end_with(agent, &leased, End::Succeeded { output }).await;
    assert_eq!(world.book().await.used.room(), charge);
    assert_eq!(world.store.node(agent.node).await.unwrap().unwrap().book.used.room(), charge);
}

pub async fn a_deleted_vm_is_no_longer_charged(world: &mut World) {
    let agent = world.node("a").await;
    let id = world.running(agent, "web").await;
    let delete = world.ok(world.on_vm(KindName::VmDelete, id)).await;
    assert_eq!(world.vm(id).await.task, Some(delete.id));
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let vm = world.vm(id).await;
    assert_eq!((vm.state, vm.task), (VmState::Deleted, None));
    assert!(world.book().await.total().is_zero());
    assert!(world.store.vm_by_name(vm.tenant, vm.name).await.unwrap().is_none());
}

pub async fn a_result_after_the_lapse_still_counts(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    world.advance(31);
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
    world.succeed(agent, &leased).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Succeeded);
}

pub async fn results_of_mixed_kinds_are_answered_one_by_one(world: &mut World) {
    let agent = world.node("a").await;
    for _ in 0..4 {
        world.ok(world.echo()).await;
    }
    let leased = world.lease(agent, 4).await;
    world.succeed(agent, &leased[0]).await;
    let success = |n: usize| world.result(agent, &leased[n], End::Succeeded { output: json!({}) });
    let stale = hostler_store::Leased { fence: leased[2].fence.next(), ..leased[2].clone() };
    let unknown = hostler_store::Leased { task: world.id(), ..leased[2].clone() };
    let stranger = Agent { enrolment: world.id(), ..agent };
    let answers = world
        .store
        .settle(vec![
            success(0),
            success(1),
            world.result(agent, &stale, cancelled(Effects::Undone)),
            world.result(agent, &unknown, cancelled(Effects::Undone)),
            world.result(stranger, &leased[2], cancelled(Effects::Undone)),
            success(3),
        ])
        .await
        .unwrap();
    let receipts: Vec<_> = answers.into_iter().map(|answer| answer.map_err(|refusal| refusal.code)).collect();
    let (settled, stale, unknown) = (Ok(Receipt::Settled), Ok(Receipt::Stale), Ok(Receipt::Unknown));
    assert_eq!(receipts, [settled, settled, stale, unknown, Err(Code::IdentityMismatch), settled]);
    assert_eq!(world.task(leased[2].task).await.state, TaskState::Running);
}

pub async fn an_output_beyond_measure_is_cut(world: &mut World) {
    let agent = world.node("a").await;
    for _ in 0..2 {
        world.ok(world.echo()).await;
    }
    let leased = world.lease(agent, 2).await;
    let large = json!({"message": "a".repeat(200_000)});
    world.end_with(agent, &leased[0], End::Succeeded { output: large.clone() }).await;
    assert_eq!(world.task(leased[0].task).await.output, Some(large));
    world.end_with(agent, &leased[1], End::Succeeded { output: json!("a".repeat(2_000_000)) }).await;
    assert_eq!(world.task(leased[1].task).await.output.unwrap()["truncated"], true);
}

pub async fn times_from_another_clock_are_held_within_reason(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let mut result = world.result(agent, &leased, End::Succeeded { output: json!({}) });
    result.report.started_at = Timestamp::from_micros(5);
    result.report.finished_at = world.now().plus(Duration::from_secs(1_000_000));
    world.advance(1);
    world.settle(result).await.unwrap();
    let task = world.task(task.id).await;
    assert_eq!((task.started_at, task.finished_at), (Some(task.created_at), Some(world.now())));
}

pub async fn a_charge_that_makes_no_sense_is_not_booked(world: &mut World) {
    let agent = world.node("a").await;
    let absurd = [json!({"memory_mib": -300, "vms": 1}), json!({"vcpus": i64::MAX, "vms": 1}), json!({"vms": 9})];
    for (n, charge) in absurd.into_iter().enumerate() {
        world.ok(world.create(&format!("vm-{n}"))).await;
        let leased = world.lease_one(agent).await;
        let output = json!({"charge": charge, "boot_ms": 1.0, "acceleration": "tcg"});
        world.end_with(agent, &leased, End::Succeeded { output }).await;
    }
    // Each is in use, at what was asked for.
    let book = world.book().await;
    assert_eq!((book.held.room(), book.used.room()), (Resources::ZERO, one_vm() + one_vm() + one_vm()));
}

pub async fn an_output_that_is_no_object_leaves_the_task_readable(world: &mut World) {
    let agent = world.node("a").await;
    for output in [json!("a \"word\""), json!("null"), json!(7), json!([1, "two"]), json!(true), json!(null)] {
        let task = world.ok(world.echo()).await;
        let leased = world.lease_one(agent).await;
        world.end_with(agent, &leased, End::Succeeded { output: output.clone() }).await;
        assert_eq!(world.task(task.id).await.output.unwrap_or_default(), output);
    }
}
