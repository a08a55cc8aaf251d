//! A guest of our own making that takes its time over its file systems, behind a process that is no QEMU.

use std::sync::{OnceLock, atomic::AtomicBool};

use hostler_model::{Ids, Timestamp};
use rustix::process::Signal;
use serde_json::json;

use super::*;
use crate::{
    guest::tests::{Agent, Port},
    host::Process,
    hypervisor::qemu::folder::Folder,
};

/// A machine's folder, and the process that stands for its QEMU.
struct Machine {
    agent: Agent,
    folder: Folder,
    process: Process,
    child: std::process::Child,
    _dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path(), dir.path(), Ids::system().next(Timestamp::from_micros(1)));
        folder.make().unwrap();
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(child.id() as i32).unwrap().unwrap();
        Machine { agent: Agent::new(), folder, process, child, _dir: dir }
    }

    /// As an agent takes hold of it.
    fn live(&self) -> Arc<Live> {
        Arc::new(Live {
            folder: self.folder.clone(),
            handle: self.process.open().unwrap().unwrap(),
            qmp: None,
            guest: self.agent.guest.clone(),
            status: None,
            began_ms: 0.0,
            boot_ms: OnceLock::new(),
            requested: AtomicBool::new(false),
            thawing: AtomicBool::new(false),
            telling: tokio::sync::Mutex::default(),
        })
    }

    /// The guest hears that it is to hold its file systems.
    async fn told_to_hold(&self) -> Port {
        let mut port = self.agent.open().await;
        port.expect("guest-ping").await;
        port.answer(json!({})).await;
        port.expect("guest-fsfreeze-freeze").await;
        assert_eq!(self.folder.frozen().unwrap(), Some(self.process), "noted before it could hold anything");
        port
    }

    async fn until_forgotten(&self) {
        while self.folder.frozen().unwrap().is_some() {
            sleep(FIRST).await;
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_holds_its_file_systems_in_time_writes_again_at_once_and_nothing_is_left() {
    let machine = Machine::new();
    let live = machine.live();
    let serve = async {
        let mut port = machine.told_to_hold().await;
        port.answer(json!(1)).await;
        port.expect("guest-fsfreeze-thaw").await;
        port.answer(json!(1)).await;
        port
    };
    let snapshot = async {
        assert!(live.freeze().await);
        assert!(live.still_frozen().is_some() && live.refuse_if_frozen().is_err());
        live.thaw().await;
        assert!(live.still_frozen().is_none() && live.refuse_if_frozen().is_ok());
        assert_eq!(machine.folder.frozen().unwrap(), None);
        // A guest that holds nothing is told nothing: nobody would answer.
        live.thaw().await;
        live.go_on_thawing().await;
        assert!(!live.thawing.load(Ordering::Relaxed));
    };
    tokio::join!(snapshot, serve);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_holds_its_file_systems_too_late_is_told_until_it_writes() {
    let machine = Machine::new();
    let live = machine.live();
    let serve = async {
        // It writes out for minutes, and hears nothing meanwhile.
        let mut port = machine.told_to_hold().await;
        port.ignore().await;
        for _ in 0..8 {
            machine.agent.accept().await.ignore().await;
        }
        let mut port = machine.agent.open().await;
        port.expect("guest-fsfreeze-thaw").await;
        port.answer(json!(1)).await;
        port
    };
    let snapshot = async {
        assert!(!live.freeze().await);
        live.thaw().await;
        let warning = live.still_frozen().unwrap();
        assert!(warning.contains("may hang") && machine.folder.frozen().unwrap().is_some(), "{warning}");
        let failed = live.and_frozen(DriverError {
            code: Code::HypervisorFailed,
            detail: "it does not go on".to_owned(),
            retryable: true,
        });
        assert!(failed.detail.starts_with("it does not go on; the guest was told"), "{failed}");
        assert!(!live.freeze().await, "what it holds already, it does not hold for the next one");
        machine.until_forgotten().await;
        assert!(live.still_frozen().is_none());
    };
    tokio::join!(snapshot, serve);
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_tells_a_guest_to_write_that_the_one_before_it_left() {
    let machine = Machine::new();
    let dead = machine.live();
    let serve = async {
        let mut port = machine.told_to_hold().await;
        port.answer(json!(1)).await;
        drop(port);
        let mut port = machine.agent.open().await;
        port.expect("guest-fsfreeze-thaw").await;
        port.answer(json!(1)).await;
        port
    };
    let agents = async {
        assert!(dead.freeze().await);
        drop(dead);
        machine.live().go_on_thawing().await;
        assert!(machine.folder.frozen().unwrap().is_some(), "nobody holds it, so nobody tells it");
        let live = machine.live();
        live.go_on_thawing().await;
        machine.until_forgotten().await;
        assert!(!live.guest.holds());
    };
    tokio::join!(agents, serve);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_refuses_leaves_no_note_and_one_whose_process_ended_is_not_told() {
    let machine = Machine::new();
    let live = machine.live();
    let serve = async {
        let mut port = machine.told_to_hold().await;
        port.refuse("GenericError", "there is nothing to hold").await;
        port
    };
    let (held, port) = tokio::join!(live.freeze(), serve);
    assert!(!held && live.still_frozen().is_none());
    assert_eq!(machine.folder.frozen().unwrap(), None);
    drop(port);

    machine.folder.write_frozen(machine.process).unwrap();
    live.go_on_thawing().await;
    assert!(live.thawing.load(Ordering::Relaxed));
    assert!(live.handle.signal(Signal::KILL).unwrap());
    let weak = Arc::downgrade(&live);
    live.handle.ended().await;
    drop(live);
    while weak.strong_count() > 0 {
        sleep(FIRST).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_ends_its_answer_is_waited_for_only_so_long_and_counts_as_holding() {
    let machine = Machine::new();
    let live = machine.live();
    let serve = async { machine.told_to_hold().await.dribble().await };
    let snapshot = async {
        let begun = tokio::time::Instant::now();
        assert!(!live.freeze().await);
        assert!((HOLDS..2 * HOLDS).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(live.still_frozen().is_some() && machine.folder.frozen().unwrap().is_some());
    };
    tokio::join!(snapshot, serve);
}
