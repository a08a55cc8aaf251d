//! Idempotency keys.

use hostler_model::{Code, PrincipalId};
use hostler_store::{Submission, TaskFilter};

use crate::world::World;

const DAY: u64 = 24 * 60 * 60;

pub async fn the_same_key_gets_the_first_answer(world: &mut World) {
    let agent = world.node("a").await;
    let first = world.submit(world.keyed("k", "b")).await.unwrap();
    assert!(!first.replayed);
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let again = world.submit(world.keyed("k", "b")).await.unwrap();
    assert!(again.replayed);
    // The task as it was accepted, not as it is now.
    assert_eq!((again.task, again.vm), (first.task, first.vm));
    assert_eq!(world.store.tasks(TaskFilter::default(), None, 10).await.unwrap().len(), 1);
}

pub async fn the_same_key_with_another_body_is_refused(world: &mut World) {
    world.node("a").await;
    let first = world.ok(world.keyed("k", "b")).await;
    let refusal = world.refused(world.keyed("k", "c"), Code::IdempotencyMismatch).await;
    assert_eq!(refusal.facts["task"], first.id.to_string());
}

pub async fn the_same_key_twice_in_one_batch_is_one_task(world: &mut World) {
    world.node("a").await;
    let batch = vec![world.keyed("k", "b"), world.keyed("k", "b"), world.keyed("k", "c"), world.keyed("l", "b")];
    let answers = world.store.submit(batch).await.unwrap();
    let first = answers[0].as_ref().unwrap();
    let second = answers[1].as_ref().unwrap();
    assert_eq!((first.replayed, second.replayed, first.task.id), (false, true, second.task.id));
    assert_eq!(answers[2].as_ref().unwrap_err().code, Code::IdempotencyMismatch);
    assert_ne!(answers[3].as_ref().unwrap().task.id, first.task.id);
}

pub async fn a_key_belongs_to_its_caller_and_route(world: &mut World) {
    world.node("a").await;
    let mine = world.keyed("k", "b");
    let mut others = world.keyed("k", "b");
    others.actor.principal = PrincipalId(world.id::<PrincipalId>().0);
    let mut elsewhere = world.keyed("k", "b");
    elsewhere.idempotency.as_mut().unwrap().route = "POST /vms".into();
    for submission in [mine, others, elsewhere] {
        assert!(!world.submit(submission).await.unwrap().replayed);
    }
}

pub async fn a_refusal_does_not_use_a_key_up(world: &mut World) {
    world.refused(world.keyed("k", "b"), Code::NoCapacity).await;
    world.node("a").await;
    assert!(!world.submit(world.keyed("k", "b")).await.unwrap().replayed);
    // A dry run neither reads nor leaves a key.
    let dry = Submission { dry_run: true, ..world.keyed("k", "other") };
    assert!(!world.submit(dry).await.unwrap().replayed);
}

pub async fn a_key_is_kept_for_a_day_and_until_its_task_ends(world: &mut World) {
    let agent = world.node("a").await;
    let ended = world.ok(world.keyed("ended", "b")).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let alive = world.ok(world.keyed("alive", "b")).await;
    world.advance(DAY - 1);
    assert_eq!(world.store.drop_idempotency_keys().await.unwrap().changed, 0);
    world.advance(1);
    assert_eq!(world.store.drop_idempotency_keys().await.unwrap().changed, 1);
    assert_eq!(world.submit(world.keyed("alive", "b")).await.unwrap().task.id, alive.id);
    world.beat(agent, Vec::new()).await;
    assert_ne!(world.submit(world.keyed("ended", "b")).await.unwrap().task.id, ended.id);
}
