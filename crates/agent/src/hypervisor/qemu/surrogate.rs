//! A QEMU without a machine, for work on a layer that no machine's QEMU has open. It speaks over a socket that only we
//! have, takes what the kernel gives a process that can do little, and ends with us: it is told to, or dies with its
//! parent. QEMU's lock on the file keeps it and a machine's QEMU from each other whatever happens.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as Pair},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};

use super::{
    error::{failed, storage},
    folder::Folder,
    launch::words,
    qmp::{Qmp, QmpError},
};
use crate::hypervisor::DriverError;

/// How long it may take from its start to its first answer.
const START: Duration = Duration::from_secs(30);

/// How long it may take to end when it is told to.
const END: Duration = Duration::from_secs(10);

/// What it may take: address space and processor time. It copies some GiB in a second of the latter.
const LIMITS: [&str; 3] = ["--as=8589934592", "--cpu=14400", "--core=0"];

/// One, until it is dropped.
pub(super) struct Surrogate {
    qmp: Qmp,
    child: Child,
}

impl Surrogate {
    /// By which it knows the layer.
    pub(super) const NODE: &str = "disk";

    pub(super) async fn start(binary: &Path, folder: &Folder, layer: &Path) -> Result<Surrogate, DriverError> {
        let cannot = |error: &io::Error| storage("QEMU cannot be started to work on a disk", error);
        let (ours, its) = Pair::pair().map_err(|error| cannot(&error))?;
        let child = command(binary, folder, layer, its.into()).map_err(|error| cannot(&error))?.spawn();
        let child = child.map_err(|error| cannot(&error))?;
        ours.set_nonblocking(true).map_err(|error| cannot(&error))?;
        let ours = UnixStream::from_std(ours).map_err(|error| cannot(&error))?;
        let spoken = timeout(START, Qmp::negotiate(ours)).await.unwrap_or(Err(QmpError::Silent(START)));
        let qmp = spoken.map_err(|error| {
            let id = folder.id();
            failed(format!("QEMU cannot work on the disk of machine {id}: {error}{}", words(folder)))
        })?;
        Ok(Surrogate { qmp, child })
    }

    /// Ends it, and returns when it is gone: then others may open the layer.
    pub(super) async fn end(mut self) {
        let quietly = async { self.qmp.quit().await.is_ok() && self.child.wait().await.is_ok() };
        if !timeout(END, quietly).await.unwrap_or(false)
            && let Err(error) = self.child.kill().await
        {
            tracing::warn!(%error, "a QEMU that worked on a disk cannot be ended");
        }
    }

    pub(super) fn qmp(&self) -> &Qmp {
        &self.qmp
    }
}

/// Each program of it becomes the next one, so that the child is QEMU itself.
fn command(binary: &Path, folder: &Folder, layer: &Path, socket: OwnedFd) -> io::Result<Command> {
    let file = serde_json::json!({"driver": "file", "filename": layer.to_string_lossy()});
    let disk = serde_json::json!({"driver": "qcow2", "node-name": Surrogate::NODE, "discard": "unmap", "file": file});
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.log())?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "prlimit"]).args(LIMITS).arg("--").arg(binary);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "none"]);
    command.args(["-blockdev", &disk.to_string()]);
    command.args(["-chardev", "socket,id=qmp,fd=0", "-mon", "chardev=qmp,mode=control"]);
    command.args(["-sandbox", super::command::SANDBOX]);
    command.current_dir("/").stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    Ok(command)
}
