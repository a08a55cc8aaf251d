//! Priorities, earliest times, times in the queue, free slots of each class, paused queues.

use std::time::Duration;

use hostler_model::{
    Code, TaskId,
    event::Actor,
    internal::Receipt,
    kind::{Class, KindName},
    node::Slots,
    retry::{Backoff, RetryPolicy},
    schedule::Priority,
    task::{Effects, Intent, TaskState, WaitingFor},
};
use hostler_store::{Queue, Submission, TaskFilter};

use crate::world::{Agent, World, cancelled, failed};

fn priority(world: &World, number: i32) -> Submission {
    let mut submission = world.echo();
    submission.schedule.priority = Priority::try_from(number).unwrap();
    submission
}

async fn leased(world: &World, agent: Agent, free: Slots) -> Vec<TaskId> {
    world.claim_of(agent, free).await.into_iter().map(|leased| leased.task).collect()
}

pub async fn the_higher_priority_is_leased_first_and_of_equals_the_older(world: &mut World) {
    let agent = world.node("a").await;
    let mut ids = Vec::new();
    for number in [0, -100, 100, 0, 100] {
        ids.push(world.ok(priority(world, number)).await.id);
    }
    assert_eq!(world.task(ids[2]).await.schedule.priority.get(), 100);
    let order = [ids[2], ids[4], ids[0], ids[3], ids[1]];
    assert_eq!(leased(world, agent, Slots::each(2)).await, order[..2]);
    assert_eq!(leased(world, agent, Slots::each(9)).await, order[2..]);
}

pub async fn a_priority_does_not_change_the_order_on_one_vm(world: &mut World) {
    let agent = world.node("a").await;
    let create = world.ok(world.create("web")).await;
    let mut urgent = world.on_vm(KindName::VmExec, create.target.vm.unwrap());
    urgent.schedule.priority = Priority::try_from(100).unwrap();
    let program = world.ok(urgent).await;
    assert_eq!(world.task(program.id).await.waiting_for, Some(WaitingFor::Turn));
    let first = world.lease_one(agent).await;
    assert_eq!(first.task, create.id);
    world.succeed(agent, &first).await;
    assert_eq!(world.lease_one(agent).await.task, program.id);
}

pub async fn a_task_is_not_leased_before_its_time(world: &mut World) {
    let agent = world.node("a").await;
    let mut later = world.echo();
    later.not_before = world.now().plus(Duration::from_secs(3600));
    let later = world.ok(later).await;
    assert_eq!(
        (later.waiting_for, later.queue_deadline),
        (Some(WaitingFor::Time), world.now().plus(Duration::from_secs(3600 + 900)))
    );
    let now = world.ok(world.echo()).await;
    assert_eq!(leased(world, agent, Slots::each(9)).await, [now.id]);
    world.advance(3599);
    assert_eq!(world.store.expire_queued().await.unwrap().changed, 0);
    assert!(leased(world, agent, Slots::each(9)).await.is_empty());
    world.advance(1);
    assert_eq!(world.task(later.id).await.waiting_for, Some(WaitingFor::Node));
    assert_eq!(leased(world, agent, Slots::each(9)).await, [later.id]);
    // What waits for its time is among what has not ended.
    let queued = TaskFilter { state: Some(TaskState::Running), ..TaskFilter::default() };
    assert_eq!(world.store.tasks(queued, None, 10).await.unwrap().len(), 2);
}

pub async fn a_task_that_waits_for_its_time_can_be_cancelled_and_is_listed(world: &mut World) {
    let agent = world.node("a").await;
    let mut later = world.echo();
    later.not_before = world.now().plus(Duration::from_secs(60));
    let later = world.ok(later).await;
    let queued = TaskFilter { state: Some(TaskState::Queued), ..TaskFilter::default() };
    assert_eq!(world.store.tasks(queued, None, 10).await.unwrap()[0].id, later.id);
    assert_eq!(world.cancel(later.id).await.unwrap().state, TaskState::Cancelled);
    world.advance(61);
    assert!(leased(world, agent, Slots::each(9)).await.is_empty());
}

