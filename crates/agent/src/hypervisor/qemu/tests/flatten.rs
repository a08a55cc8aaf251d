//! Flattening, on real disks: what a guest wrote is there whatever was deleted, and no layer is left that nobody needs.

use hostler_model::SnapshotId;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    snapshot::{back, delete, flatten, id, restore, shell, take},
    *,
};
use crate::hypervisor::{
    Flat, SnapshotRemoved,
    qemu::{flatten::Watch, qcow2, qmp::Qmp, snapshot::room},
};

/// What QEMU's own look at a layer says; never of one that is being written.
fn check(layer: &std::path::Path) {
    let output = std::process::Command::new("qemu-img").args(["check", "-q"]).arg(layer).output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", layer.display());
}

/// Reads or writes a layer that no QEMU has open.
fn qemu_io(layer: &std::path::Path, line: &str) {
    let output = std::process::Command::new("qemu-io").args(["-c", line]).arg(layer).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("failed"), "{said}");
}

impl Node {
    /// Ends a machine, and looks at each of its layers.
    async fn checked(&self, machine: Box<dyn Machine>, vm: VmId) {
        machine.end().await.unwrap();
        for layer in self.layers(vm) {
            check(&self.folder(vm).layer(&layer));
        }
    }

    async fn started(&self, vm: VmId) -> Box<dyn Machine> {
        let plan = self.qemu.plan(vm).await.unwrap().unwrap();
        let machine = self.qemu.start(&plan, &mpsc::unbounded_channel().0).await.unwrap();
        machine.ready(READY).await.unwrap();
        machine
    }

    async fn running(&self) -> (VmId, Box<dyn Machine>) {
        let plan = self.plan();
        let machine = create(&self.qemu, &plan).await.unwrap();
        machine.ready(READY).await.unwrap();
        (plan.id, machine)
    }
}

/// The files that are removed and that a machine's QEMU has open all the same.
fn kept_open(machine: &dyn Machine) -> Vec<PathBuf> {
    let open = fs::read_dir(format!("/proc/{}/fd", machine.pid().unwrap())).unwrap();
    let files = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    files.filter(|file| file.to_string_lossy().ends_with(".qcow2 (deleted)")).collect()
}

/// Waits until QEMU's only job is so far.
async fn until(qmp: &Qmp, status: &str) {
    loop {
        let news = qmp.job_news();
        if qmp.jobs().await.unwrap()[0].status == status {
            return;
        }
        qmp.job_news_after(news).await.unwrap();
    }
}

/// A flattening that has begun to copy.
async fn begun(qemu: &Qemu, vm: VmId, removed: SnapshotId) -> JoinHandle<Result<Flat, DriverError>> {
    let (percents, mut seen) = mpsc::unbounded_channel();
    let qemu = qemu.clone();
    let flattening = tokio::spawn(async move { qemu.flatten(vm, removed, &percents).await });
    seen.recv().await.unwrap();
    flattening
}

