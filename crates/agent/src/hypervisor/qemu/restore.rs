//! Restoring: a machine is put back to one of its snapshots, in place.
//!
//! ```text
//! looked at ──the process is ended──► a new layer above the snapshot's ──a new process, its memory loaded──► it runs
//!     │ does not fit: nothing was touched        │ does not start: the layer goes, and the disk is as it was
//! ```
//!
//! What the machine wrote since is removed last, when the restored machine is there: until then it is noted (`restoring`),
//! and whoever sweeps layers meanwhile keeps it.
//!
//! A look comes first, while the machine goes on. The memory's bytes are compared with their CRC: QEMU loads whatever it
//! is given, and a guest would go on from it. That reads the file, which is to be read anyway, at some GiB/s, and costs no
//! time during which the machine is down. A cryptographic digest would cost several times as much and tell nothing more:
//! whoever can write these files can write the digest. Of the disk's layers the headers, the lengths and the tables are
//! looked at (`clusters`), not what the clusters hold.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hostler_model::{SnapshotId, VmId, error::Code, image::DiskFormat};
use tokio::time::{Instant, sleep};

use super::{
    Driver, GIB, blocking, clusters, command,
    error::{failed, storage},
    folder::{Folder, Restoring},
    machine::Live,
    qcow2,
    shelf::{self, MemoryFile, Shelf, SnapshotFile},
    snapshot::{remove_above, sweep},
};
use crate::{
    host::file::{present, sync_folder},
    hypervisor::{DriverError, Exit, MachinePlan, Phases},
};

/// Between two looks at how far QEMU is.
const LOOK: Duration = Duration::from_millis(1);

/// How long QEMU may take to load a memory.
const LOAD: Duration = Duration::from_secs(600);

/// A machine that runs from a snapshot.
pub(super) struct Back {
    pub(super) live: Arc<Live>,
    pub(super) memory: bool,
    /// When the process before it was gone.
    pub(super) since: Instant,
}

impl Driver {
    pub(super) async fn restore(&self, vm: VmId, id: SnapshotId, phases: &Phases) -> Result<Back, DriverError> {
        let folder = self.folder(vm);
        let shelf = Shelf::new(&folder, id);
        let _turn = self.turns.wait(vm).await;
        let _ = phases.send("check");
        let plan = self.plan(&folder).await?.ok_or_else(|| unusable("there is nothing of its machine on this node"))?;
        let (file, size) = self.usable(&folder, &shelf, &plan).await?;
        self.fits(&plan, &folder, file.memory.as_ref())?;
        let _ = phases.send("stop");
        if let Some(live) = self.living(&folder).await? {
            let top = match &live.qmp {
                Some(qmp) => qmp.top().await.ok(),
                None => None,
            };
            live.end().await?;
            let known = folder.clone();
            let noted = blocking(move || {
                if let Some(top) = top {
                    remove_above(&known, &top.file)?;
                }
                known.write_ended(&Exit::Requested)
            });
            noted.await.map_err(|error| storage("how the machine ended cannot be written down", &error))?;
        }
        fail::fail_point!("agent.restore.stopped");
        let since = Instant::now();
        let _ = phases.send("disk");
        let above = self.layer_for(&folder, &shelf, &file, size).await?;
        fail::fail_point!("agent.restore.layer");
        let _ = phases.send("start");
        match self.bring_back(&plan, &folder, &shelf, file.memory.as_ref()).await {
            Ok(live) => {
                fail::fail_point!("agent.restore.running");
                settled(&folder).await;
                let swept = folder.clone();
                if let Err(error) = blocking(move || sweep(&swept)).await {
                    tracing::warn!(vm.id = %vm, %error, "layers that nothing needs any more cannot be removed");
                }
                Ok(Back { live, memory: file.memory.is_some(), since })
            }
            Err(error) => Err(self.as_it_was(&folder, above, error).await),
        }
    }

    /// The snapshot, and how large the disk is to be; or why it cannot be used.
    async fn usable(
        &self,
        folder: &Folder,
        shelf: &Shelf,
        plan: &MachinePlan,
    ) -> Result<(SnapshotFile, u64), DriverError> {
        let (folder, shelf, gib) = (folder.clone(), shelf.clone(), plan.spec.disk_gib);
        let looked = tokio::task::spawn_blocking(move || {
            let unreadable = |error: io::Error| unusable(format!("it cannot be read: {error}"));
            let file = shelf.whole().map_err(unreadable)?.ok_or_else(|| unusable("it is not on this node"))?;
            if let Some(memory) = &file.memory {
                undamaged(&shelf, memory)?;
            }
            let layer = folder.layer(&file.layer);
            let (header, length) = qcow2::read_header(&layer)
                .and_then(|header| Ok((header, fs::metadata(&layer)?.len())))
                .map_err(unreadable)?;
            if length < file.layer_length {
                let detail = format!("its disk has {length} bytes and was written with {}", file.layer_length);
                return Err(unusable(detail));
            }
            for layer in folder.chain(&layer).map_err(unreadable)? {
                clusters::examine(&layer).map_err(unreadable)?;
            }
            let asked = u64::try_from(gib).unwrap_or_default().saturating_mul(GIB);
            Ok((file, header.size.max(asked)))
        });
        looked.await.unwrap_or_else(|error| Err(failed(format!("the look at the snapshot was broken off: {error}"))))
    }

