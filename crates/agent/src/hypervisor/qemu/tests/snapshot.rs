//! Snapshots: a real guest that is put back to what it was, and what is left on the disk.

use hostler_model::SnapshotId;

use super::*;
use crate::hypervisor::{
    Flat, Power, Restored, SnapshotMade,
    qemu::{
        qmp::Qmp,
        shelf::{Begun, Shelf},
    },
};

pub(super) fn id() -> SnapshotId {
    Ids::system().next(Timestamp::from_micros(1))
}

pub(super) async fn take(qemu: &Qemu, vm: VmId, id: SnapshotId, memory: bool) -> Result<SnapshotMade, DriverError> {
    qemu.take_snapshot(vm, id, memory, &mpsc::unbounded_channel().0).await
}

pub(super) async fn flatten(qemu: &Qemu, vm: VmId, id: SnapshotId) -> Result<Flat, DriverError> {
    qemu.flatten(vm, id, &mpsc::unbounded_channel().0).await
}

/// Removed, and the disk is flat.
pub(super) async fn delete(qemu: &Qemu, vm: VmId, id: SnapshotId) -> Flat {
    assert!(qemu.remove_snapshot(vm, id).await.unwrap().existed);
    flatten(qemu, vm, id).await.unwrap()
}

pub(super) async fn restore(qemu: &Qemu, vm: VmId, id: SnapshotId) -> Result<Restored, DriverError> {
    qemu.restore(vm, id, &mpsc::unbounded_channel().0).await
}

/// Restored, and its guest answers.
pub(super) async fn back(qemu: &Qemu, vm: VmId, id: SnapshotId) -> Box<dyn Machine> {
    let restored = restore(qemu, vm, id).await.unwrap();
    restored.machine.ready(READY).await.unwrap();
    restored.machine
}

async fn refused(qemu: &Qemu, vm: VmId, id: SnapshotId) -> DriverError {
    match restore(qemu, vm, id).await {
        Ok(_) => panic!("it should have been refused"),
        Err(error) => error,
    }
}

pub(super) async fn shell(machine: &dyn Machine, line: &str) -> String {
    run(machine, &["sh", "-c", line]).await.stdout.trim().to_owned()
}

async fn count(machine: &dyn Machine) -> u64 {
    // The counter writes a new file and moves it into place, so there is always a whole number.
    shell(machine, "cat /tmp/count").await.parse().unwrap()
}

impl Node {
    /// The layers of a machine's disk.
    pub(super) fn layers(&self, vm: VmId) -> Vec<String> {
        let entries = fs::read_dir(self.folder(vm).base()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut layers: Vec<String> = names.filter(|name| name.starts_with("disk")).collect();
        layers.sort();
        layers
    }
}

const COUNT: &str = "(n=0; while :; do n=$((n+1)); echo $n >/tmp/part; mv /tmp/part /tmp/count; sleep 0.1; done) \
                     >/dev/null 2>&1 & echo $! >/tmp/pid; until [ -s /tmp/count ]; do usleep 50000; done";

#[tokio::test]
async fn memory_and_disk_go_back_to_what_they_were_as_often_as_one_likes() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    shell(machine.as_ref(), &format!("echo one >/root/file; sync; {COUNT}")).await;

    let (first, second) = (id(), id());
    let made = take(&node.qemu, plan.id, first, true).await.unwrap();
    assert!(made.written.memory_bytes > 10 << 20 && made.written.disk_bytes > 0 && made.quiesced.is_none(), "{made:?}");
    assert!(made.paused_ms > 0.0);
    assert_eq!(take(&node.qemu, plan.id, first, true).await.unwrap(), made, "one that is there is not taken again");
    assert_eq!(node.qemu.snapshots().await.unwrap(), [first]);
    // The machine goes on: the same process, the same counter.
    let taken_at = count(machine.as_ref()).await;
    assert!(machine.power().await.unwrap() == Power::Running);
    shell(machine.as_ref(), "echo two >/root/file; sync; kill $(cat /tmp/pid)").await;
    assert_eq!(node.layers(plan.id), ["disk-1.qcow2", "disk.qcow2"]);