#[tokio::test]
async fn sixty_rounds_leave_the_disk_as_flat_as_it_was_and_the_data_whole() {
    let node = Node::new().await;
    let (vm, machine) = node.running().await;
    for round in 0..60 {
        let line = format!("dd if=/dev/urandom of=/root/f{} bs=64k count=4 2>/dev/null; sync", round % 7);
        shell(machine.as_ref(), &line).await;
        let one = id();
        take(&node.qemu, vm, one, false).await.unwrap();
        let flat = delete(&node.qemu, vm, one).await;
        assert_eq!(flat, Default::default(), "round {round}");
        assert_eq!(node.layers(vm).len(), 1, "round {round}");
        assert_eq!(kept_open(machine.as_ref()), Vec::<PathBuf>::new(), "round {round}: its room is not free");
    }
    let sums = shell(machine.as_ref(), "sync; md5sum /root/f*").await;
    assert_eq!(sums.lines().count(), 7);
    node.checked(machine, vm).await;
    let machine = node.started(vm).await;
    assert_eq!(shell(machine.as_ref(), "md5sum /root/f*").await, sums);
    assert!(node.qemu.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn deletions_in_any_order_keep_what_the_others_restore_to() {
    let node = Node::new().await;
    let (vm, mut machine) = node.running().await;
    let mut kept = Vec::new();
    for n in 0..6 {
        shell(machine.as_ref(), &format!("echo {n} >/root/n; echo {n} >/root/only-{n}; sync")).await;
        let one = id();
        take(&node.qemu, vm, one, n == 4).await.unwrap();
        kept.push(one);
    }
    assert_eq!(node.layers(vm).len(), 7);
    // From the middle, the first, the last: live, the machine's own QEMU has them open.
    for n in [2, 0, 5] {
        let flat = delete(&node.qemu, vm, kept[n]).await;
        assert!(!flat.layer_kept, "{n}");
    }
    assert_eq!(node.layers(vm).len(), 4);
    // Two stand on the layer of 1: what came of a restore, and 3.
    machine = back(&node.qemu, vm, kept[1]).await;
    assert_eq!(shell(machine.as_ref(), "cat /root/n; ls /root/only-*").await, "1\n/root/only-0\n/root/only-1");
    shell(machine.as_ref(), "echo branch >/root/n; sync").await;
    let flat = delete(&node.qemu, vm, kept[1]).await;
    assert!(flat.layer_kept, "two stand on it");
    let bytes = |n: usize| flat.shares.iter().find(|(id, _)| *id == kept[n]).unwrap().1;
    assert!(bytes(3) > bytes(4), "the older of those that stand on it answers for it: {flat:?}");
    assert_eq!(node.layers(vm).len(), 4);
    // The next deletion leaves one of the two: flattened aside, QEMU has not all of it open.
    delete(&node.qemu, vm, kept[3]).await;
    assert_eq!(node.layers(vm).len(), 3);
    assert_eq!(shell(machine.as_ref(), "cat /root/n").await, "branch");
    machine = back(&node.qemu, vm, kept[4]).await;
    assert_eq!(shell(machine.as_ref(), "cat /root/n; ls /root/only-* | wc -l").await, "4\n5");
    // What the branch wrote is gone with the restore, and all that is left is one chain.
    let flat = delete(&node.qemu, vm, kept[4]).await;
    assert_eq!((flat.shares.len(), node.layers(vm).len()), (0, 1));
    assert_eq!(shell(machine.as_ref(), "cat /root/n").await, "4");
    node.checked(machine, vm).await;
}

#[tokio::test]
async fn a_stopped_machine_is_flattened_as_a_running_one() {
    let node = Node::new().await;
    let (vm, machine) = node.running().await;
    shell(machine.as_ref(), "echo one >/root/n; sync").await;
    machine.end().await.unwrap();
    let (first, second) = (id(), id());
    take(&node.qemu, vm, first, false).await.unwrap();
    drop(machine);
    let machine = node.started(vm).await;
    shell(machine.as_ref(), "echo two >/root/n; sync").await;
    machine.end().await.unwrap();
    take(&node.qemu, vm, second, false).await.unwrap();
    let flat = delete(&node.qemu, vm, first).await;
    assert_eq!((flat.layer_kept, node.layers(vm).len()), (false, 2));
    delete(&node.qemu, vm, second).await;
    let layers = node.layers(vm);
    assert_eq!(layers.len(), 1);
    let left = node.folder(vm).layer(&layers[0]);
    check(&left);
    assert!(qcow2::read_header(&left).unwrap().backing.unwrap().starts_with(tiny()), "it stands on the image");
    let machine = node.started(vm).await;
    assert_eq!(shell(machine.as_ref(), "cat /root/n").await, "two");
}

#[tokio::test]
async fn whatever_is_asked_of_the_machine_goes_before_it_and_one_that_is_given_up_goes_on_later() {
    let node = Node::new().await;
    let (vm, machine) = node.running().await;
    shell(machine.as_ref(), "dd if=/dev/zero of=/root/big bs=1M count=400; md5sum /root/big >/root/sum; sync").await;
    let (first, second) = (id(), id());
    take(&node.qemu, vm, first, false).await.unwrap();
    assert!(node.qemu.remove_snapshot(vm, first).await.unwrap().layer_left);
    // A snapshot, of the very layer that is being filled.
    let flattening = begun(&node.qemu, vm, first).await;
    take(&node.qemu, vm, second, false).await.unwrap();
    assert!(!flattening.is_finished(), "it would have taken longer");
    // Given up: the machine is free at once.
    flattening.abort();
    assert!(flattening.await.unwrap_err().is_cancelled());
    assert!(node.qemu.snapshots().await.unwrap().contains(&first), "its layer is still charged for");
    // A stop, and a start while a QEMU without a machine has the disk.
    let flattening = begun(&node.qemu, vm, first).await;
    machine.end().await.unwrap();
    drop(machine);
    let machine = node.started(vm).await;
    assert!(!flattening.await.unwrap().unwrap().layer_kept);
    assert_eq!(node.layers(vm).len(), 2);
    assert_eq!(shell(machine.as_ref(), "md5sum /root/big | diff - /root/sum && echo same").await, "same");
    let restored = restore(&node.qemu, vm, second).await.unwrap();
    restored.machine.ready(READY).await.unwrap();
    assert_eq!(shell(restored.machine.as_ref(), "md5sum /root/big | diff - /root/sum && echo same").await, "same");
    delete(&node.qemu, vm, second).await;
    assert_eq!(node.layers(vm).len(), 1);
    drop(machine);
    node.checked(restored.machine, vm).await;
}

#[tokio::test]
async fn what_an_agent_before_this_one_began_is_ended_and_done_again() {
    let node = Node::new().await;
    let (vm, machine) = node.running().await;
    shell(machine.as_ref(), "dd if=/dev/zero of=/root/big bs=1M count=400; sync").await;
    let first = id();
    take(&node.qemu, vm, first, false).await.unwrap();
    node.qemu.remove_snapshot(vm, first).await.unwrap();
    let live = node.qemu.0.living(&node.folder(vm)).await.unwrap().unwrap();
    let qmp = live.qmp().unwrap();
    let layers = node.layers(vm).into_iter().map(|name| node.folder(vm).layer(&name));
    let mut nodes = Vec::new();
    for layer in layers {
        nodes.push(qmp.node(&layer).await.unwrap().unwrap());
    }
    qmp.pull("of-one-who-died", &nodes[0], &nodes[1], 1 << 20).await.unwrap();
    take(&node.qemu, vm, id(), false).await.expect_err("a disk with a job on it takes no layer");
    node.qemu.attach(vm).await.unwrap().unwrap();
    assert_eq!(qmp.jobs().await.unwrap(), []);
    flatten(&node.qemu, vm, first).await.unwrap();
    assert_eq!(node.layers(vm).len(), 1);
    assert!(machine.answers().await);
}

#[tokio::test]
async fn what_was_let_go_of_when_an_agent_died_is_not_kept_open_by_the_machine() {
    let node = Node::new().await;
    let (vm, machine) = node.running().await;
    shell(
        machine.as_ref(),
        "dd if=/dev/urandom of=/root/f bs=64k count=4 2>/dev/null; md5sum /root/f >/root/sum; sync",
    )
    .await;
    let first = id();
    take(&node.qemu, vm, first, false).await.unwrap();
    assert!(node.qemu.remove_snapshot(vm, first).await.unwrap().layer_left);
    let live = node.qemu.0.living(&node.folder(vm)).await.unwrap().unwrap();
    let qmp = live.qmp().unwrap();
    let [upper, lower] = ["disk-1.qcow2", "disk.qcow2"].map(|name| node.folder(vm).layer(name));
    let (upper, lower) = (qmp.node(&upper).await.unwrap().unwrap(), qmp.node(&lower).await.unwrap().unwrap());
    qmp.pull("flatten", &upper, &lower, 1 << 30).await.unwrap();
    until(qmp, "pending").await;
    qmp.flush(&upper).await.unwrap();
    qmp.finalize("flatten").await.unwrap();
    until(qmp, "concluded").await;
    // The next agent.
    node.qemu.attach(vm).await.unwrap().unwrap();
    assert!(!flatten(&node.qemu, vm, first).await.unwrap().layer_kept);
    assert_eq!(node.layers(vm), ["disk-1.qcow2"]);
    assert_eq!(kept_open(machine.as_ref()), Vec::<PathBuf>::new());
    assert_eq!(shell(machine.as_ref(), "md5sum /root/f | diff - /root/sum && echo same").await, "same");
    node.checked(machine, vm).await;
}

#[tokio::test]
async fn nothing_is_copied_where_it_would_fill_the_hosts_disk() {
    let node = Node::new().await;
    let (vm, machine) = node.running().await;
    let first = id();
    take(&node.qemu, vm, first, false).await.unwrap();
    assert!(node.qemu.remove_snapshot(vm, first).await.unwrap().layer_left);
    let (percents, mut told) = mpsc::unbounded_channel();
    let watch = Watch { percents, given_up: CancellationToken::new(), reserve: u64::MAX };
    let error = node.qemu.0.flatten(vm, first, &watch).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (Code::NodeStorageFull, true), "{error}");
    assert!(told.try_recv().is_err(), "nothing was begun");
    assert!(node.layers(vm).len() == 2 && node.qemu.snapshots().await.unwrap() == [first]);
    // There is room again.
    assert!(!flatten(&node.qemu, vm, first).await.unwrap().layer_kept);
    assert_eq!(node.layers(vm).len(), 1);
    assert!(machine.answers().await);
}

#[tokio::test]
async fn a_copy_stops_where_others_fill_the_hosts_disk_meanwhile_and_goes_on_when_there_is_room() {
    const GIB: u64 = 1 << 30;
    let node = Node::new().await;
    let plan = node.plan();
    let (vm, first) = (plan.id, id());
    create(&node.qemu, &plan).await.unwrap().end().await.unwrap();
    // More than is copied between two looks.
    qemu_io(&node.folder(vm).layer("disk.qcow2"), "write -P 7 100M 900M");
    take(&node.qemu, vm, first, false).await.unwrap();
    node.qemu.remove_snapshot(vm, first).await.unwrap();
    // Room for the copy, and less than what somebody else will take of it.
    let reserve = room(&node.folder(vm)).unwrap() - 3 * GIB;
    let (percents, mut told) = mpsc::unbounded_channel();
    let (qemu, watch) = (node.qemu.clone(), Watch { percents, given_up: CancellationToken::new(), reserve });
    let flattening = tokio::spawn(async move { qemu.0.flatten(vm, first, &watch).await });
    told.recv().await.unwrap();
    let other = fs::File::create(node.dir.path().join("other")).unwrap();
    rustix::fs::fallocate(&other, rustix::fs::FallocateFlags::empty(), 0, 6 * GIB).unwrap();
    let error = flattening.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.retryable), (Code::NodeStorageFull, true), "{error}");
    assert_eq!(node.layers(vm).len(), 2);
    other.set_len(0).unwrap();
    assert!(!flatten(&node.qemu, vm, first).await.unwrap().layer_kept);
    assert_eq!(node.layers(vm), ["disk-1.qcow2"]);
    let left = node.folder(vm).layer("disk-1.qcow2");
    check(&left);
    qemu_io(&left, "read -P 7 100M 900M");
}