    /// Whether this node can load the memory: the same QEMU, the same machine.
    fn fits(&self, plan: &MachinePlan, folder: &Folder, memory: Option<&MemoryFile>) -> Result<(), DriverError> {
        let Some(memory) = memory else { return Ok(()) };
        if memory.hypervisor != self.version {
            let detail = format!(
                "its memory was written by {}, and this node has {}; it can be loaded by the one that wrote it only",
                memory.hypervisor, self.version
            );
            return Err(unusable(detail));
        }
        let arguments = self.arguments(plan, folder, Some(memory))?;
        let texts: Vec<String> = arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let hardware = command::hardware(&texts);
        if hardware == memory.hardware {
            return Ok(());
        }
        let differs = |all: &[String], other: &[String]| -> String {
            let odd: Vec<&str> = all.iter().filter(|one| !other.contains(one)).map(String::as_str).collect();
            if odd.is_empty() { "nothing more".to_owned() } else { odd.join(", ") }
        };
        Err(unusable(format!(
            "its memory needs the machine that it was taken of: it had {}, and now it would have {}",
            differs(&memory.hardware, &hardware),
            differs(&hardware, &memory.hardware)
        )))
    }

    /// The command line; with a memory to be loaded, the machine is as large as it was then.
    fn arguments(
        &self,
        plan: &MachinePlan,
        folder: &Folder,
        memory: Option<&MemoryFile>,
    ) -> Result<Vec<OsString>, DriverError> {
        let mut arguments = command::arguments(plan, folder, &self.acceleration, self.uefi.as_ref())?;
        if let Some(memory) = memory {
            command::resize(&mut arguments, &memory.hardware);
            arguments.extend(["-incoming".into(), "defer".into()]);
        }
        Ok(arguments)
    }

    /// The disk to be: an empty layer above the snapshot's.
    async fn layer_for(
        &self,
        folder: &Folder,
        shelf: &Shelf,
        file: &SnapshotFile,
        size: u64,
    ) -> Result<PathBuf, DriverError> {
        let (folder, shelf, below) = (folder.clone(), shelf.clone(), folder.layer(&file.layer));
        let made = blocking(move || {
            if shelf.firmware_vars().try_exists()? {
                shelf::copy(&shelf.firmware_vars(), &folder.firmware_vars())?;
            }
            let above = begin(&folder)?;
            qcow2::create_overlay(&above, &below, DiskFormat::Qcow2, size)?;
            File::open(&above)?.sync_all()?;
            sync_folder(folder.base())?;
            Ok(above)
        });
        made.await.map_err(|error| storage("the restored disk cannot be made; the machine is stopped", &error))
    }

    async fn bring_back(
        &self,
        plan: &MachinePlan,
        folder: &Folder,
        shelf: &Shelf,
        memory: Option<&MemoryFile>,
    ) -> Result<Arc<Live>, DriverError> {
        self.make_startable(plan, folder).await?;
        let arguments = self.arguments(plan, folder, memory)?;
        if memory.is_none() {
            super::console::begin(folder).await;
        }
        let live = self.launch(folder, &arguments).await?;
        fail::fail_point!("agent.restore.started");
        if memory.is_some()
            && let Err(error) = load(&live, shelf).await
        {
            live.end().await?;
            return Err(error);
        }
        Ok(live)
    }

    /// A machine that could not be restored keeps the disk that it had, and is stopped.
    async fn as_it_was(&self, folder: &Folder, above: PathBuf, error: DriverError) -> DriverError {
        let known = folder.clone();
        let back = async {
            if self.living(&known).await?.is_some() {
                return Err(failed("its process is still there"));
            }
            let known = known.clone();
            let removed = blocking(move || {
                present(fs::remove_file(above))?;
                sync_folder(known.base())?;
                known.forget_restoring()?;
                known.write_ended(&Exit::Requested)
            });
            removed.await.map_err(|error| storage("the restored disk cannot be removed", &error))
        };
        let now = match back.await {
            Ok(()) => "the machine is stopped, with the disk that it had".to_owned(),
            Err(left) => format!("the machine is stopped, and its disk is that of the snapshot: {left}"),
        };
        DriverError { detail: format!("{}; {now}", error.detail), ..error }
    }
}

/// Notes what the machine wrote until now, and what it is to write; gives the latter. What an earlier restore made, and
/// nothing ever wrote, goes first: the machine's own layer is the newest again.
fn begin(folder: &Folder) -> io::Result<PathBuf> {
    if let Some(earlier) = folder.restoring()? {
        let above = folder.layer(&earlier.above);
        if folder.disk()? == above && folder.layer(&earlier.before).try_exists()? && clusters::is_empty(&above)? {
            present(fs::remove_file(above))?;
            sync_folder(folder.base())?;
        }
    }
    let (before, above) = (folder.disk()?, folder.next_disk()?);
    folder.write_restoring(&Restoring { before: name(&before), above: name(&above) })?;
    Ok(above)
}

