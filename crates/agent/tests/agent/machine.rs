//! Machines: made, undone, crashed, deleted; images that are not what they should be.

use hostler_agent::{AgentConfig, Slots, hypervisor::Exit, metrics::Counter};
use hostler_model::{
    error::Code,
    image::Sha256Hex,
    task::{Effects, End},
    vm::{VmReason, VmState},
};

use crate::{
    server::{Running, Server, folder, succeeded},
    world::{Box_, Gate, World},
};

#[tokio::test(start_paused = true)]
async fn a_machine_is_made_with_its_phases_and_deleted_again() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = server.vm();
    server.give(&server.create(vm));
    let report = server.result(1).await;
    let output = succeeded(&report);
    assert_eq!((&output["boot_ms"], &output["acceleration"]), (&12.5.into(), &"simulated".into()));
    let phases: Vec<_> = report.phases.iter().map(|timing| timing.phase.as_str()).collect();
    assert_eq!(phases, ["image", "disk", "start", "boot"]);
    // What was told as it happened is not told again.
    let told = server.with(|heard| heard.progress.iter().flat_map(|(_, told)| told.log.clone()).collect::<Vec<_>>());
    let lines: Vec<_> = told.iter().chain(&report.log).map(|line| line.text.as_str()).collect();
    assert!(lines[0].starts_with("image tiny (") && lines[0].ends_with(" was fetched"), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.starts_with("the guest answered 12 ms after its start (simulated")),
        "{lines:?}"
    );
    server.give(&server.exec(vm));
    assert_eq!(succeeded(&server.result(2).await)["stdout"], "uname -a");
    server.give(&server.delete(vm));
    assert_eq!(succeeded(&server.result(3).await)["existed"], true);
    server.give(&server.delete(vm));
    assert_eq!(succeeded(&server.result(4).await)["existed"], false);
    assert!(!world.has(vm));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_create_leaves_nothing() {
    for gate in [Gate::Create, Gate::Ready] {
        let (server, data, world) = (Server::new(), folder(), World::new());
        world.hold(gate);
        let agent = server.agent(data.path(), world.clone()).await;
        let vm = server.vm();
        let task = server.create(vm);
        server.give(&task);
        world.until_begun(gate, 1).await;
        server.with(|heard| heard.abort.push(task.sub));
        assert_eq!(server.result(1).await.end, End::Cancelled { effects: Effects::Undone }, "{gate:?}");
        assert!(!world.has(vm));
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_fails_and_cannot_be_undone_says_so() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    world.hold(Gate::Ready);
    world.change(|state| state.remove_fails = true);
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = server.vm();
    server.give(&server.create(vm));
    let End::Failed { code, detail, effects, .. } = server.result(1).await.end else { panic!("it succeeded") };
    assert_eq!((code, effects), (Code::GuestNotReady, Effects::Remain));
    assert!(detail.contains("the disk does not let go"), "{detail}");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_time_is_up_is_stopped_and_undone() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    world.hold(Gate::Create);
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = server.vm();
    server.give(&server.create(vm));
    let End::Failed { code, effects, .. } = server.result(1).await.end else { panic!("it succeeded") };
    assert_eq!((code, effects), (Code::DeadlineExceeded, Effects::Undone));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_reported_at_once_and_programs_in_it_end() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Exec);
    let agent = server.agent(data.path(), world.clone()).await;
    server.give(&server.exec(vm));
    world.until_begun(Gate::Exec, 1).await;
    world.exit(vm, Exit::Crashed("signal 9".into()));
    let seen = server
        .until(|heard| heard.heartbeats.last()?.inventory.vms.iter().find(|seen| seen.state == VmState::Error).cloned())
        .await;
    assert_eq!((seen.vm, seen.reason, seen.detail.as_deref()), (vm, Some(VmReason::Crashed), Some("signal 9")));
    let End::Failed { code, .. } = server.result(1).await.end else { panic!("it succeeded") };
    assert_eq!(code, Code::GuestFailed);
    server.give(&server.exec(vm));
    let End::Failed { code, .. } = server.result(2).await.end else { panic!("it succeeded") };
    assert_eq!(code, Code::VmStateConflict);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_a_removal_broke_off_is_not_asked_for_again() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    world.hold(Gate::Exec);
    let agent = server.agent(data.path(), world.clone()).await;
    let program = server.exec(vm);
    server.give(&program);
    world.until_begun(Gate::Exec, 1).await;
    server.give(&server.delete(vm));
    server.result(2).await;
    let report = server.results().into_iter().find(|report| report.task == program.sub).unwrap();
    let End::Failed { code, effects, .. } = report.end else { panic!("it succeeded") };
    assert_eq!((code, effects), (Code::OutcomeUnknown, Effects::Remain));
    assert_eq!(world.begun(Gate::Exec), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_turns_itself_off_is_stopped_not_broken() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let vm = server.vm();
    world.running(vm);
    let agent = server.agent(data.path(), world.clone()).await;
    server.until(|heard| heard.heartbeats.last().cloned()).await;
    world.exit(vm, Exit::GuestShutdown);
    let seen =
        server.until(|heard| heard.heartbeats.last()?.inventory.vms.iter().find(|seen| !seen.ready).cloned()).await;
    assert_eq!((seen.state, seen.reason), (VmState::Stopped, Some(VmReason::GuestShutdown)));
    agent.stop().await;
}

/// What came of it is kept to go on from, but for the wrong file, and never as an image; it does not spoil the next try.
#[tokio::test(start_paused = true)]
async fn an_image_with_a_wrong_file_is_refused_until_the_right_one_comes() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let task = server.create(server.vm());
    let images = data.path().join("images");
    let part = images.join(format!(".{}.part", task.params["image_digest"].as_str().unwrap()));
    let rootfs = Sha256Hex::of(b"rootfs").to_string();
    let again = |bytes: &[u8]| {
        server.with(|heard| heard.blobs.insert(rootfs.clone(), bytes.to_vec()));
        let mut task = task.clone();
        task.sub = server.ids.next(server.clock.now());
        task.target.vm = Some(server.vm());
        server.give(&task);
    };
    for wrong in [&b"rootfx"[..], b"root", b"rootfs and more"] {
        let n = server.results().len();
        again(wrong);
        let End::Failed { code, effects, .. } = server.result(n + 1).await.end else { panic!("it succeeded") };
        assert_eq!((code, effects), (Code::ImageFetchFailed, Effects::Undone));
        let left: Vec<_> = std::fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, std::slice::from_ref(&part));
        let kept = std::fs::read(part.join("rootfs")).unwrap_or_default();
        assert!(b"rootfs".starts_with(&kept[..]) && kept.len() < 6, "{kept:?} of {wrong:?}");
    }
    let n = server.results().len();
    again(b"rootfs");
    assert!(matches!(server.result(n + 1).await.end, End::Succeeded { .. }));
    assert!(!part.exists());
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_under_a_wrong_digest_is_refused() {
    let (server, data) = (Server::new(), folder());
    let agent = server.agent(data.path(), World::new()).await;
    let task = server.create(server.vm());
    server.with(|heard| heard.manifests.values_mut().for_each(|manifest| manifest.cmdline = "evil".into()));
    server.give(&task);
    let End::Failed { code, .. } = server.result(1).await.end else { panic!("it succeeded") };
    assert_eq!(code, Code::ImageFetchFailed);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn machines_made_at_once_fetch_their_image_once() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let first = server.create(server.vm());
    for _ in 0..4 {
        let mut task = first.clone();
        task.sub = server.ids.next(server.clock.now());
        task.target.vm = Some(server.vm());
        server.give(&task);
    }
    for n in 1..=4 {
        succeeded(&server.result(n).await);
    }
    assert_eq!(agent.count(Counter::Ended), 4);
    let cached = std::fs::read_dir(data.path().join("images")).unwrap().count();
    assert_eq!(cached, 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_over_is_left_alone_and_not_reported() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    world.hold(Gate::Create);
    let agent = server.agent(data.path(), world.clone()).await;
    let (vm, other) = (server.vm(), server.echo("after"));
    let task = server.create(vm);
    server.give(&task);
    world.until_begun(Gate::Create, 1).await;
    server.with(|heard| heard.over.push(task.sub));
    let last = |heard: &crate::server::Heard| heard.heartbeats.last().cloned();
    server.until(|heard| last(heard).filter(|beat| !beat.leases.is_empty())).await;
    server.until(|heard| last(heard).filter(|beat| beat.leases.is_empty())).await;
    server.give(&other);
    assert_eq!(server.result(1).await.task, other.sub);
    assert!(world.has(vm));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_delete_is_done_while_more_machines_wait_to_start_than_there_are_slots() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    world.hold(Gate::Create);
    let old = server.vm();
    world.running(old);
    let slots = Slots { boot: 4, disk: 2, quick: 64, guest: 64 };
    let agent = Running::start(AgentConfig { slots, ..server.config(data.path(), world.clone()) }).await;
    for _ in 0..70 {
        server.give(&server.create(server.vm()));
    }
    agent.counted(Counter::Begun, slots.boot as u64).await;
    // The others wait on the server: theirs is not the time that runs out.
    assert_eq!(server.with(|heard| heard.tokens.len()), 70 - slots.boot);
    let delete = server.delete(old);
    server.give(&delete);
    let report = server.result(1).await;
    assert_eq!((report.task, &succeeded(&report)["existed"]), (delete.sub, &true.into()));
    agent.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_found_half_made_that_no_task_makes_is_not_said_to_be_in_the_making() {
    for exit in [None, Some(Exit::Requested)] {
        let (server, data, world) = (Server::new(), folder(), World::new());
        let vm = server.vm();
        let half = Box_::new(1, 1, exit);
        world.change(|state| drop(state.machines.insert(vm, half)));
        let agent = server.agent(data.path(), world.clone()).await;
        let beat = server.until(|heard| heard.heartbeats.last().cloned()).await;
        let seen = &beat.inventory.vms[0];
        assert_eq!((seen.vm, seen.state, seen.reason), (vm, VmState::Error, Some(VmReason::CreateFailed)));
        agent.stop().await;
    }
}
