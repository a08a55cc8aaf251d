//! Stopped, started, restarted, paused: with a guest that boots, and without.

use super::*;
use crate::hypervisor::{Power, Restart};

async fn start(qemu: &Qemu, id: VmId) -> Box<dyn Machine> {
    let plan = qemu.plan(id).await.unwrap().expect("it is written in its folder");
    qemu.start(&plan, &mpsc::unbounded_channel().0).await.unwrap()
}

async fn uptime(machine: &dyn Machine) -> f64 {
    let output = run(machine, &["cat", "/proc/uptime"]).await;
    output.stdout.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_guest_turns_itself_off_restarts_and_is_paused_when_it_is_asked() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();

    // Paused, its guest does not answer; an agent that comes anew sees it.
    machine.pause().await.unwrap();
    assert!(machine.power().await.unwrap() == Power::Paused && !machine.answers().await);
    drop(machine);
    let next = node.restarted();
    let machine = next.attach(plan.id).await.unwrap().expect("it is held, not gone");
    assert_eq!(machine.power().await.unwrap(), Power::Paused);
    assert!(next.find().await.unwrap().found[0].answered);
    machine.resume().await.unwrap();
    assert_eq!(machine.power().await.unwrap(), Power::Running);
    run(machine.as_ref(), &["sh", "-c", "echo kept >/root/kept; touch /tmp/lost"]).await;

    // Restarted by its guest agent: the same process, the same disk, another boot.
    assert_eq!(machine.reboot(READY).await.unwrap(), Restart::Begun);
    machine.ready(READY).await.unwrap();
    assert_eq!(run(machine.as_ref(), &["cat", "/root/kept"]).await.stdout, "kept\n");
    assert_ne!(run(machine.as_ref(), &["ls", "/tmp/lost"]).await.exit_code, Some(0));

    // Turned off by its guest agent; how it ended is remembered, and forgotten with the next start.
    machine.shutdown().await.unwrap();
    let exit = machine.exited().await;
    assert_eq!(exit, Exit::GuestShutdown);
    let unseen = node.restarted().find().await.unwrap().found.remove(0);
    assert_eq!(unseen.ended, Some(Exit::GuestShutdown), "an agent that was away knows as well");
    next.note_end(plan.id, &exit).await.unwrap();
    let found = node.restarted().find().await.unwrap().found.remove(0);
    assert!(!found.alive && !found.answered && found.ended == Some(Exit::GuestShutdown));
    let machine = start(&next, plan.id).await;
    let found = next.find().await.unwrap().found.remove(0);
    assert!(found.alive && found.complete && !found.answered && found.ended.is_none(), "{found:?}");
    machine.ready(READY).await.unwrap();
    assert_eq!(run(machine.as_ref(), &["cat", "/root/kept"]).await.stdout, "kept\n");
    assert_eq!(node.count(plan.id), 1);
    assert!(next.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn a_guest_without_its_agent_hears_the_power_button() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    // The button is heard once its driver and its daemon are there.
    let listens = "until [ -e /run/acpid.pid ] && [ -e /dev/input/event0 ]; do usleep 50000; done";
    run(machine.as_ref(), &["sh", "-c", listens]).await;
    let before = uptime(machine.as_ref()).await;
    assert!(before > 0.0);
    run(
        machine.as_ref(),
        &[
            "sh",
            "-c",
            "(sleep 1; echo 'exec sleep 3600' >/usr/lib/tiny/guest-agent; killall qemu-ga) >/dev/null 2>&1 &",
        ],
    )
    .await;
    while machine.answers().await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A button says off, and nothing about beginning anew: the machine has to be started again.
    assert_eq!(machine.reboot(READY).await.unwrap(), Restart::Off);
    assert_eq!(machine.exited().await, Exit::GuestShutdown);
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn the_reset_button_and_the_plug_need_no_guest() {
    let node = Node::new().await;
    let mut plan = node.plan();
    plan.manifest.cmdline = "console=ttyS0 rdinit=/no/such panic=0".into();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.reset().await.unwrap();
    assert_eq!(machine.reboot(Duration::from_millis(1)).await.unwrap(), Restart::Ignored);
    machine.end().await.unwrap();
    assert_eq!(machine.exited().await, Exit::Requested);
    assert_eq!(node.count(plan.id), 0);
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn starting_twice_gives_one_process_and_an_end_is_not_noted_over_it() {
    let node = Node::new().await;
    let plan = node.plan();
    drop(create(&node.qemu, &plan).await.unwrap());
    let tell = mpsc::unbounded_channel().0;
    let (first, second) = tokio::join!(node.qemu.start(&plan, &tell), node.qemu.start(&plan, &tell));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(node.count(plan.id), 1);
    node.qemu.note_end(plan.id, &Exit::Requested).await.unwrap();
    assert_eq!(node.folder(plan.id).ended().unwrap(), None);
    assert!(node.qemu.remove(plan.id).await.unwrap());
    node.qemu.note_end(plan.id, &Exit::Requested).await.unwrap();
    assert_eq!(node.vms(), Vec::<String>::new(), "nothing is remembered of what is gone");
}

#[tokio::test]
async fn a_machine_whose_host_was_restarted_is_known_as_such() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    node.signal(plan.id, Signal::KILL);
    assert!(matches!(machine.exited().await, Exit::Crashed(_)));
    let folder = node.folder(plan.id);
    let mut process = folder.process().unwrap().unwrap();
    assert_eq!(node.qemu.find().await.unwrap().found[0].ended, None, "nobody saw it");
    process.boot_id = "another run of this host".to_owned();
    folder.write_process(&process).unwrap();
    assert_eq!(node.qemu.find().await.unwrap().found[0].ended, Some(Exit::HostWentDown));
    node.qemu.note_end(plan.id, &Exit::Requested).await.unwrap();
    assert_eq!(node.qemu.find().await.unwrap().found[0].ended, Some(Exit::Requested), "it had been stopped before");
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn an_end_that_no_agent_saw_is_a_crash_unless_qemu_ended_in_order() {
    let node = Node::new().await;
    let mut plan = node.plan();
    plan.manifest.cmdline = "console=ttyS0 rdinit=/no/such panic=0".into();
    let seen = async || node.qemu.find().await.unwrap().found.remove(0).ended;
    let machine = create(&node.qemu, &plan).await.unwrap();
    node.signal(plan.id, Signal::KILL);
    machine.exited().await;
    assert_eq!(seen().await, None);
    let machine = start(&node.qemu, plan.id).await;
    node.signal(plan.id, Signal::TERM);
    machine.exited().await;
    assert!(
        matches!(seen().await, Some(Exit::Crashed(why)) if why.contains("by a signal that did not come from hostler"))
    );
    let machine = start(&node.qemu, plan.id).await;
    machine.end().await.unwrap();
    assert_eq!(seen().await, Some(Exit::GuestShutdown), "nothing was told of it, and it ended in order");
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let node = Node::new().await;
    let plan = node.plan();
    drop(create(&node.qemu, &plan).await.unwrap());
    node.qemu.attach(plan.id).await.unwrap().unwrap().end().await.unwrap();
    let tell = mpsc::unbounded_channel().0;
    let moved = MachinePlan { image_dir: node.dir.path().join("nowhere"), ..plan.clone() };
    let error = refusal(node.qemu.start(&moved, &tell).await);
    assert!(error.code == Code::ImageFetchFailed && error.detail.contains("nowhere"), "{error}");
    fs::remove_file(node.folder(plan.id).disk().unwrap()).unwrap();
    let error = refusal(node.qemu.start(&plan, &tell).await);
    assert!(error.detail.contains("the disk of machine") && !error.retryable, "{error}");
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn a_start_that_fails_leaves_no_process() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.end().await.unwrap();
    drop(machine);
    // What the new process is cannot be written down, as on a disk that is full.
    let part = node.folder(plan.id).base().join("process.part");
    fs::create_dir(&part).unwrap();
    let error = refusal(node.qemu.start(&plan, &mpsc::unbounded_channel().0).await);
    assert!(error.detail.contains("cannot be written down"), "{error}");
    assert_eq!(node.count(plan.id), 0, "who is told that it failed takes it for gone");
    assert!(node.qemu.attach(plan.id).await.unwrap().is_none());
    fs::remove_dir(&part).unwrap();
    drop(start(&node.qemu, plan.id).await);
    assert_eq!(node.count(plan.id), 1);
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn a_full_disk_holds_the_machine_and_nothing_is_lost_when_it_is_let_go() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    let live = node.qemu.0.held(plan.id).unwrap().unwrap();
    let (qmp, above) = (live.qmp().unwrap(), node.folder(plan.id).base().join("full.qcow2"));
    let top = qmp.top().await.unwrap();
    super::super::qcow2::create_overlay(&above, &top.file, hostler_model::image::DiskFormat::Qcow2, 1 << 30).unwrap();
    qmp.add_full_layer(&top, &above).await.unwrap();
    let write = params(&["sh", "-c", "echo kept >/root/kept; sync; cat /root/kept"]);
    let held = async {
        assert_eq!(machine.turned(Power::Running).await, Power::IoError);
        assert_eq!(machine.power().await.unwrap(), Power::IoError);
        machine.resume().await.unwrap();
        assert_eq!(machine.turned(Power::IoError).await, Power::Running);
    };
    let held = async { tokio::time::timeout(READY, held).await.expect("nothing held it") };
    let (output, ()) = tokio::join!(machine.exec(&write), held);
    assert_eq!(output.unwrap().stdout, "kept\n");
    drop(live);
    assert!(node.qemu.remove(plan.id).await.unwrap());
}
