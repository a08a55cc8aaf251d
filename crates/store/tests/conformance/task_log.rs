//! The logs of tasks.

use hostler_model::{
    Code,
    internal::Receipt,
    task::Effects,
    task_log::{Author, BYTES, LINE, LINES, Line, PER_REPORT},
};

use crate::world::{World, failed};

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

pub async fn lines_are_kept_in_their_order_with_their_attempt(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.progress(agent, &leased, "boot", &["one", "two"]).await.unwrap();
    world.advance(1);
    world.progress(agent, &leased, "boot", &["it's \"three\" \u{1b}[2J\0 ü"]).await.unwrap();
    let lines = world.lines(task.id).await;
    assert_eq!(texts(&lines), ["attempt 1 of 3", "one", "two", "it's \"three\" \u{fffd}[2J\u{fffd} ü"]);
    assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!((lines[0].by, lines[1].by, lines[3].attempt), (Author::Server, Author::Node, 1));
    assert_eq!(lines[3].at, world.now());
    assert_eq!(texts(&world.store.task_log(task.id, 1, 2).await.unwrap()), ["one", "two"]);
}

pub async fn lines_that_come_again_are_kept_once(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    for _ in 0..3 {
        world.progress(agent, &leased, "boot", &["one", "two"]).await.unwrap();
    }
    let mut result = world.result(agent, &leased, failed(false, Effects::Undone));
    result.report.log = world.said(&["one", "two", "three"]);
    assert_eq!(world.settle(result.clone()).await, Ok(Receipt::Settled));
    assert_eq!(world.settle(result).await, Ok(Receipt::Settled));
    assert_eq!(texts(&world.lines(task.id).await), ["attempt 1 of 3", "one", "two", "three"]);
}

pub async fn lines_alone_write_no_event_and_wake_followers(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.progress(agent, &leased, "boot", &[]).await.unwrap();
    let head = world.head().await;
    let mut wakes = world.store.wakes();
    world.progress(agent, &leased, "boot", &["one"]).await.unwrap();
    assert_eq!(world.head().await, head);
    assert_eq!(wakes.try_recv().unwrap().logged, [task.id]);
}

pub async fn the_last_lines_come_with_the_result(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let mut result = world.result(agent, &leased, failed(false, Effects::Undone));
    result.report.log = world.said(&["it broke here"]);
    world.settle(result).await.unwrap();
    assert_eq!(texts(&world.lines(task.id).await), ["attempt 1 of 3", "it broke here"]);
}

pub async fn a_retry_says_why_and_marks_the_next_attempt(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    world.advance(5);
    world.lease_one(agent).await;
    world.advance(31);
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
    world.advance(5);
    let leased = world.lease_one(agent).await;
    world.progress(agent, &leased, "boot", &["at last"]).await.unwrap();
    let lines = world.lines(task.id).await;
    let begins = [
        "attempt 1 of 3",
        "failed: HANDLER_FAILED: it broke; it is tried again after ",
        "attempt 2 of 3",
        "its node was not heard of it in time; it is tried again after ",
        "attempt 3 of 3",
        "at last",
    ];
    assert_eq!(lines.len(), begins.len(), "{lines:#?}");
    for (line, begin) in lines.iter().zip(begins) {
        assert!(line.text.starts_with(begin), "{line:?}");
    }
}

pub async fn lines_under_a_stale_fence_are_not_kept(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let first = world.lease_one(agent).await;
    world.advance(31);
    world.store.lapse_leases().await.unwrap();
    world.advance(5);
    world.lease_one(agent).await;
    assert_eq!(world.progress(agent, &first, "boot", &["late"]).await.unwrap_err().code, Code::StaleFence);
    let mut result = world.result(agent, &first, failed(true, Effects::Undone));
    result.report.log = world.said(&["late"]);
    assert_eq!(world.settle(result).await, Ok(Receipt::Stale));
    assert!(!texts(&world.lines(task.id).await).contains(&"late"));
}

pub async fn only_the_last_lines_of_a_task_are_kept(world: &mut World) {
    let agent = world.node("a").await;
    let (task, other) = (world.ok(world.echo()).await, world.ok(world.echo()).await);
    let leased = world.lease(agent, 2).await;
    world.progress(agent, &leased[1], "boot", &["of the other"]).await.unwrap();
    let said: Vec<String> = (0..LINES + 50).map(|n| n.to_string()).collect();
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    for some in said.chunks(PER_REPORT) {
        world.advance(1);
        world.progress(agent, &leased[0], "boot", some).await.unwrap();
    }
    let lines = world.lines(task.id).await;
    assert_eq!((lines.len() as i64, lines[0].text.as_str()), (LINES, "50"));
    assert_eq!(world.lines(other.id).await.len(), 2);
}

pub async fn only_so_many_bytes_of_a_task_are_kept(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    let long = "x".repeat(2 * LINE);
    for _ in 0..8 {
        world.advance(1);
        // More than a report may bring: the rest is not read.
        world.progress(agent, &leased, "boot", &[long.as_str(); PER_REPORT + 10]).await.unwrap();
    }
    let lines = world.lines(task.id).await;
    assert!(lines.iter().all(|line| line.text.len() <= LINE));
    let bytes: usize = lines.iter().map(|line| line.text.len()).sum();
    assert!(bytes as i64 <= BYTES && bytes as i64 > BYTES - 2 * LINE as i64, "{bytes}");
    assert_eq!(lines.last().unwrap().number as usize, 8 * PER_REPORT + 1);
}

pub async fn a_task_that_goes_well_without_a_word_has_no_lines(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    let leased = world.lease_one(agent).await;
    world.progress(agent, &leased, "boot", &[]).await.unwrap();
    world.succeed(agent, &leased).await;
    assert!(world.lines(task.id).await.is_empty());
}
