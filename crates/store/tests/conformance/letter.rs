//! Dead letters, and batches under one key.

use hostler_model::{
    Code, TaskId,
    kind::KindName,
    task::{DeadLetter, Effects, End, TaskState},
};
use hostler_store::{Idempotency, Submission, TaskFilter};

use crate::world::{Agent, TENANT, World, failed};

async fn dead(world: &World) -> Vec<TaskId> {
    let filter = TaskFilter { tenant: Some(TENANT), dead: true, ..TaskFilter::default() };
    world.store.tasks(filter, None, 100).await.unwrap().iter().map(|task| task.id).collect()
}

/// A task that failed in the last of its attempts, though another might have helped.
pub async fn given_up(world: &World, agent: Agent) -> TaskId {
    let mut submission = world.echo();
    submission.schedule.retry.attempts = 1;
    let task = world.ok(submission).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    task.id
}

pub async fn what_was_given_up_is_a_dead_letter_and_what_failed_for_good_is_none(world: &mut World) {
    let agent = world.node("a").await;
    let exhausted = given_up(world, agent).await;
    let good = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Undone)).await;
    let cancelled = world.ok(world.echo()).await;
    world.cancel(cancelled.id).await.unwrap();
    let late = world.ok(world.echo()).await;
    world.advance(901);
    world.store.expire_queued().await.unwrap();
    let unknown = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let end = End::Failed {
        code: Code::OutcomeUnknown,
        detail: "who knows".into(),
        retryable: false,
        effects: Effects::Remain,
    };
    world.end_with(agent, &leased, end).await;
    assert_eq!(dead(world).await, [unknown.id, late.id, exhausted]);
    assert_eq!(world.task(exhausted).await.dead_letter, Some(DeadLetter::Waiting));
    assert_eq!(world.task(good.id).await.dead_letter, None);
}

pub async fn a_dead_letter_that_is_done_again_is_off_the_list(world: &mut World) {
    let agent = world.node("a").await;
    let first = given_up(world, agent).await;
    let dry = Submission { retry_of: Some(first), dry_run: true, ..world.echo() };
    world.ok(dry).await;
    assert_eq!(dead(world).await, [first]);
    let again = world.ok(Submission { retry_of: Some(first), ..world.echo() }).await;
    assert_eq!((again.retry_of, world.task(first).await.dead_letter), (Some(first), Some(DeadLetter::Retried)));
    assert!(dead(world).await.is_empty());
    let refused = world.store.purge(vec![world.wish(first)]).await.unwrap().pop().unwrap().unwrap_err();
    assert_eq!(refused.code, Code::TaskStateConflict);
}

pub async fn of_two_who_do_a_letter_again_the_first_does_and_the_other_is_told(world: &mut World) {
    let agent = world.node("a").await;
    let again = |world: &World, first| Submission { retry_of: Some(first), ..world.echo() };
    let told = |answer: &hostler_store::Answer<hostler_store::Accepted>, winner: TaskId| {
        let refusal = answer.as_ref().unwrap_err();
        assert_eq!((refusal.code, &refusal.facts["retry"]), (Code::TaskStateConflict, &winner.to_string().into()));
        assert!(refusal.detail.contains(&winner.to_string()), "{refusal:?}");
    };
    // In one batch, and after it.
    let first = given_up(world, agent).await;
    let answers = world.store.submit(vec![again(world, first), again(world, first)]).await.unwrap();
    let winner = answers[0].as_ref().unwrap().task.id;
    told(&answers[1], winner);
    told(&world.submit(again(world, first)).await, winner);
    told(&world.submit(Submission { dry_run: true, ..again(world, first) }).await, winner);
    // Two who ask at the same moment.
    world.end_with(agent, &world.lease_one(agent).await, failed(true, Effects::Undone)).await;
    world.cancel(winner).await.unwrap();
    let second = given_up(world, agent).await;
    let (one, two) = tokio::join!(world.submit(again(world, second)), world.submit(again(world, second)));
    let won: Vec<TaskId> = [&one, &two].into_iter().flatten().map(|accepted| accepted.task.id).collect();
    assert_eq!(won.len(), 1);
    told(if one.is_ok() { &two } else { &one }, won[0]);
    let made = world.store.tasks(TaskFilter::default(), None, 100).await.unwrap();
    assert_eq!(made.iter().filter(|task| task.retry_of.is_some()).count(), 2);
    // What was cancelled, or failed for good, is no letter: it is done again as often as somebody wants.
    world.ok(again(world, winner)).await;
    world.ok(again(world, winner)).await;
}

pub async fn a_purged_letter_is_off_the_list_and_its_history_stays(world: &mut World) {
    let agent = world.node("a").await;
    let (one, two) = (given_up(world, agent).await, given_up(world, agent).await);
    let head = world.head().await;
    let task = world.store.purge(vec![world.wish(one)]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!((task.state, task.dead_letter), (TaskState::Failed, Some(DeadLetter::Purged)));
    assert_eq!(world.kinds_after(head).await, ["task.purged", "task.purge"]);
    assert_eq!(dead(world).await, [two]);
    let head = world.head().await;
    world.store.purge(vec![world.wish(one)]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(world.head().await, head);
    let mut foreign = world.wish(two);
    foreign.tenant = world.id();
    let unknown = world.wish(world.id());
    let answers = world.store.purge(vec![foreign, unknown]).await.unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().code == Code::TaskNotFound));
    assert_eq!(dead(world).await, [two]);
}

fn part(world: &World, n: u32, body: &str) -> Submission {
    let idempotency =
        Idempotency { key: "k".into(), route: "POST /tasks/batch".into(), body: body.into(), part: Some(n) };
    Submission { idempotency: Some(idempotency), ..world.echo() }
}

pub async fn a_batch_under_a_key_is_answered_again_item_by_item(world: &mut World) {
    world.node("a").await;
    let refused = Submission { kind: KindName::VmDelete, ..part(world, 1, "b") };
    let batch = vec![part(world, 0, "b"), refused.clone(), part(world, 2, "b")];
    let first = world.store.submit(batch).await.unwrap();
    assert!(first[1].is_err());
    let batch = vec![part(world, 0, "b"), refused, part(world, 2, "b")];
    let again = world.store.submit(batch).await.unwrap();
    for n in [0, 2] {
        let (first, again) = (first[n].as_ref().unwrap(), again[n].as_ref().unwrap());
        assert_eq!((first.task.id, again.replayed), (again.task.id, true));
    }
    assert!(again[1].is_err());
}

pub async fn a_batch_of_another_body_under_a_key_is_refused_whole(world: &mut World) {
    world.node("a").await;
    world.store.submit(vec![part(world, 0, "b")]).await.unwrap();
    // The second item has no first answer of its own, and is refused all the same.
    let answers = world.store.submit(vec![part(world, 0, "c"), part(world, 1, "c")]).await.unwrap();
    for answer in answers {
        assert_eq!(answer.unwrap_err().code, Code::IdempotencyMismatch);
    }
    world.ok(part(world, 1, "b")).await;
}
