//! Polls: woken by what is submitted, told again what they never saw.

use std::time::Duration;

use futures_util::FutureExt;
use http::Method;

use crate::harness::World;

#[tokio::test]
async fn a_waiting_poll_is_woken_by_a_submission() {
    let (world, agent) = World::ready().await;
    let poll = agent.poll(&world, "wait_ms=30000");
    let submit = async {
        // The poll is under way before there is anything to fetch.
        tokio::task::yield_now().await;
        world.echo("x").await
    };
    let (assigned, task) = tokio::join!(poll, submit);
    assert_eq!(assigned[0].sub, task.id);
}

#[tokio::test]
async fn a_poll_gets_no_more_than_it_asked_for() {
    let (world, agent) = World::ready().await;
    for n in 0..5 {
        world.echo(&n.to_string()).await;
    }
    assert_eq!(agent.poll(&world, "max=3&wait_ms=5000").await.len(), 3);
    assert_eq!(agent.poll(&world, "max=3&wait_ms=5000").await.len(), 2);
    assert_eq!(agent.poll(&world, "max=3&wait_ms=0").await, []);
}

#[tokio::test]
async fn what_a_poll_that_broke_off_was_given_is_given_again_under_the_same_fence() {
    let (world, agent) = World::ready().await;
    let path = "tasks/wait?wait_ms=30000&max=4";
    // Begun and dropped: the caller is gone, its poll is not.
    assert!(agent.call(&world, Method::GET, path).send().now_or_never().is_none());
    let task = world.echo("x").await;
    let (lost, found) = tokio::join!(agent.poll(&world, "max=4&wait_ms=100"), async {});
    let () = found;
    let again = agent.poll(&world, "max=4&wait_ms=5000&resync=true").await;
    let (one, held) = (&again[0], format!("{}:{}", task.id, again[0].fence));
    assert_eq!((one.sub, one.fence.attempt, again.len()), (task.id, 1, 1));
    assert!(lost.is_empty() || lost[0].fence == one.fence);
    assert_eq!(agent.poll(&world, &format!("max=4&wait_ms=0&resync=true&held={held}")).await, []);
}

#[tokio::test]
async fn a_poll_ends_when_its_time_is_up() {
    let (world, agent) = World::ready().await;
    let began = std::time::Instant::now();
    assert_eq!(agent.poll(&world, "wait_ms=50").await, []);
    assert!(began.elapsed() >= Duration::from_millis(50) && began.elapsed() < Duration::from_secs(5));
}
