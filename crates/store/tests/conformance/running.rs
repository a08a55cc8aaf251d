//! Limits of machines that run and of snapshots: charged from the submission on, given back with what was seen to end.

use hostler_model::{
    Code, VmId,
    kind::KindName,
    task::Effects,
    tenant::{Limits, UNLIMITED},
    vm::{Observation, VmReason, VmState},
};
use hostler_store::{EditTenant, Submission};
use serde_json::json;

use crate::world::{Agent, TENANT, World, failed, seen};

async fn limit(world: &World, limits: Limits) {
    world.store.edit_tenant(EditTenant::of_system(TENANT, limits.into())).await.unwrap().unwrap();
}

async fn running(world: &World) -> i64 {
    world.book().await.total().running_vms
}

async fn stopped(world: &World, agent: Agent, vm: VmId) {
    world.ok(world.on_vm(KindName::VmStop, vm)).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
}

pub async fn a_machine_is_charged_as_running_while_it_runs_or_is_about_to(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.ok(world.create("web")).await.target.vm.unwrap();
    assert_eq!(running(world).await, 1, "about to");
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    assert_eq!(running(world).await, 1);
    stopped(world, agent, vm).await;
    assert_eq!(running(world).await, 0);

    let start = world.ok(world.on_vm(KindName::VmStart, vm)).await;
    assert_eq!(running(world).await, 1, "about to");
    world.cancel(start.id).await.unwrap();
    assert_eq!(running(world).await, 0, "it came to nothing");
}

pub async fn a_start_over_the_limit_is_refused_also_in_a_dry_run_and_within_a_batch(world: &mut World) {
    let agent = world.node("a").await;
    let (a, b) = (world.running(agent, "a").await, world.running(agent, "b").await);
    stopped(world, agent, a).await;
    stopped(world, agent, b).await;
    limit(world, Limits { running_vms: 1, ..UNLIMITED }).await;
    let start = |vm| world.on_vm(KindName::VmStart, vm);
    let answers = world.store.submit(vec![start(a), start(b)]).await.unwrap();
    assert!(answers[0].is_ok());
    for refused in [
        answers[1].clone().unwrap_err(),
        world.submit(start(b)).await.unwrap_err(),
        world.submit(Submission { dry_run: true, ..start(b) }).await.unwrap_err(),
    ] {
        assert_eq!(refused.code, Code::QuotaExceeded);
        let over = json!([{"resource": "running_vms", "limit": 1, "used": 1, "held": 0, "asked": 1}]);
        assert_eq!(refused.facts["over"], over);
    }
    world.refused(world.create("c"), Code::QuotaExceeded).await;
}

pub async fn a_machine_whose_end_was_seen_is_given_back_and_one_of_which_nobody_knows_is_not(world: &mut World) {
    let agent = world.node("a").await;
    let (a, b) = (world.running(agent, "a").await, world.running(agent, "b").await);
    let crashed = Observation { reason: Some(VmReason::Crashed), ..seen(a, VmState::Error) };
    world.beat(agent, vec![crashed, seen(b, VmState::Running)]).await;
    assert_eq!((world.vm(a).await.state, running(world).await), (VmState::Error, 1));
    // Its start fails on the node, and nobody says what is left: it counts no more than before.
    world.ok(world.on_vm(KindName::VmStart, a)).await;
    assert_eq!(running(world).await, 2);
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    assert_eq!(running(world).await, 1);
}

pub async fn a_task_for_later_is_charged_when_its_time_comes(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "a").await;
    stopped(world, agent, vm).await;
    let later = world.now().plus(std::time::Duration::from_secs(30));
    let start = world.ok(Submission { not_before: later, ..world.on_vm(KindName::VmStart, vm) }).await;
    assert_eq!(running(world).await, 0);
    limit(world, Limits { running_vms: 0, ..UNLIMITED }).await;
    world.advance(31);
    assert!(world.lease(agent, 10).await.is_empty());
    let ended = world.task(start.id).await;
    assert_eq!(ended.error.map(|error| error.code), Some(Code::QuotaExceeded));
}
