//! Progress.

use std::time::Duration;

use hostler_model::{Code, task::Progress};

use crate::world::{Agent, World};

pub async fn the_first_report_says_when_it_began(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.advance(1);
    let began = world.now();
    world.progress(agent, &leased, "boot", &[]).await.unwrap();
    world.advance(1);
    world.progress(agent, &leased, "wait", &[]).await.unwrap();
    let task = world.task(task.id).await;
    assert_eq!(task.started_at, Some(began));
    assert_eq!(task.progress, Some(Progress { phase: "wait".into(), ..Progress::default() }));
    let kinds = world.kinds_after(0).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "task.started").count(), 1);
}

pub async fn progress_renews_the_lease(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    // Even after its end, as long as nobody has judged it.
    for _ in 0..3 {
        world.serve(31).await;
        let answer = world.progress(agent, &leased, "boot", &[]).await.unwrap();
        assert_eq!((answer.abort, answer.lease_expires_at), (false, world.now().plus(Duration::from_secs(30))));
        assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    }
}

pub async fn progress_under_a_stale_fence_is_refused(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let first = world.lease_one(agent).await;
    world.advance(31);
    world.store.lapse_leases().await.unwrap();
    assert_eq!(world.progress(agent, &first, "boot", &[]).await.unwrap_err().code, Code::StaleFence);
    world.advance(5);
    let second = world.lease_one(agent).await;
    assert_eq!(world.progress(agent, &first, "boot", &[]).await.unwrap_err().code, Code::StaleFence);
    world.progress(agent, &second, "boot", &[]).await.unwrap();
}

pub async fn progress_of_another_node_is_refused(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let mut submission = world.echo();
    submission.target.node = Some(a.node);
    world.ok(submission).await;
    let leased = world.lease_one(a).await;
    assert_eq!(world.progress(b, &leased, "boot", &[]).await.unwrap_err().code, Code::StaleFence);
    let other = Agent { enrolment: b.enrolment, ..a };
    assert_eq!(world.progress(other, &leased, "boot", &[]).await.unwrap_err().code, Code::IdentityMismatch);
}

pub async fn progress_of_a_task_that_ended_is_refused(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let before = world.task(task.id).await;
    assert_eq!(world.progress(agent, &leased, "boot", &[]).await.unwrap_err().code, Code::StaleFence);
    assert_eq!(world.task(task.id).await, before);
}

pub async fn progress_learns_of_a_cancel(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.cancel(task.id).await.unwrap();
    assert!(world.progress(agent, &leased, "boot", &[]).await.unwrap().abort);
}

pub async fn a_report_that_says_nothing_new_writes_no_event(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.progress(agent, &leased, "boot", &[]).await.unwrap();
    let head = world.head().await;
    world.advance(1);
    world.progress(agent, &leased, "boot", &[]).await.unwrap();
    assert_eq!(world.head().await, head);
}