pub async fn a_time_in_the_queue_and_a_time_to_the_end_may_be_its_own(world: &mut World) {
    let agent = world.node("a").await;
    let mut short = world.echo();
    short.schedule.queue_timeout_seconds = 7;
    short.schedule.timeout_seconds = 5;
    let (first, second) = (short.clone(), Submission { task: world.id(), ..short });
    let first = world.ok(first).await;
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.deadline, world.now().plus(Duration::from_secs(5)));
    let second = world.ok(second).await;
    world.advance(8);
    assert_eq!(world.store.expire_queued().await.unwrap().changed, 1);
    assert_eq!(world.task(second.id).await.error.unwrap().code, Code::DeadlineExceeded);
    assert_eq!(world.store.expire_running().await.unwrap().changed, 1);
    assert_eq!(world.task(first.id).await.state, TaskState::Aborting);
    assert_eq!(world.settle(world.result(agent, &leased, cancelled(Effects::Undone))).await, Ok(Receipt::Settled));
    assert_eq!(world.task(first.id).await.schedule.timeout_seconds, 5);
}

pub async fn retries_may_be_its_own(world: &mut World) {
    let agent = world.node("a").await;
    let mut patient = world.echo();
    let retry = RetryPolicy { attempts: 4, backoff: Backoff::Linear, first_seconds: 100, most_seconds: 250 };
    patient.schedule.retry = retry;
    patient.schedule.queue_timeout_seconds = 9;
    let task = world.ok(patient).await;
    assert_eq!((task.max_attempts, world.task(task.id).await.schedule.retry), (4, retry));
    // Half of each pause is left to chance.
    for (least, most) in [(50, 100), (100, 200), (125, 250)] {
        let leased = world.lease_one(agent).await;
        world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
        let again = world.task(task.id).await;
        let pause = again.not_before.since(world.now()).as_secs();
        assert!((least..=most).contains(&pause), "{pause} {least} {most}");
        assert_eq!(again.queue_deadline, again.not_before.plus(Duration::from_secs(9)));
        world.advance(pause + 1);
    }
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Failed);
}

pub async fn a_claim_gets_no_more_of_a_class_than_has_free_slots(world: &mut World) {
    let agent = world.node("a").await;
    let boots = [world.ok(world.create("a")).await.id, world.ok(world.create("b")).await.id];
    let mut quick = Vec::new();
    for _ in 0..3 {
        quick.push(world.ok(world.echo()).await.id);
    }
    assert_eq!(leased(world, agent, Slots::only(Class::Disk, 9)).await, []);
    assert_eq!(leased(world, agent, Slots { quick: 2, ..Slots::only(Class::Disk, 5) }).await, quick[..2]);
    assert_eq!(leased(world, agent, Slots::only(Class::Boot, 1)).await, boots[..1]);
    assert_eq!(leased(world, agent, Slots::each(9)).await, [quick[2], boots[1]]);
}

pub async fn long_programs_keep_nothing_short_from_its_slots(world: &mut World) {
    let agent = world.node("a").await;
    let (busy, other) = (world.running(agent, "busy").await, world.running(agent, "other").await);
    for _ in 0..3 {
        world.ok(world.on_vm(KindName::VmExec, busy)).await;
    }
    let slots = Slots { quick: 2, ..Slots::only(Class::Guest, 2) };
    assert_eq!(leased(world, agent, slots).await.len(), 2);
    let stop = world.ok(world.on_vm(KindName::VmStop, other)).await;
    assert_eq!(leased(world, agent, Slots::only(Class::Quick, 2)).await, [stop.id]);
    assert!(
        leased(world, agent, Slots { guest: 0, ..Slots::each(9) }).await.is_empty(),
        "the third waits for its class"
    );
    assert_eq!(leased(world, agent, Slots::only(Class::Guest, 1)).await.len(), 1);
}

