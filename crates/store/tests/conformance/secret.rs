//! Texts that are kept apart from their tasks.

use std::time::Duration;

use hostler_model::{
    Code, Fence, TaskId,
    kind::KindName,
    secret::{Secret, take_apart},
    task::{Effects, TaskState},
};
use hostler_store::{Leased, Reveal, Submission};
use serde_json::json;

use crate::world::{Agent, TENANT, World, failed};

const TEXT: &str = "hunter2";

/// A machine whose user-data is kept apart.
fn with_text(world: &World, name: &str) -> (Submission, Secret) {
    let mut submission = world.create(name);
    submission.params["user_data"] = json!(TEXT);
    let sensitive = KindName::VmCreate.spec().sensitive;
    submission.secrets = take_apart(sensitive, &mut submission.params, || world.id());
    let secret = submission.secrets[0].clone();
    (submission, secret)
}

fn wanted(agent: Agent, leased: &Leased, secret: &Secret) -> Reveal {
    let Agent { node, enrolment } = agent;
    Reveal { node, enrolment, task: leased.task, fence: leased.fence, secret: secret.id }
}

pub async fn a_text_is_given_to_the_holder_of_the_lease_under_its_fence_only(world: &mut World) {
    let (agent, other) = (world.node("a").await, world.node("b").await);
    let (mut submission, secret) = with_text(world, "web");
    submission.target.node = Some(agent.node);
    let task = world.ok(submission).await;
    assert!(!json!(task).to_string().contains(TEXT));
    let early =
        Reveal { task: task.id, fence: task.fence, secret: secret.id, node: agent.node, enrolment: agent.enrolment };
    assert_eq!(world.store.reveal(early).await.unwrap(), None, "nobody has the lease yet");
    let leased = world.lease_one(agent).await;
    assert!(!leased.params.to_string().contains(TEXT), "it does not travel in the task");
    let good = wanted(agent, &leased, &secret);
    assert_eq!(world.store.reveal(good).await.unwrap(), Some((TENANT, TEXT.to_owned())));
    let (node, enrolment) = (other.node, other.enrolment);
    let passed = Fence { attempt: leased.fence.attempt + 1, ..leased.fence };
    for bad in [
        Reveal { node, enrolment, ..good },
        Reveal { enrolment, ..good },
        Reveal { fence: passed, ..good },
        Reveal { task: world.id(), ..good },
        Reveal { secret: world.id(), ..good },
    ] {
        assert_eq!(world.store.reveal(bad).await.unwrap(), None, "{bad:?}");
    }
}

pub async fn a_text_goes_with_its_tasks_success(world: &mut World) {
    let agent = world.node("a").await;
    let (submission, secret) = with_text(world, "web");
    let task = world.ok(submission).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    assert_eq!(world.store.reveal(wanted(agent, &leased, &secret)).await.unwrap(), None);
    assert_eq!(world.store.secrets(task.id).await.unwrap(), []);
}

pub async fn a_text_stays_a_week_after_a_failure_for_whoever_asks_again(world: &mut World) {
    let agent = world.node("a").await;
    let (submission, secret) = with_text(world, "web");
    let task: TaskId = world.ok(submission).await.id;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    assert_eq!(world.task(task).await.state, TaskState::Failed);
    assert_eq!(world.store.reveal(wanted(agent, &leased, &secret)).await.unwrap(), None, "the lease is over");
    world.store.drop_idempotency_keys().await.unwrap();
    assert_eq!(world.store.secrets(task).await.unwrap(), [secret]);
    world.advance(Duration::from_secs(8 * 24 * 3600).as_secs());
    world.store.drop_idempotency_keys().await.unwrap();
    assert_eq!(world.store.secrets(task).await.unwrap(), []);
}

pub async fn a_text_of_a_task_that_is_refused_or_only_tried_is_not_kept(world: &mut World) {
    world.node("a").await;
    let (dry, _) = with_text(world, "web");
    world.ok(Submission { dry_run: true, ..dry.clone() }).await;
    assert_eq!(world.store.secrets(dry.task).await.unwrap(), []);
    world.ok(world.create("web")).await;
    world.refused(dry.clone(), Code::NameTaken).await;
    assert_eq!(world.store.secrets(dry.task).await.unwrap(), []);
}
