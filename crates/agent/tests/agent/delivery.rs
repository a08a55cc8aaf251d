//! Deliveries: once, twice, late, under a later fence.

use std::{collections::BTreeSet, time::Duration};

use hostler_agent::{AgentConfig, metrics::Counter};
use hostler_db::Mode;
use hostler_model::{
    error::Code,
    internal::Receipt,
    kind::Class,
    task::{Effects, End, Intent},
};

use crate::{
    server::{Running, Server, again, folder, succeeded},
    world::{Gate, World},
};

#[tokio::test(start_paused = true)]
async fn a_task_is_done_and_reported_under_its_fence() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    let task = server.echo("hello");
    server.give(&task);
    let report = server.result(1).await;
    assert_eq!((report.task, report.fence), (task.sub, task.fence));
    assert_eq!(succeeded(&report)["message"], "hello");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_redelivery_is_answered_with_the_stored_result_and_not_run_again() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    server.with(|heard| heard.results_fail = 3);
    let agent = server.agent(data.path(), world.clone()).await;
    let task = server.exec(vm);
    server.give(&task);
    agent.counted(Counter::Ended, 1).await;
    server.give(&task);
    agent.counted(Counter::Answered, 1).await;
    succeeded(&server.result(1).await);
    assert_eq!(world.begun(Gate::Exec), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_what_is_under_way_changes_nothing() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Exec);
    let agent = server.agent(data.path(), world.clone()).await;
    let task = server.exec(vm);
    server.give(&task);
    world.until_begun(Gate::Exec, 1).await;
    server.give(&task);
    agent.counted(Counter::Ignored, 1).await;
    world.release(Gate::Exec);
    succeeded(&server.result(1).await);
    assert_eq!(world.begun(Gate::Exec), 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_lease_that_an_answer_brings_several_times_is_begun_once_and_can_be_cancelled() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Exec);
    let config = AgentConfig { mode: Mode::Threads, ..server.config(data.path(), world.clone()) };
    let agent = Running::start(config).await;
    let task = server.exec(vm);
    let token = server.sign(&task);
    let times = Class::ALL.len();
    server.with(|heard| heard.tokens.extend(Class::ALL.map(|class| (class, token.clone()))));
    let judged = || (agent.count(Counter::Begun), agent.count(Counter::Ignored));
    while judged().0 + judged().1 < times as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(judged(), (1, times as u64 - 1));
    world.until_begun(Gate::Exec, 1).await;
    server.with(|heard| heard.abort.push(task.sub));
    assert!(matches!(server.result(1).await.end, End::Cancelled { .. }));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_was_passed_is_ignored() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    let task = server.echo("hello");
    server.give(&again(&task, 2, Intent::Run));
    server.result(1).await;
    server.give(&task);
    agent.counted(Counter::Stale, 1).await;
    assert_eq!(server.results().len(), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn work_under_way_goes_on_under_a_later_fence() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Exec);
    let agent = server.agent(data.path(), world.clone()).await;
    let task = server.exec(vm);
    server.give(&task);
    world.until_begun(Gate::Exec, 1).await;
    let second = again(&task, 2, Intent::Run);
    server.give(&second);
    agent.counted(Counter::Adopted, 1).await;
    world.release(Gate::Exec);
    let report = server.result(1).await;
    assert_eq!(report.fence, second.fence);
    succeeded(&report);
    assert_eq!(world.begun(Gate::Exec), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_later_fence_that_means_abort_undoes_the_work_under_way() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.hold(Gate::Create);
    let agent = server.agent(data.path(), world.clone()).await;
    let task = server.create(vm);
    server.give(&task);
    world.until_begun(Gate::Create, 1).await;
    server.give(&again(&task, 2, Intent::Abort));
    let report = server.result(1).await;
    assert_eq!(report.end, End::Cancelled { effects: Effects::Undone });
    assert_eq!(report.fence.attempt, 2);
    assert!(!world.has(vm));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_success_that_the_server_missed_is_reported_under_the_later_fence_and_not_run_again() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    server.with(|heard| heard.receipt = Some(Receipt::Stale));
    let agent = server.agent(data.path(), world.clone()).await;
    let task = server.exec(vm);
    server.give(&task);
    server.result(1).await;
    server.with(|heard| heard.receipt = None);
    server.give(&again(&task, 2, Intent::Run));
    let report = server.result(2).await;
    assert_eq!(report.fence.attempt, 2);
    succeeded(&report);
    assert_eq!(world.begun(Gate::Exec), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_of_what_was_never_seen_makes_sure_that_nothing_is_there() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    let agent = server.agent(data.path(), world.clone()).await;
    server.give(&again(&server.create(vm), 3, Intent::Abort));
    assert_eq!(server.result(1).await.end, End::Cancelled { effects: Effects::Undone });
    assert!(!world.has(vm));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_of_an_earlier_placement_is_refused_and_touches_nothing() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    let agent = server.agent(data.path(), world.clone()).await;
    let mut later = server.exec(vm);
    later.epoch = Some(2);
    server.give(&later);
    server.result(1).await;
    server.give(&server.delete(vm));
    let End::Failed { code, effects, retryable, .. } = server.result(2).await.end else { panic!("not refused") };
    assert_eq!((code, effects, retryable), (Code::TaskRefused, Effects::Remain, false));
    assert!(world.has(vm));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn results_go_in_batches_and_again_until_they_are_received() {
    let (server, data) = (Server::new(), folder());
    server.with(|heard| heard.results_fail = 4);
    let agent = server.agent(data.path(), World::new()).await;
    let tasks: Vec<_> = (0..300).map(|n| server.echo(&n.to_string())).collect();
    tasks.iter().for_each(|task| server.give(task));
    server.result(300).await;
    let batches = server.with(|heard| heard.batches.iter().map(Vec::len).collect::<Vec<_>>());
    assert!(batches.iter().all(|n| *n <= 256), "{batches:?}");
    let reported: BTreeSet<_> = server.results().iter().map(|report| report.task).collect();
    assert_eq!(reported, tasks.iter().map(|task| task.sub).collect());
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_is_polled_for_than_there_are_free_slots() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Exec);
    let agent = server.agent(data.path(), world.clone()).await;
    for _ in 0..500 {
        server.give(&server.exec(vm));
    }
    agent.counted(Counter::Begun, 400).await;
    assert_eq!(server.with(|heard| heard.tokens.len()), 100);
    world.release(Gate::Exec);
    server.result(500).await;
    agent.stop().await;
}
