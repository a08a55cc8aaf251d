//! Real machines, booted by QEMU out of the image `tiny`, two at a time: an emulated guest uses one processor.

use std::{fs, path::PathBuf, time::Duration};

use hostler_model::{
    Ids, Timestamp, VmId,
    error::Code,
    image::Manifest,
    kind::{OUTPUT_LIMIT, VmExecOutput, VmExecParams},
    vm::VmSpec,
};
use rustix::process::Signal;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::{Accel, Qemu, QemuConfig, folder::Folder, seek::Census};
use crate::{
    host::Process,
    hypervisor::{DriverError, Exit, Hypervisor, Machine, MachinePlan},
};

mod boot;
mod edit;
mod flatten;
mod life;
mod power;
mod snapshot;

static TWO_AT_A_TIME: Semaphore = Semaphore::const_new(2);

const READY: Duration = Duration::from_secs(120);

/// A node in a temporary folder. When it goes, so do its machines, whatever became of the test.
struct Node {
    dir: tempfile::TempDir,
    qemu: Qemu,
    image: PathBuf,
    _turn: SemaphorePermit<'static>,
}

impl Node {
    async fn new() -> Node {
        let turn = TWO_AT_A_TIME.acquire().await.unwrap();
        let dir = tempfile::Builder::new().prefix("hq").tempdir().unwrap();
        let qemu = Qemu::new(config(&dir)).unwrap();
        Node { dir, qemu, image: tiny(), _turn: turn }
    }

    /// The driver of an agent that was started anew.
    fn restarted(&self) -> Qemu {
        Qemu::new(config(&self.dir)).unwrap()
    }

    fn plan(&self) -> MachinePlan {
        let manifest = fs::read(self.image.join("image.json")).unwrap();
        plan(serde_json::from_slice(&manifest).unwrap(), self.image.clone())
    }

    fn folder(&self, id: VmId) -> Folder {
        self.qemu.0.folder(id)
    }

    /// The processes of this node's machines.
    fn processes(&self) -> Vec<Process> {
        let census = Census::take().unwrap();
        let ids = census.pidfiles().filter_map(|pidfile| Folder::owner(&self.qemu.0.data, pidfile));
        ids.filter_map(|id| super::seek_in(&self.folder(id), &census).unwrap()).collect()
    }

    /// How many living processes name this machine on their command line.
    fn count(&self, id: VmId) -> usize {
        let wanted = self.folder(id).pidfile().into_os_string().into_encoded_bytes();
        crate::host::process::search(|arguments| arguments.contains(&wanted)).unwrap().len()
    }

    fn signal(&self, id: VmId, signal: Signal) {
        let process = self.folder(id).process().unwrap().unwrap().process;
        assert!(process.open().unwrap().expect("it lives").signal(signal).unwrap());
    }

    fn vms(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("data/vms")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for process in self.processes() {
            if let Ok(Some(handle)) = process.open() {
                let _ = handle.signal(Signal::KILL);
            }
        }
    }
}

fn config(dir: &tempfile::TempDir) -> QemuConfig {
    QemuConfig::new(dir.path().join("data"), dir.path().join("run"))
}

fn tiny() -> PathBuf {
    let image = PathBuf::from(
        std::env::var_os("HOSTLER_TEST_IMAGE")
            .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/images/tiny").into()),
    );
    assert!(
        image.join("image.json").exists(),
        "there is no guest image in {}: run images/tiny/build first",
        image.display()
    );
    image
}

fn plan(manifest: Manifest, image_dir: PathBuf) -> MachinePlan {
    let spec = VmSpec {
        image: manifest.name.clone(),
        image_digest: manifest.digest(),
        vcpus: 1,
        memory_mib: 128,
        disk_gib: 1,
        ready: hostler_model::ready::Readiness::GuestAgent,
        ready_timeout_seconds: 60,
        first_boot: None,
        placement: Default::default(),
        labels: Default::default(),
        restart: Default::default(),
        autostart: false,
        port_forwards: Vec::new(),
    };
    MachinePlan {
        id: Ids::system().next(Timestamp::from_micros(1)),
        epoch: 1,
        name: "web-1".into(),
        spec,
        manifest,
        image_dir,
        seed: None,
    }
}

async fn create(qemu: &Qemu, plan: &MachinePlan) -> Result<Box<dyn Machine>, DriverError> {
    qemu.create(plan, &mpsc::unbounded_channel().0).await
}

/// A machine's error, where its success cannot be shown.
fn refusal(result: Result<Box<dyn Machine>, DriverError>) -> DriverError {
    match result {
        Ok(_) => panic!("it should have been refused"),
        Err(error) => error,
    }
}

fn params(argv: &[&str]) -> VmExecParams {
    VmExecParams {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        stdin: String::new().into(),
        timeout_seconds: Some(30),
    }
}

async fn run(machine: &dyn Machine, argv: &[&str]) -> VmExecOutput {
    machine.exec(&params(argv)).await.unwrap()
}
