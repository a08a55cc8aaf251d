//! One poll for tasks of all classes, and what becomes of it when slots change.

use std::time::Duration;

use hostler_agent::{AgentConfig, Slots};
use hostler_model::VmId;
use tokio::time::Instant;

use crate::{
    server::{Running, Server, folder, succeeded},
    world::{Gate, World},
};

/// Of which one class is full with one task.
const SLOTS: Slots = Slots { boot: 4, disk: 2, quick: 64, guest: 1 };

/// An agent that runs a program in a guest, whose class is full by that, and waits at the server for others.
async fn with_a_full_class(server: &Server, world: &World, data: &std::path::Path) -> (Running, VmId) {
    let vms = [server.vm(), server.vm()];
    vms.into_iter().for_each(|vm| world.running(vm));
    world.hold(Gate::Exec);
    let agent = Running::start(AgentConfig { slots: SLOTS, ..server.config(data, world.clone()) }).await;
    server
        .until(|heard| heard.polls.first().filter(|poll| poll.contains("boot=4&disk=2&quick=64&guest=1")).cloned())
        .await;
    server.give(&server.exec(vms[0]));
    server
        .until(|heard| heard.polls.get(1).filter(|poll| poll.contains("boot=4&disk=2&quick=64&guest=0")).cloned())
        .await;
    (agent, vms[1])
}

#[tokio::test(start_paused = true)]
async fn tasks_of_other_classes_come_at_once_while_one_is_full() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let (agent, other) = with_a_full_class(&server, &world, data.path()).await;
    let (program, echo, began) = (server.exec(other), server.echo("hello"), Instant::now());
    server.give(&program);
    server.give(&echo);
    assert_eq!(server.result(1).await.task, echo.sub);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert_eq!(server.with(|heard| (heard.tokens.len(), heard.ends)), (1, 0), "the program waits for its slot");
    agent.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_opens_in_a_full_class_is_asked_for_at_once() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let (agent, other) = with_a_full_class(&server, &world, data.path()).await;
    let (program, began) = (server.exec(other), Instant::now());
    server.give(&program);
    world.release(Gate::Exec);
    let report = server.result(2).await;
    succeeded(&report);
    assert_eq!(report.task, program.sub);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    let (ends, again) = server.with(|heard| (heard.ends, heard.polls[2].clone()));
    assert!(ends == 1 && again.contains("guest=1") && !again.contains("resync"), "{again}");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_more_in_a_class_that_has_some_ends_no_poll() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    for n in 1..=5 {
        server.give(&server.echo("hello"));
        server.result(n).await;
    }
    assert_eq!(server.with(|heard| heard.ends), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_an_ended_poll_brings_is_begun() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let (agent, _) = with_a_full_class(&server, &world, data.path()).await;
    let echo = server.echo("on its way");
    let token = server.sign(&echo);
    server.with(|heard| heard.at_end.push(token));
    world.release(Gate::Exec);
    let report =
        server.until(|heard| heard.batches.iter().flatten().find(|report| report.task == echo.sub).cloned()).await;
    assert_eq!(succeeded(&report)["message"], "on its way");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_cannot_be_ended_is_given_up_and_the_next_one_says_what_is_held() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let (agent, _) = with_a_full_class(&server, &world, data.path()).await;
    server.with(|heard| heard.elsewhere = true);
    let began = Instant::now();
    world.release(Gate::Exec);
    let poll = server.until(|heard| heard.polls.get(2).cloned()).await;
    assert!(poll.contains("guest=1") && poll.contains("resync=true"), "{poll}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    agent.stop().await;
}
