//! Snapshots of a machine: taken. (Restored: [`super::restore`]. Removed: [`super::removal`].)
//!
//! ```text
//! begun ──memory saved, the machine going on──► its processors stand still ──the new layer is put on top──► they go on
//!   │                                                                                                          │
//!   └─ any failure: they go on, and nothing is left                      the layer below is the snapshot's: whole ◄┘
//! ```
//!
//! The disk is never copied: what the machine wrote becomes a layer that nothing writes any more. A guest's file systems
//! are held for that where its agent can; with memory there is no need, for memory and disk are of one instant. Whatever
//! instant the agent dies at, the next one finds `begun.json` and lets the machine go on ([`Driver::mend`]).

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hostler_model::{SnapshotId, VmId, error::Code, image::DiskFormat, snapshot::Written};
use tokio::time::{Instant, sleep};

use super::{
    Driver, blocking, command,
    error::{disk_full, failed, storage},
    folder::Folder,
    layer,
    machine::Live,
    qcow2,
    qmp::{Qmp, QmpError, Top},
    shelf::{self, Begun, MemoryFile, Shelf, SnapshotFile},
};
use crate::{
    host::file::{present, sync_folder},
    hypervisor::{DriverError, MachinePlan, Phases, SnapshotMade, turns::Turn},
};

/// How long a machine goes on while its memory is saved. One that changes its memory faster than that is written would
/// never come to an end: then its processors stand still for the rest.
const LIVE: Duration = Duration::from_secs(5);

/// Between two looks at how far QEMU is: what a machine stands still longer than it must.
const LOOK: Duration = Duration::from_millis(1);

/// What is being taken.
struct Taking<'a> {
    folder: &'a Folder,
    shelf: &'a Shelf,
    plan: &'a MachinePlan,
    memory: bool,
    phases: &'a Phases,
}

impl Driver {
    pub(super) async fn take_snapshot(
        &self,
        vm: VmId,
        id: SnapshotId,
        memory: bool,
        phases: &Phases,
        _turn: Turn,
    ) -> Result<SnapshotMade, DriverError> {
        let folder = self.folder(vm);
        let shelf = Shelf::new(&folder, id);
        let (known, unread) = (shelf.clone(), |error| storage(format!("snapshot {id} cannot be looked at"), &error));
        if let Some(whole) = blocking(move || known.whole()).await.map_err(unread)? {
            return Ok(whole.made);
        }
        let plan = self.plan(&folder).await?.ok_or_else(|| nothing_of(vm))?;
        let taking = Taking { folder: &folder, shelf: &shelf, plan: &plan, memory, phases };
        let taken = match self.living(&folder).await? {
            Some(live) => self.of_living(&taking, &live).await,
            None => self.of_still(&taking).await,
        };
        if taken.is_err() {
            let left = shelf.clone();
            if let Err(error) = blocking(move || left.remove()).await {
                tracing::warn!(vm.id = %vm, %error, "what is left of a snapshot cannot be removed");
            }
        }
        taken
    }

    /// Of a machine without a process: an empty layer above its disk.
    async fn of_still(&self, taking: &Taking<'_>) -> Result<SnapshotMade, DriverError> {
        if taking.memory {
            return Err(DriverError {
                code: Code::VmStateConflict,
                detail: "the VM is stopped and has no memory to keep; take a snapshot of its disk, or start it first"
                    .to_owned(),
                retryable: false,
            });
        }
        let _ = taking.phases.send("disk");
        let (folder, shelf) = (taking.folder.clone(), taking.shelf.clone());
        let spec = taking.plan.spec.clone();
        let made = tokio::task::spawn_blocking(move || {
            let cannot = |error| storage(format!("a snapshot of machine {} cannot be written", folder.id()), &error);
            let top = folder.disk().map_err(cannot)?;
            not_too_deep(&folder, &top)?;
            shelf.begin(Begun { running: false }).map_err(cannot)?;
            keep_firmware(&folder, &shelf).map_err(cannot)?;
            let above = layer_above(&folder, &top).map_err(cannot)?;
            fail::fail_point!("agent.snapshot.layer");
            let finished = finish(&folder, &shelf, &top, spec, None, (None, 0.0));
            if finished.is_err() {
                // An empty layer says the same as the one below it: to leave it would only cost.
                let _ = std::fs::remove_file(above);
            }
            finished.map_err(cannot)
        });
        made.await.unwrap_or_else(|error| Err(failed(format!("the snapshot was broken off: {error}"))))
    }