fn name(layer: &Path) -> String {
    layer.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The machine runs on the disk that it has: what it had before a restore is not needed any more.
pub(super) async fn settled(folder: &Folder) {
    let known = folder.clone();
    if let Err(error) = blocking(move || known.forget_restoring()).await {
        tracing::warn!(vm.id = %folder.id(), %error, "that a restore was begun cannot be forgotten; a layer stays that nothing needs");
    }
}

/// That the memory's file is as it was written. QEMU would load changed bytes into the guest without a word.
fn undamaged(shelf: &Shelf, memory: &MemoryFile) -> Result<(), DriverError> {
    let unreadable = |error: io::Error| unusable(format!("its memory cannot be read: {error}"));
    let there = present(fs::metadata(shelf.memory())).map_err(unreadable)?.map_or(0, |file| file.len());
    if there != memory.bytes {
        return Err(unusable(format!("its memory has {there} bytes and was written with {}", memory.bytes)));
    }
    match memory.crc {
        Some(crc) if shelf::crc(&shelf.memory()).map_err(unreadable)? != crc => {
            Err(unusable("its memory is damaged: its bytes are not those that were written"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Loads the memory, and lets the machine go on from there.
async fn load(live: &Live, shelf: &Shelf) -> Result<(), DriverError> {
    let (id, qmp, path) = (live.folder.id(), live.qmp()?, shelf.memory());
    let file = blocking(move || File::open(path)).await;
    let file = file.map_err(|error| storage("the saved memory cannot be opened", &error))?;
    let told = |error| failed(format!("the memory of machine {id} cannot be loaded: {error}"));
    qmp.load_memory(file.into()).await.map_err(told)?;
    let until = Instant::now() + LOAD;
    loop {
        let migration = tokio::select! {
            biased;
            () = live.handle.ended() => return Err(not_loaded(live)),
            migration = qmp.migration() => migration.map_err(told)?,
        };
        match migration.status.as_str() {
            "completed" => break,
            "failed" | "cancelled" => {
                return Err(unusable(format!(
                    "QEMU did not load its memory: {}",
                    migration.error_desc.unwrap_or_default()
                )));
            }
            _ if Instant::now() > until => {
                return Err(failed(format!("the memory of machine {id} takes too long to load")));
            }
            _ => sleep(LOOK).await,
        }
    }
    if qmp.status().await.map_err(told)? != "running" {
        qmp.cont().await.map_err(told)?;
    }
    Ok(())
}

fn not_loaded(live: &Live) -> DriverError {
    unusable(format!("QEMU ended while it loaded the memory{}", super::launch::words(&live.folder)))
}

fn unusable(why: impl std::fmt::Display) -> DriverError {
    DriverError {
        code: Code::SnapshotUnusable,
        detail: format!("the snapshot cannot be restored: {why}"),
        retryable: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer_on(folder: &Folder, above: &Path, below: &str) {
        qcow2::create_overlay(above, &folder.layer(below), DiskFormat::Qcow2, 1 << 30).unwrap();
    }

    #[test]
    fn a_restore_that_was_broken_off_keeps_the_disk_that_the_machine_had_and_the_next_one_begins_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path(), &dir.path().join("run"), VmId(uuid::Uuid::nil()));
        fs::create_dir_all(folder.base()).unwrap();
        fs::write(dir.path().join("image"), [0; 4096]).unwrap();
        let image = dir.path().join("image");
        qcow2::create_overlay(&folder.layer("disk.qcow2"), &image, DiskFormat::Raw, 1 << 30).unwrap();
        let had = folder.layer("disk-1.qcow2");
        layer_on(&folder, &had, "disk.qcow2");
        // Begun, and the agent died: somebody sweeps.
        let above = begin(&folder).unwrap();
        layer_on(&folder, &above, "disk.qcow2");
        sweep(&folder).unwrap();
        assert!(had.exists() && above.exists());
        // Begun anew: what nothing wrote goes, and the machine's own is noted once more.
        let again = begin(&folder).unwrap();
        assert!(again == above && !again.exists() && folder.disk().unwrap() == had);
        // One that was written is the machine's own now.
        layer_on(&folder, &again, "disk.qcow2");
        let wrote = std::process::Command::new("qemu-io").args(["-c", "write 1M 64k"]).arg(&again).output().unwrap();
        assert!(wrote.status.success(), "{wrote:?}");
        let third = begin(&folder).unwrap();
        assert!(third != again && again.exists());
        layer_on(&folder, &third, "disk.qcow2");
        sweep(&folder).unwrap();
        assert!(again.exists() && !had.exists());
        folder.forget_restoring().unwrap();
        sweep(&folder).unwrap();
        assert!(!again.exists() && third.exists());
    }
}
