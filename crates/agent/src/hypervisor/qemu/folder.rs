//! A machine's folder: where its things lie, and what is remembered of it across agents.
//!
//! ```text
//! <data>/vms/<vm id>/            spec.json (first of all) · seed.img · disk.qcow2, disk-1.qcow2 … (see `layer`) · efi-vars.fd · console.log · qemu.log · qemu.pid (QEMU's own)
//!                                process.json (who QEMU is) · complete (the guest answered once) · ended (how QEMU ended)
//!                                frozen (the guest may hold its file systems) · restoring (a restore was begun)
//!                                unsure (the host could not write all of a layer)
//! <data>/vms/<vm id>.removing/   the same, half removed
//! <run>/<short id>/              qmp.sock · agent.sock
//! ```
//!
//! All IO here blocks. Nothing here starts or ends a process.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use hostler_model::VmId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    host::{
        Process,
        file::{present, sync_folder, tail, write_durably},
    },
    hypervisor::{Exit, MachinePlan},
};

/// The longest path of a unix socket: `sun_path` has 108 bytes, the last of them NUL (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;

/// How much of a log's end is read for an error.
const LOG_BYTES: u64 = 8 * 1024;

const REMOVING: &str = ".removing";

/// Which process is a machine's QEMU; good for one run of the host only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ProcessFile {
    pub(super) boot_id: String,
    pub(super) process: Process,
}

/// That the guest answered once; of which process it was the last time, and how long that took.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct CompleteFile {
    pub(super) boot_ms: f64,
    pub(super) process: Process,
    /// Whether it is known that this process's guest runs and will not be ready.
    #[serde(default)]
    pub(super) not_ready: bool,
}

/// That a restore was begun: by their names, the layer that the machine wrote before, and the one that it is to write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Restoring {
    pub(super) before: String,
    pub(super) above: String,
}

/// One machine's folders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Folder {
    id: VmId,
    base: PathBuf,
    sockets: PathBuf,
}

impl Folder {
    pub(super) fn new(data: &Path, run: &Path, id: VmId) -> Folder {
        Folder { id, base: data.join("vms").join(id.to_string()), sockets: run.join(id.short()) }
    }

    pub(super) fn id(&self) -> VmId {
        self.id
    }

    /// Where all but the sockets lies.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// What UEFI firmware remembers.
    pub(super) fn firmware_vars(&self) -> PathBuf {
        self.base.join("efi-vars.fd")
    }

    /// What its guest is told at its first boot.
    pub(super) fn seed(&self) -> PathBuf {
        self.base.join("seed.img")
    }

    pub(super) fn console(&self) -> PathBuf {
        self.base.join("console.log")
    }

    /// What QEMU writes to stderr.
    pub(super) fn log(&self) -> PathBuf {
        self.base.join("qemu.log")
    }

    pub(super) fn pidfile(&self) -> PathBuf {
        self.base.join("qemu.pid")
    }

    pub(super) fn qmp(&self) -> PathBuf {
        self.sockets.join("qmp.sock")
    }

    pub(super) fn agent(&self) -> PathBuf {
        self.sockets.join("agent.sock")
    }

    /// The path of a socket that is too long for the kernel, if one is.
    pub(super) fn overlong_socket(&self) -> Option<PathBuf> {
        [self.qmp(), self.agent()].into_iter().find(|path| path.as_os_str().as_bytes().len() > SOCKET_PATH_LIMIT)
    }

    fn removing(&self) -> PathBuf {
        self.base.with_file_name(format!("{}{REMOVING}", self.id))
    }

    /// The machine whose pidfile this would be, below `data`.
    pub(super) fn owner(data: &Path, pidfile: &Path) -> Option<VmId> {
        let folder = pidfile.parent().filter(|folder| folder.parent() == Some(&data.join("vms")))?;
        folder.file_name()?.to_str()?.parse().ok()
    }