    async fn of_living(&self, taking: &Taking<'_>, live: &Arc<Live>) -> Result<SnapshotMade, DriverError> {
        let (id, qmp) = (taking.folder.id(), live.qmp()?);
        let told = |error: QmpError| failed(format!("a snapshot of machine {id} cannot be taken: {error}"));
        let running = qmp.status().await.map_err(told)? == "running";
        let top = qmp.top().await.map_err(told)?;
        let (folder, shelf, below) = (taking.folder.clone(), taking.shelf.clone(), top.file.clone());
        let begun = tokio::task::spawn_blocking(move || {
            let cannot = |error| storage(format!("a snapshot of machine {} cannot be begun", folder.id()), &error);
            remove_above(&folder, &below).map_err(cannot)?;
            not_too_deep(&folder, &below)?;
            shelf.begin(Begun { running }).map_err(cannot)?;
            layer_above(&folder, &below).map_err(cannot)
        });
        let above = begun.await.unwrap_or_else(|error| Err(failed(format!("the snapshot was broken off: {error}"))))?;
        fail::fail_point!("agent.snapshot.begun");
        let held = self.hold(taking, live, qmp, &top, &above, running).await;
        // Whatever came of it, the machine goes on as before.
        let resumed = go_on(live, qmp, running).await;
        let (quiesced, since, memory) = match (held, resumed) {
            (Ok(held), Ok(())) => held,
            (Err(error), _) | (Ok(_), Err(error)) => {
                self.tidy(taking.folder, qmp).await;
                return Err(live.and_frozen(error));
            }
        };
        let paused_ms = since.map_or(0.0, |since: Instant| since.elapsed().as_secs_f64() * 1e3);
        fail::fail_point!("agent.snapshot.taken");
        let (folder, shelf, spec) = (taking.folder.clone(), taking.shelf.clone(), taking.plan.spec.clone());
        let finished = blocking(move || finish(&folder, &shelf, &top.file, spec, memory, (quiesced, paused_ms))).await;
        let made =
            finished.map_err(|error| storage(format!("a snapshot of machine {id} cannot be completed"), &error))?;
        Ok(SnapshotMade { warning: live.still_frozen(), ..made })
    }

    /// From the first byte of memory to the new layer: whether the guest held its file systems, since when the
    /// processors stand still, and the memory.
    async fn hold(
        &self,
        taking: &Taking<'_>,
        live: &Live,
        qmp: &Qmp,
        top: &Top,
        above: &Path,
        running: bool,
    ) -> Result<(Option<bool>, Option<Instant>, Option<MemoryFile>), DriverError> {
        let (mut since, mut memory, mut quiesced) = (None, None, None);
        if taking.memory {
            live.refuse_if_frozen()?;
            let _ = taking.phases.send("memory");
            let downtime = self.save(taking, qmp).await?;
            since = running.then(|| Instant::now() - Duration::from_secs_f64(downtime.max(0.0) / 1e3));
            memory = Some(self.describe(taking, live).await?);
            fail::fail_point!("agent.snapshot.memory");
        } else if running {
            let _ = taking.phases.send("freeze");
            quiesced = Some(live.freeze().await);
            fail::fail_point!("agent.snapshot.frozen");
        }
        let _ = taking.phases.send("disk");
        let (folder, shelf) = (taking.folder.clone(), taking.shelf.clone());
        let kept = blocking(move || keep_firmware(&folder, &shelf)).await;
        kept.map_err(|error| storage("the firmware's memory cannot be kept", &error))?;
        qmp.add_layer(top, above).await.map_err(|error| {
            let detail = format!("no layer can be put on the disk of machine {}: {error}", taking.folder.id());
            if is_full(&detail) { disk_full(detail) } else { failed(detail) }
        })?;
        fail::fail_point!("agent.snapshot.layer");
        Ok((quiesced, since, memory))
    }