#[tokio::test]
async fn a_copy_whose_qemu_is_killed_in_the_middle_goes_on_with_the_next_attempt() {
    let node = Node::new().await;
    let plan = node.plan();
    let (vm, first) = (plan.id, id());
    create(&node.qemu, &plan).await.unwrap().end().await.unwrap();
    let [lower, upper] = ["disk.qcow2", "disk-1.qcow2"].map(|name| node.folder(vm).layer(name));
    // It takes some seconds; and the upper layer has some of its own.
    qemu_io(&lower, "write -P 7 100M 900M");
    take(&node.qemu, vm, first, false).await.unwrap();
    qemu_io(&upper, "write -P 9 500M 10M");
    node.qemu.remove_snapshot(vm, first).await.unwrap();
    let (percents, mut told) = mpsc::unbounded_channel();
    let qemu = node.qemu.clone();
    let flattening = tokio::spawn(async move { qemu.flatten(vm, first, &percents).await });
    let copied = async { while told.recv().await.unwrap() < 20 {} };
    tokio::time::timeout(READY, copied).await.unwrap();
    // The one that works on the disk: no machine runs.
    let has_it = |argument: &Vec<u8>| String::from_utf8_lossy(argument).contains(&*upper.to_string_lossy());
    let found = crate::host::process::search(|arguments| arguments.iter().any(has_it)).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].open().unwrap().unwrap().signal(Signal::KILL).unwrap());
    let error = flattening.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.retryable), (Code::HypervisorFailed, true), "{error}");
    assert_eq!(node.layers(vm), ["disk-1.qcow2", "disk.qcow2"]);
    assert_eq!(node.qemu.snapshots().await.unwrap(), [first], "it counts as there, and stays charged");
    // The next attempt, by an agent that knows nothing of the first.
    let next = node.restarted();
    assert!(next.remove_snapshot(vm, first).await.unwrap().layer_left);
    assert_eq!(flatten(&next, vm, first).await.unwrap(), Flat::default());
    assert_eq!(node.layers(vm), ["disk-1.qcow2"]);
    assert!(next.snapshots().await.unwrap().is_empty());
    check(&upper);
    for kept in ["read -P 7 100M 400M", "read -P 9 500M 10M", "read -P 7 510M 490M"] {
        qemu_io(&upper, kept);
    }
}

#[tokio::test]
async fn who_has_nothing_to_copy_does_not_wait_for_others_that_do() {
    let node = Node::new().await;
    let _copying = node.qemu.0.flattening.lock().await;
    let (vm, one) = (node.plan().id, id());
    let removed = node.qemu.remove_snapshot(vm, one).await.unwrap();
    assert_eq!(removed, SnapshotRemoved { existed: false, layer_left: false }, "there is no folder of it");
    assert_eq!(flatten(&node.qemu, vm, one).await.unwrap(), Flat::default());
}