    /// Every machine of which there is a folder below `data`.
    pub(super) fn list(data: &Path) -> io::Result<Vec<VmId>> {
        let Some(entries) = present(fs::read_dir(data.join("vms")))? else { return Ok(Vec::new()) };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            ids.extend(name.strip_suffix(REMOVING).unwrap_or(&name).parse::<VmId>().ok());
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Makes the folder; says whether it is new. What is left of an earlier life goes.
    pub(super) fn make(&self) -> io::Result<bool> {
        present(fs::remove_dir_all(self.removing()))?;
        private().recursive(true).create(self.base.parent().unwrap_or(&self.base))?;
        match private().create(&self.base) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes an empty folder for the sockets. Never called while the machine's process lives.
    pub(super) fn make_sockets(&self) -> io::Result<()> {
        present(fs::remove_dir_all(&self.sockets))?;
        private().recursive(true).create(&self.sockets)
    }

    pub(super) fn write_spec(&self, spec: &MachinePlan) -> io::Result<()> {
        self.write("spec.json", spec)?;
        // The folder's own name must last as well: `find` begins with it.
        self.base.parent().map_or(Ok(()), sync_folder)
    }

    pub(super) fn write_process(&self, process: &ProcessFile) -> io::Result<()> {
        self.write("process.json", process)
    }

    pub(super) fn write_complete(&self, complete: &CompleteFile) -> io::Result<()> {
        self.write("complete", complete)
    }

    /// How the process ended: written when that is seen, and gone before the next one begins.
    pub(super) fn write_ended(&self, exit: &Exit) -> io::Result<()> {
        self.write("ended", exit)
    }

    pub(super) fn forget_ended(&self) -> io::Result<()> {
        present(fs::remove_file(self.base.join("ended"))).map(drop)
    }

    pub(super) fn ended(&self) -> io::Result<Option<Exit>> {
        self.read("ended")
    }

    /// That the guest of this process may hold its file systems: written before it is told to, and gone when it says that
    /// it writes.
    pub(super) fn write_frozen(&self, process: Process) -> io::Result<()> {
        self.write("frozen", &process)
    }

    pub(super) fn forget_frozen(&self) -> io::Result<()> {
        present(fs::remove_file(self.base.join("frozen"))).map(drop)
    }

    pub(super) fn frozen(&self) -> io::Result<Option<Process>> {
        self.read("frozen")
    }

    /// Until the restored machine is there, or what was made for it is gone.
    pub(super) fn write_restoring(&self, restoring: &Restoring) -> io::Result<()> {
        self.write("restoring", restoring)
    }

    pub(super) fn forget_restoring(&self) -> io::Result<()> {
        present(fs::remove_file(self.base.join("restoring"))).map(drop)
    }

    pub(super) fn restoring(&self) -> io::Result<Option<Restoring>> {
        self.read("restoring")
    }

    /// That the host could not write all of a layer.
    pub(super) fn write_unsure(&self, layer: &Path) -> io::Result<()> {
        self.write("unsure", &layer)
    }

    pub(super) fn unsure(&self) -> io::Result<Option<PathBuf>> {
        self.read("unsure")
    }

    pub(super) fn unsure_path(&self) -> PathBuf {
        self.base.join("unsure")
    }

    pub(super) fn spec(&self) -> io::Result<Option<MachinePlan>> {
        self.read("spec.json")
    }

    pub(super) fn process(&self) -> io::Result<Option<ProcessFile>> {
        self.read("process.json")
    }

    pub(super) fn complete(&self) -> io::Result<Option<CompleteFile>> {
        self.read("complete")
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        write_durably(&self.base.join(name), &serde_json::to_vec_pretty(value)?)
    }

    /// Of a half-removed machine too.
    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let folder = if self.base.try_exists()? { self.base.clone() } else { self.removing() };
        let bytes = present(fs::read(folder.join(name)))?;
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{name} is damaged: {error}"));
        bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(damaged)).transpose()
    }

    /// The pid that QEMU wrote itself.
    pub(super) fn pid(&self) -> io::Result<Option<i32>> {
        Ok(present(fs::read_to_string(self.pidfile()))?.and_then(|text| text.trim().parse().ok()))
    }

    /// The last lines of a log of this machine, indented, for an error.
    pub(super) fn last_lines(log: &Path, lines: usize) -> String {
        tail(log, lines, LOG_BYTES).iter().map(|line| format!("\n  {line}")).collect()
    }

    /// Removes everything; says whether there was anything. Never called while the machine's process lives.
    pub(super) fn remove(&self) -> io::Result<bool> {
        let removing = self.removing();
        let sockets = present(fs::remove_dir_all(&self.sockets))?.is_some();
        let half = present(fs::remove_dir_all(&removing))?.is_some();
        let whole = present(fs::rename(&self.base, &removing))?.is_some();
        if whole {
            fs::remove_dir_all(&removing)?;
        }
        if let (true, Some(vms)) = (half || whole, self.base.parent()) {
            sync_folder(vms)?;
        }
        Ok(sockets || half || whole)
    }
}

/// For the owner only: disks and consoles are the tenants'.
fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}