pub async fn what_is_sent_again_takes_the_slots_of_its_class(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.create("a")).await;
    world.lease_one(agent).await;
    let (boot, quick) = (world.ok(world.create("b")).await.id, world.ok(world.echo()).await.id);
    let again = world.claim(agent, 1, Some(Vec::new())).await.unwrap();
    assert_eq!(again.len(), 2);
    assert_eq!((again[0].kind, again[1].task), (KindName::VmCreate, quick));
    assert_eq!(world.lease_one(agent).await.task, boot);
}

pub async fn what_is_to_be_undone_needs_no_slot(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.cancel(leased.task).await.unwrap();
    world.advance(31);
    world.store.lapse_leases().await.unwrap();
    world.advance(90);
    world.ok(world.echo()).await;
    let again = world.claim(agent, 0, None).await.unwrap();
    assert_eq!((again.len(), again[0].task, again[0].intent), (1, leased.task, Intent::Abort));
}

pub async fn a_paused_node_gets_nothing_but_what_is_to_be_undone(world: &mut World) {
    let agent = world.node("a").await;
    let under_way = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let head = world.head().await;
    let node = world.store.queue_node(agent.node, Queue::Paused, Actor::system()).await.unwrap().unwrap();
    assert_eq!(node.paused_at, Some(world.now()));
    let task = world.ok(world.echo()).await;
    assert_eq!(task.waiting_for, Some(WaitingFor::Paused));
    assert_eq!(world.task(task.id).await.waiting_for, Some(WaitingFor::Paused));
    assert!(world.lease(agent, 9).await.is_empty());
    // What is under way goes on, and may be stopped.
    world.progress(agent, &leased, "work", &[]).await.unwrap();
    world.cancel(under_way.id).await.unwrap();
    world.advance(31);
    world.store.lapse_leases().await.unwrap();
    world.advance(90);
    let abort = world.lease_one(agent).await;
    assert_eq!((abort.task, abort.intent), (under_way.id, Intent::Abort));
    // Paused again, it is paused since then still.
    let again = world.store.queue_node(agent.node, Queue::Paused, Actor::system()).await.unwrap().unwrap();
    assert_eq!(again.paused_at, node.paused_at);
    let node = world.store.queue_node(agent.node, Queue::Open, Actor::system()).await.unwrap().unwrap();
    assert_eq!(node.paused_at, None);
    assert_eq!(world.lease_one(agent).await.task, task.id);
    let kinds: Vec<String> =
        world.kinds_after(head).await.into_iter().filter(|kind| kind.starts_with("node.")).collect();
    assert_eq!(kinds, ["node.paused", "node.pause", "node.pause", "node.resumed", "node.resume"]);
}

pub async fn the_time_in_the_queue_goes_on_while_a_node_is_paused(world: &mut World) {
    let agent = world.node("a").await;
    world.store.queue_node(agent.node, Queue::Paused, Actor::system()).await.unwrap().unwrap();
    let task = world.ok(world.echo()).await;
    world.advance(901);
    assert_eq!(world.store.expire_queued().await.unwrap().changed, 1);
    assert_eq!(world.task(task.id).await.error.unwrap().code, Code::DeadlineExceeded);
}

pub async fn a_paused_node_is_taken_only_when_no_other_will_do(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.store.queue_node(a.node, Queue::Paused, Actor::system()).await.unwrap().unwrap();
    for _ in 0..3 {
        assert_eq!(world.ok(world.echo()).await.node, Some(b.node));
    }
    world.store.queue_node(b.node, Queue::Paused, Actor::system()).await.unwrap().unwrap();
    assert!(world.ok(world.echo()).await.node.is_some());
}

pub async fn pausing_an_unknown_node_is_refused(world: &mut World) {
    let refused = world.store.queue_node(world.id(), Queue::Paused, Actor::system()).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::NodeNotFound);
}