    // Back: the file is as it was, and the counter that was killed goes on.
    let machine = back(&node.qemu, plan.id, first).await;
    assert!(machine.set_clock(1_800_000_000_000_000_000).await);
    assert!(shell(machine.as_ref(), "date +%s").await.parse::<i64>().unwrap() >= 1_800_000_000);
    assert_eq!(shell(machine.as_ref(), "cat /root/file").await, "one");
    let early = count(machine.as_ref()).await;
    while count(machine.as_ref()).await <= early {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(node.count(plan.id), 1);
    assert_eq!(node.layers(plan.id), ["disk-2.qcow2", "disk.qcow2"], "what it wrote since is gone");

    // A snapshot of the restored machine; then back to the first, and forward to the second.
    shell(machine.as_ref(), "echo three >/root/file; sync").await;
    take(&node.qemu, plan.id, second, true).await.unwrap();
    let machine = back(&node.qemu, plan.id, first).await;
    assert_eq!(shell(machine.as_ref(), "cat /root/file").await, "one");
    assert!(count(machine.as_ref()).await >= taken_at.saturating_sub(20));
    drop(machine);
    let machine = back(&node.qemu, plan.id, second).await;
    assert_eq!(shell(machine.as_ref(), "cat /root/file").await, "three");

    // Deleted, a snapshot counts as there until its layer is part of what stands on it.
    let removed = node.qemu.remove_snapshot(plan.id, first).await.unwrap();
    assert!(removed.existed && removed.layer_left, "{removed:?}");
    assert_eq!(node.qemu.snapshots().await.unwrap().len(), 2);
    assert_eq!(refused(&node.qemu, plan.id, first).await.code, Code::SnapshotUnusable);
    let flat = flatten(&node.qemu, plan.id, first).await.unwrap();
    assert!(!flat.layer_kept && flat.shares.len() == 1 && flat.shares[0].0 == second, "{flat:?}");
    assert_eq!(node.layers(plan.id).len(), 2);
    assert!(!node.qemu.remove_snapshot(plan.id, first).await.unwrap().existed);
    assert_eq!(shell(machine.as_ref(), "cat /root/file").await, "three");
    assert_eq!(refused(&node.qemu, plan.id, first).await.code, Code::SnapshotUnusable);
    assert!(machine.answers().await, "a refused restore leaves the machine alone");
    assert_eq!(node.qemu.snapshots().await.unwrap(), [second]);
    assert!(node.qemu.remove(plan.id).await.unwrap());
    assert!(node.vms().is_empty() && node.qemu.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_disk_alone_is_held_taken_and_booted_from() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    // Not written out: the guest does that when it is asked to hold its file systems.
    shell(machine.as_ref(), "echo one >/root/file").await;
    let running = id();
    let made = take(&node.qemu, plan.id, running, false).await.unwrap();
    assert_eq!((made.quiesced, made.written.memory_bytes), (Some(true), 0));
    shell(machine.as_ref(), "echo two >/root/file; sync").await;

    // Held, it stays held.
    machine.pause().await.unwrap();
    let paused = id();
    assert_eq!(take(&node.qemu, plan.id, paused, true).await.unwrap().paused_ms, 0.0);
    assert_eq!(machine.power().await.unwrap(), Power::Paused);
    machine.resume().await.unwrap();
    assert_eq!(shell(machine.as_ref(), "cat /root/file").await, "two");

    // Stopped, it has a disk and no memory.
    machine.end().await.unwrap();
    drop(machine);
    let stopped = id();
    assert_eq!(take(&node.qemu, plan.id, stopped, true).await.unwrap_err().code, Code::VmStateConflict);
    assert_eq!(take(&node.qemu, plan.id, stopped, false).await.unwrap().quiesced, None);
    assert_eq!(node.layers(plan.id).len(), 4);

    let restored = restore(&node.qemu, plan.id, running).await.unwrap();
    assert!(!restored.memory);
    restored.machine.ready(READY).await.unwrap();
    assert_eq!(shell(restored.machine.as_ref(), "cat /root/file").await, "one");
    drop(restored);
    let machine = back(&node.qemu, plan.id, paused).await;
    assert_eq!(shell(machine.as_ref(), "cat /root/file").await, "two");
    // Nothing stands on the layers of the other two, once they are deleted.
    for id in [running, stopped, paused] {
        assert!(node.qemu.remove_snapshot(plan.id, id).await.unwrap().existed);
    }
    assert_eq!(node.layers(plan.id), ["disk-1.qcow2", "disk-5.qcow2", "disk.qcow2"]);
    assert_eq!(shell(machine.as_ref(), "cat /root/file").await, "two");
}

#[tokio::test]
async fn what_does_not_fit_or_is_damaged_is_refused_and_the_machine_goes_on() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    let id = id();
    take(&node.qemu, plan.id, id, true).await.unwrap();
    let folder = node.folder(plan.id);
    let (memory, whole) =
        (Shelf::new(&folder, id).memory(), folder.base().join(format!("snapshots/{id}/snapshot.json")));
    let said = fs::read_to_string(&whole).unwrap();
    for (from, to, why) in [
        ("qemu 7.", "qemu 6.", "was written by qemu 6."),
        ("-machine q35", "-machine pc", "the machine that it was taken of"),
    ] {
        assert!(said.contains(from), "{said}");
        fs::write(&whole, said.replace(from, to)).unwrap();
        let error = refused(&node.qemu, plan.id, id).await;
        assert_eq!((error.code, error.retryable), (Code::SnapshotUnusable, false));
        assert!(error.detail.contains(why), "{}", error.detail);
    }
    fs::write(&whole, &said).unwrap();
    // A machine that has become larger since is put back to what it was.
    let mut larger = plan.clone();
    (larger.spec.memory_mib, larger.spec.vcpus, larger.spec.disk_gib) = (192, 2, 2);
    folder.write_spec(&larger).unwrap();
    let machine = {
        drop(machine);
        back(&node.qemu, plan.id, id).await
    };
    assert_eq!(shell(machine.as_ref(), "nproc").await, "1");
    assert!(node.qemu.behind(plan.id).await.unwrap(), "what it has become since waits for its next start");

    // One bit of the memory, a layer that was cut, a table of it that was overwritten: found out before anything is ended.
    let bytes = fs::read(&memory).unwrap();
    let mut broken = bytes.clone();
    broken[bytes.len() / 2] ^= 1;
    let layer = folder.layer("disk.qcow2");
    let disk = fs::read(&layer).unwrap();
    let mut tables = disk.clone();
    tables[3 << 16..][..8].fill(0xff);
    for (file, bad, good, why) in [
        (&memory, &broken[..], &bytes[..], "its memory is damaged"),
        (&layer, &disk[..disk.len() - 1], &disk[..], "and was written with"),
        (&layer, &tables[..], &disk[..], "is damaged"),
    ] {
        fs::write(file, bad).unwrap();
        let error = refused(&node.qemu, plan.id, id).await;
        assert!(error.code == Code::SnapshotUnusable && error.detail.contains(why), "{}", error.detail);
        fs::write(file, good).unwrap();
        assert!(machine.power().await.unwrap() == Power::Running && machine.answers().await, "{why}");
    }

    // Bytes that QEMU does not take, of an agent that kept no CRC: the machine is stopped, with its disk.
    let mut said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(said["memory"]["crc"].take().is_u64());
    fs::write(&whole, said.to_string()).unwrap();
    broken[..4096].fill(0xee);
    fs::write(&memory, &broken).unwrap();
    shell(machine.as_ref(), "echo mine >/root/mine; sync").await;
    let layers = node.layers(plan.id);
    let error = refused(&node.qemu, plan.id, id).await;
    assert!(error.detail.contains("with the disk that it had"), "{}", error.detail);
    assert_eq!(machine.exited().await, Exit::Requested);
    assert_eq!((node.layers(plan.id), node.count(plan.id)), (layers, 0));
    let plan = node.qemu.plan(plan.id).await.unwrap().unwrap();
    let machine = node.qemu.start(&plan, &mpsc::unbounded_channel().0).await.unwrap();
    machine.ready(READY).await.unwrap();
    assert_eq!(shell(machine.as_ref(), "cat /root/mine").await, "mine");

    // A file that was cut.
    fs::write(&memory, &bytes[..bytes.len() - 1]).unwrap();
    let error = refused(&node.qemu, plan.id, id).await;
    assert!(error.detail.contains("bytes"), "{}", error.detail);
    assert!(machine.answers().await);
}

#[tokio::test]
async fn an_agent_started_anew_lets_a_guest_write_that_was_told_to_hold_its_file_systems() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    let (folder, live) = (node.folder(plan.id), node.qemu.0.held(plan.id).unwrap().unwrap());
    assert!(live.freeze().await && folder.frozen().unwrap().is_some());
    drop((machine, live));
    while Qmp::connect(&folder.qmp(), Duration::from_millis(1)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let next = node.restarted();
    let machine = next.attach(plan.id).await.unwrap().unwrap();
    // A guest that holds them starts no program: this one waits.
    assert_eq!(shell(machine.as_ref(), "echo kept >/root/kept; sync; cat /root/kept").await, "kept");
    assert_eq!(take(&next, plan.id, id(), false).await.unwrap().quiesced, Some(true));
    assert_eq!(folder.frozen().unwrap(), None);
    assert!(next.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn a_program_outlives_a_pause_and_snapshots_of_its_machine() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    let program = VmExecParams {
        timeout_seconds: Some(600),
        ..params(&["sh", "-c", "touch /tmp/begun; until [ -e /tmp/over ]; do usleep 50000; done; echo over"])
    };
    let meddle = async {
        shell(machine.as_ref(), "until [ -e /tmp/begun ]; do usleep 50000; done").await;
        assert_eq!(take(&node.qemu, plan.id, id(), false).await.unwrap().quiesced, Some(true));
        machine.pause().await.unwrap();
        // Longer than a guest may be silent within a command.
        tokio::time::sleep(Duration::from_secs(12)).await;
        machine.resume().await.unwrap();
        take(&node.qemu, plan.id, id(), false).await.unwrap();
        shell(machine.as_ref(), "touch /tmp/over").await;
    };
    let (output, ()) = tokio::join!(machine.exec(&program), meddle);
    let output = output.unwrap();
    assert_eq!((output.exit_code, output.stdout.as_str()), (Some(0), "over\n"));
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn an_agent_started_anew_lets_a_machine_go_on_whose_snapshot_was_broken_off() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    let (folder, id) = (node.folder(plan.id), id());
    Shelf::new(&folder, id).begin(Begun { running: true }).unwrap();
    machine.pause().await.unwrap();
    drop(machine);
    while Qmp::connect(&folder.qmp(), Duration::from_millis(1)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let next = node.restarted();
    assert!(next.snapshots().await.unwrap().is_empty(), "half of one is none");
    let machine = next.attach(plan.id).await.unwrap().unwrap();
    assert_eq!(machine.power().await.unwrap(), Power::Running);
    assert!(machine.answers().await);
    assert!(next.remove_snapshot(plan.id, id).await.unwrap().existed);
    take(&next, plan.id, id, true).await.unwrap();
}
