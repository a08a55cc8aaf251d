//! What ended long ago is removed, and nothing else.

use hostler_model::{
    TaskId, VmId,
    internal::Receipt,
    kind::KindName,
    task::{Effects, TaskState},
    vm::VmState,
};
use hostler_store::{Old, SnapshotFilter, Submission, TaskFilter, VmFilter};
use serde_json::json;

use crate::world::{Agent, TENANT, World, failed};

const DAY: u64 = 24 * 60 * 60;

/// Walks over all of one noun; how many were removed.
async fn forget(world: &World, old: Old) -> usize {
    let (mut after, mut removed) = (None, 0);
    loop {
        let forgotten = world.store.forget(old, after).await.unwrap();
        removed += forgotten.removed;
        after = forgotten.next;
        if after.is_none() {
            return removed;
        }
    }
}

async fn is_there(world: &World, task: TaskId) -> bool {
    world.store.task(task).await.unwrap().is_some()
}

async fn ended(world: &World, agent: Agent) -> TaskId {
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    task.id
}

pub async fn a_task_goes_a_month_after_its_end_with_all_that_hangs_on_it(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.keyed("k", "b")).await;
    let leased = world.lease_one(agent).await;
    world.progress(agent, &leased, "phase", &["a line"]).await.unwrap();
    let result = world.result(agent, &leased, hostler_model::task::End::Succeeded { output: json!({"message": "hi"}) });
    world.settle(result.clone()).await.unwrap();
    let (entries, counted) = (world.entries().await.len(), world.store.gauges().await.unwrap().counters);
    world.advance(30 * DAY - 1);
    assert_eq!(forget(world, Old::Tasks).await, 0);
    assert!(!world.lines(task.id).await.is_empty());
    // It began and ended in one millisecond, and ids count those.
    world.advance(2);
    assert_eq!(forget(world, Old::Tasks).await, 1);
    assert_eq!((is_there(world, task.id).await, world.lines(task.id).await.len()), (false, 0));
    assert!(world.store.tasks(TaskFilter::default(), None, 10).await.unwrap().is_empty());
    // What was written down of it stays, as do the counters.
    assert_eq!(world.entries().await.len(), entries);
    assert_eq!(world.store.gauges().await.unwrap().counters, counted);
    // Whoever comes late changes nothing; a key has its own time.
    assert_eq!(world.settle(result).await.unwrap(), Receipt::Unknown);
    assert_eq!(world.submit(world.keyed("k", "b")).await.unwrap().task.id, task.id);
    assert_eq!(world.store.drop_idempotency_keys().await.unwrap().changed, 1);
}

pub async fn what_has_not_ended_stays_however_old_it_is(world: &mut World) {
    let agent = world.node("a").await;
    let running = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let queued = world.ok(world.echo()).await;
    world.advance(40 * DAY);
    assert_eq!(forget(world, Old::Tasks).await, 0);
    assert!(is_there(world, queued.id).await);
    world.succeed(agent, &leased).await;
    // It counts from the end.
    assert_eq!(forget(world, Old::Tasks).await, 0);
    assert_eq!(world.task(running.id).await.state, TaskState::Succeeded);
}

pub async fn a_dead_letter_stays_until_somebody_has_decided(world: &mut World) {
    let agent = world.node("a").await;
    let [purged, retried, waiting] = [
        crate::letter::given_up(world, agent).await,
        crate::letter::given_up(world, agent).await,
        crate::letter::given_up(world, agent).await,
    ];
    world.advance(40 * DAY);
    assert_eq!(forget(world, Old::Tasks).await, 0);
    world.store.purge(vec![world.wish(purged)]).await.unwrap().pop().unwrap().unwrap();
    let again = world.ok(Submission { retry_of: Some(retried), ..world.echo() }).await;
    assert_eq!(forget(world, Old::Tasks).await, 2);
    assert_eq!((is_there(world, purged).await, is_there(world, waiting).await), (false, true));
    // What names one that is gone is read as before.
    assert_eq!(world.task(again.id).await.retry_of, Some(retried));
    let dead = TaskFilter { tenant: Some(TENANT), dead: true, ..TaskFilter::default() };
    assert_eq!(world.store.tasks(dead, None, 10).await.unwrap().len(), 1);
}

pub async fn a_walk_goes_piece_by_piece_while_others_write_and_read(world: &mut World) {
    let agent = world.node("a").await;
    let many: Vec<Submission> = (0..600).map(|_| world.echo()).collect();
    world.store.submit(many.clone()).await.unwrap();
    let cancels = many.iter().map(|one| world.wish(one.task)).collect();
    world.store.cancel(cancels).await.unwrap();
    world.advance(40 * DAY);
    let page = world.store.tasks(TaskFilter::default(), None, 100).await.unwrap();
    let cursor = page.last().unwrap().id;
    let first = world.store.forget(Old::Tasks, None).await.unwrap();
    assert!(first.removed < 600 && first.next.is_some(), "{first:?}");
    let new = ended(world, agent).await;
    let (rest, other) = tokio::join!(
        async {
            let (mut after, mut removed) = (first.next, 0);
            while let Some(from) = after {
                let forgotten = world.store.forget(Old::Tasks, Some(from)).await.unwrap();
                (after, removed) = (forgotten.next, removed + forgotten.removed);
            }
            removed
        },
        async { world.ok(world.echo()).await }
    );
    assert_eq!(first.removed + rest, 600);
    assert!(is_there(world, new).await && is_there(world, other.id).await);
    // A page that begins behind what is gone.
    assert!(world.store.tasks(TaskFilter::default(), Some(cursor), 100).await.unwrap().is_empty());
    assert_eq!(world.store.tasks(TaskFilter::default(), None, 100).await.unwrap().len(), 2);
}

/// A machine with a snapshot, deleted.
async fn deleted(world: &World) -> (Agent, VmId) {
    let (agent, vm, _) = crate::snapshot::ready(world).await;
    world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    assert_eq!(world.vm(vm).await.state, VmState::Deleted);
    (agent, vm)
}

pub async fn a_deleted_machine_goes_after_its_tasks_and_its_snapshots(world: &mut World) {
    let (_, vm) = deleted(world).await;
    assert_eq!(forget(world, Old::Vms).await, 0);
    world.advance(40 * DAY);
    assert_eq!(forget(world, Old::Vms).await, 0, "its tasks are there");
    for (old, count) in [(Old::Tasks, 3), (Old::Snapshots, 1), (Old::Vms, 1)] {
        assert_eq!(forget(world, old).await, count, "{old:?}");
    }
    assert!(world.store.vm(vm).await.unwrap().is_none());
    let gone = VmFilter { state: Some(VmState::Deleted), ..VmFilter::default() };
    assert!(world.store.vms(gone, None, 10).await.unwrap().is_empty());
    let of_vm = SnapshotFilter { vm: Some(vm), ..SnapshotFilter::default() };
    assert!(world.store.snapshots(of_vm, None, 10).await.unwrap().is_empty());
    assert!(world.book().await.total().is_zero());
}

pub async fn a_machine_that_is_not_deleted_stays_with_what_is_charged_for_it(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.create("web")).await;
    let vm = task.target.vm.unwrap();
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(false, Effects::Remain)).await;
    world.advance(40 * DAY);
    for old in Old::ALL {
        forget(world, old).await;
    }
    assert_eq!(world.vm(vm).await.state, VmState::Error);
    assert!(!world.book().await.total().is_zero());
}