    /// Saves the memory; gives how long the processors have stood still since, in milliseconds.
    async fn save(&self, taking: &Taking<'_>, qmp: &Qmp) -> Result<f64, DriverError> {
        let id = taking.folder.id();
        let path = taking.shelf.memory();
        let opened = blocking(move || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)).await;
        let file = opened.map_err(|error| storage(format!("the memory of machine {id} cannot be written"), &error))?;
        let told = |error: QmpError| failed(format!("the memory of machine {id} cannot be saved: {error}"));
        qmp.save_memory(file.into()).await.map_err(told)?;
        let begun = Instant::now();
        let mut stopped = false;
        loop {
            let migration = qmp.migration().await.map_err(told)?;
            match migration.status.as_str() {
                "completed" => return Ok(migration.downtime),
                "failed" | "cancelled" => {
                    let why = migration.error_desc.unwrap_or_else(|| migration.status.clone());
                    return Err(self.not_saved(taking.folder, &why));
                }
                _ if !stopped && begun.elapsed() > LIVE => {
                    qmp.stop().await.map_err(told)?;
                    stopped = true;
                }
                _ => sleep(LOOK).await,
            }
        }
    }

    fn not_saved(&self, folder: &Folder, why: &str) -> DriverError {
        let full = is_full(why) || room(folder).is_ok_and(|bytes| bytes < 1 << 20);
        let detail = format!("the memory of machine {} was not saved: {why}", folder.id());
        if full { disk_full(detail) } else { failed(detail) }
    }

    /// What will be needed to load the memory.
    async fn describe(&self, taking: &Taking<'_>, live: &Live) -> Result<MemoryFile, DriverError> {
        let (path, process) = (taking.shelf.memory(), live.handle.process());
        let seen = blocking(move || Ok((std::fs::metadata(path)?.len(), process.arguments()?))).await;
        let (bytes, arguments) =
            seen.map_err(|error| storage("what the saved memory needs cannot be found out", &error))?;
        let arguments: Vec<String> =
            arguments.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
        Ok(MemoryFile { bytes, crc: None, hypervisor: self.version.clone(), hardware: command::hardware(&arguments) })
    }

    /// Lets a machine go on whose snapshot an earlier agent did not bring to its end; one whose memory it did not wholly
    /// load never ran, and is ended. Says whether the machine is still there.
    pub(super) async fn mend(&self, folder: &Folder, live: &Arc<Live>) -> Result<bool, DriverError> {
        let Some(qmp) = &live.qmp else {
            live.go_on_thawing().await;
            return Ok(true);
        };
        let status = qmp.status().await.map_err(|error| failed(error.to_string()))?;
        if status == "inmigrate" {
            tracing::warn!(vm.id = %folder.id(), "a machine was being restored when the agent before this one ended");
            live.end().await?;
            return Ok(false);
        }
        // A job that nobody watches any more keeps QEMU from changing the disk.
        if let Err(error) = qmp.end_jobs().await {
            tracing::warn!(vm.id = %folder.id(), %error, "what an earlier agent began on a machine's disk cannot be ended");
        }
        let known = folder.clone();
        let half = blocking(move || half_made(&known)).await;
        let half = half.map_err(|error| storage("a machine's snapshots cannot be looked at", &error))?;
        if let Some(begun) = half {
            tracing::warn!(vm.id = %folder.id(), "a snapshot was being taken when the agent before this one ended");
            if qmp.migration().await.is_ok_and(|migration| migration.status == "active") {
                let _ = qmp.stop_saving().await;
            }
            if let Err(error) = go_on(live, qmp, begun.running).await {
                tracing::error!(vm.id = %folder.id(), %error, "a machine does not go on after a snapshot");
            }
        }
        live.go_on_thawing().await;
        Ok(true)
    }

    /// Removes what lies above the layer that QEMU writes. Nothing depends on it.
    async fn tidy(&self, folder: &Folder, qmp: &Qmp) {
        let Ok(top) = qmp.top().await else { return };
        let known = folder.clone();
        if let Err(error) = blocking(move || remove_above(&known, &top.file)).await {
            tracing::warn!(vm.id = %folder.id(), %error, "an unused layer cannot be removed");
        }
    }
}

/// Lets the processors run if they did, and the guest write if it was told to hold its file systems: whatever QEMU says
/// to the first.
async fn go_on(live: &Arc<Live>, qmp: &Qmp, running: bool) -> Result<(), DriverError> {
    if !running {
        return Ok(());
    }
    let runs = async {
        if qmp.status().await? != "running" {
            qmp.cont().await?;
        }
        Ok(())
    };
    let runs = runs.await.map_err(|error: QmpError| {
        let detail = format!("machine {} does not go on after its snapshot: {error}; resume it", live.folder.id());
        failed(detail)
    });
    live.thaw().await;
    runs
}

/// The last snapshot that was begun and is not whole.
fn half_made(folder: &Folder) -> io::Result<Option<Begun>> {
    let mut half = None;
    for (_, shelf) in Shelf::list(folder)? {
        if !shelf.is_there()? {
            half = shelf.begun()?.or(half);
        }
    }
    Ok(half)
}

fn nothing_of(vm: VmId) -> DriverError {
    let detail = format!("there is nothing of machine {vm} on this node");
    DriverError { code: Code::VmStateConflict, detail, retryable: false }
}

pub(super) fn is_full(words: &str) -> bool {
    words.contains("No space left on device") || words.contains("Disk quota exceeded")
}

/// How many bytes are free where the machine lies.
pub(super) fn room(folder: &Folder) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder.base())?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn not_too_deep(folder: &Folder, top: &Path) -> Result<(), DriverError> {
    let depth = folder.chain(top).map_err(|error| storage("the layers of the disk cannot be read", &error))?.len();
    if depth < layer::MOST {
        return Ok(());
    }
    let detail = format!(
        "the disk of machine {} has {depth} layers, as many as it may have; delete a snapshot: that also makes one of \
         those layers that no snapshot needs any more",
        folder.id()
    );
    Err(DriverError { code: Code::SnapshotLimit, detail, retryable: false })
}

/// Layers with a higher number than the one QEMU writes: empty, and nothing's.
pub(super) fn remove_above(folder: &Folder, written: &Path) -> io::Result<()> {
    loop {
        let newest = folder.disk()?;
        if newest == written || !written.try_exists()? {
            return Ok(());
        }
        present(std::fs::remove_file(&newest))?;
        sync_folder(folder.base())?;
    }
}

/// A new layer above this one, empty and lasting.
fn layer_above(folder: &Folder, below: &Path) -> io::Result<PathBuf> {
    let size = qcow2::read_header(below)?.size;
    let above = folder.next_disk()?;
    qcow2::create_overlay(&above, below, DiskFormat::Qcow2, size)?;
    std::fs::File::open(&above)?.sync_all()?;
    sync_folder(folder.base())?;
    Ok(above)
}

fn keep_firmware(folder: &Folder, shelf: &Shelf) -> io::Result<()> {
    if folder.firmware_vars().try_exists()? {
        shelf::copy(&folder.firmware_vars(), &shelf.firmware_vars())?;
    }
    Ok(())
}

/// Writes down that the snapshot is whole.
fn finish(
    folder: &Folder,
    shelf: &Shelf,
    layer: &Path,
    spec: hostler_model::vm::VmSpec,
    memory: Option<MemoryFile>,
    (quiesced, paused_ms): (Option<bool>, f64),
) -> io::Result<SnapshotMade> {
    let name = layer.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let memory_bytes = memory.as_ref().map_or(0, |memory| memory.bytes);
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let written =
        Written { disk_bytes: signed(layer::bytes(&folder.layer(&name))?), memory_bytes: signed(memory_bytes) };
    let made = SnapshotMade { written, quiesced, paused_ms, warning: None };
    let layer_length = std::fs::metadata(folder.layer(&name))?.len();
    // The machine goes on meanwhile.
    let memory = match memory {
        Some(memory) => Some(MemoryFile { crc: Some(shelf::crc(&shelf.memory())?), ..memory }),
        None => None,
    };
    shelf.complete(&SnapshotFile { layer: name, layer_length, spec, memory, made: made.clone() })?;
    Ok(made)
}

/// Removes the layers on which neither the machine nor a snapshot stands, nor a restore that may still fail.
pub(super) fn sweep(folder: &Folder) -> io::Result<()> {
    let newest = folder.disk()?;
    if !newest.try_exists()? || folder.unsure()?.is_some() {
        return Ok(());
    }
    let mut needed = shelf::layers(folder)?;
    needed.push(newest);
    let before = folder.restoring()?.map(|restoring| folder.layer(&restoring.before));
    needed.extend(before.filter(|before| before.exists()));
    folder.sweep_layers(&needed).map(drop)
}
