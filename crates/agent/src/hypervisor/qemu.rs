//! The QEMU driver: real machines, each a QEMU process of its own that outlives the agent.
//!
//! ```text
//! nothing ──spec.json──► folder ──overlay──► disk ──setsid qemu──► process ──recorded, QMP answers──► machine
//!    ▲                      │                  │                      │                                  │
//!    └───────── remove: end the process, rename the folder, delete it ◄──────────────────────────────────┘
//! ```
//!
//! Whatever instant an agent dies at, the next one finds in the folder, the pidfile or /proc what is there, and either
//! goes on from it or removes it: there are never two processes for one machine, and none that nobody finds. What is
//! begun here runs to its end even when the caller goes away; to undo it is [`Hypervisor::remove`]'s work, which waits
//! for its turn. Nothing here knows tasks, leases or the server.

mod accel;
mod clusters;
mod command;
mod config;
mod console;
mod disk;
mod edit;
mod error;
mod firmware;
mod flatten;
mod folder;
mod frozen;
mod launch;
mod layer;
mod logs;
mod machine;
mod power;
mod qcow2;
mod qmp;
mod ready;
mod removal;
mod restore;
mod seek;
mod shelf;
mod snapshot;
mod surrogate;
mod witness;

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use hostler_model::{SnapshotId, VmId, error::Code};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::{accel::Accel, config::QemuConfig};
use self::{
    accel::Acceleration,
    error::{failed, refused, storage},
    firmware::Uefi,
    folder::Folder,
    launch::{Started, Status, ended_at_start},
    machine::{Live, QemuMachine},
    qmp::Qmp,
    seek::{Census, seek, seek_in},
};
use super::{
    Applied, DriverError, Exit, Finds, Flat, Found, Hypervisor, Machine, MachinePlan, NotApplied, Percents, Phases,
    Restored, SnapshotMade, SnapshotRemoved, turns::Turns,
};
use crate::{
    guest::Guest,
    host::{Process, file::present, process::TICKS_PER_SECOND},
};

/// How long QEMU may take from its start to its first answer. It takes 50 ms; a node that starts many at once, or reads
/// the kernel from a slow disk, takes seconds.
const START: Duration = Duration::from_secs(30);

/// How long a QEMU that has been running may take to answer: at once, unless it hangs or another client has its socket.
const ATTACH: Duration = Duration::from_secs(5);

/// How long what is being done to a machine may take to be done, before the machine is ended under it to be removed.
const BY_ITSELF: Duration = Duration::from_secs(10);

const GIB: u64 = 1 << 30;

/// The driver. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Qemu(Arc<Driver>);

#[derive(Debug)]
struct Driver {
    data: PathBuf,
    run: PathBuf,
    binary: PathBuf,
    version: String,
    acceleration: Acceleration,
    /// Looked for once: an agent that is to find it later is started again.
    uefi: Option<Uefi>,
    turns: Turns,
    /// Held while a disk is flattened.
    flattening: tokio::sync::Mutex<()>,
    live: Mutex<HashMap<VmId, Weak<Live>>>,
}

impl Qemu {
    /// Makes the folders, asks QEMU for its version and decides on the acceleration. It blocks for some 50 ms.
    ///
    /// # Errors
    /// When QEMU or `setsid` cannot be found or run, or the folders cannot be made.
    pub fn new(config: QemuConfig) -> Result<Qemu, DriverError> {
        Ok(Qemu(Arc::new(config.driver()?)))
    }

    /// The whole command line with which a machine would be started, for those who start one by hand.
    ///
    /// # Errors
    /// For a plan that cannot be started.
    pub fn command_line(&self, plan: &MachinePlan) -> Result<Vec<OsString>, DriverError> {
        let arguments = command::arguments(plan, &self.0.folder(plan.id), &self.0.acceleration, self.0.uefi.as_ref())?;
        Ok(std::iter::once(self.0.binary.clone().into_os_string()).chain(arguments).collect())
    }
}

/// Runs file operations where they may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Runs work to its end even when the caller goes away: half of it, without its turn, would meet the next one.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, DriverError>> + Send + 'static,
) -> Result<T, DriverError> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(failed(format!("the driver's work was broken off: {error}"))))
}

#[async_trait]
impl Hypervisor for Qemu {
    fn version(&self) -> String {
        self.0.version.clone()
    }

    fn acceleration(&self) -> &str {
        self.0.acceleration.name()
    }

    fn acceleration_reason(&self) -> &str {
        &self.0.acceleration.reason
    }

    async fn create(&self, plan: &MachinePlan, phases: &Phases) -> Result<Box<dyn Machine>, DriverError> {
        let (driver, plan, phases) = (Arc::clone(&self.0), plan.clone(), phases.clone());
        let live = whole(async move { driver.create(&plan, &phases).await }).await?;
        Ok(Box::new(QemuMachine(live)))
    }

    async fn plan(&self, id: VmId) -> Result<Option<MachinePlan>, DriverError> {
        self.0.plan(&self.0.folder(id)).await
    }

    async fn start(&self, plan: &MachinePlan, phases: &Phases) -> Result<Box<dyn Machine>, DriverError> {
        let (driver, plan, phases) = (Arc::clone(&self.0), plan.clone(), phases.clone());
        let live = whole(async move { driver.start(&plan, &phases).await }).await?;
        Ok(Box::new(QemuMachine(live)))
    }

    async fn edit(&self, plan: &MachinePlan) -> Result<Applied, NotApplied> {
        let (driver, plan) = (Arc::clone(&self.0), plan.clone());
        let broken = |error| NotApplied { error: failed(format!("the edit was broken off: {error}")), left: true };
        tokio::spawn(async move { driver.edit(&plan).await }).await.unwrap_or_else(|error| Err(broken(error)))
    }

    async fn behind(&self, id: VmId) -> Result<bool, DriverError> {
        self.0.behind(id).await
    }

    async fn note_end(&self, id: VmId, exit: &Exit) -> Result<(), DriverError> {
        let (driver, exit) = (Arc::clone(&self.0), exit.clone());
        whole(async move { driver.note_end(id, exit).await }).await
    }

    async fn attach(&self, id: VmId) -> Result<Option<Box<dyn Machine>>, DriverError> {
        let _turn = self.0.turns.wait(id).await;
        let folder = self.0.folder(id);
        let mut live = self.0.living(&folder).await?;
        if let Some(held) = &live
            && !self.0.mend(&folder, held).await?
        {
            live = None;
        }
        if live.is_some() {
            restore::settled(&folder).await;
        }
        Ok(live.map(|live| Box::new(QemuMachine(live)) as Box<dyn Machine>))
    }

    async fn remove(&self, id: VmId) -> Result<bool, DriverError> {
        let driver = Arc::clone(&self.0);
        whole(async move { driver.remove(id).await }).await
    }

    async fn take_snapshot(
        &self,
        vm: VmId,
        id: SnapshotId,
        memory: bool,
        phases: &Phases,
    ) -> Result<SnapshotMade, DriverError> {
        let (driver, phases) = (Arc::clone(&self.0), phases.clone());
        // Its place among those that are at the machine is that of this call.
        let turn = driver.turns.wait(vm).await;
        whole(async move { driver.take_snapshot(vm, id, memory, &phases, turn).await }).await
    }

    async fn restore(&self, vm: VmId, id: SnapshotId, phases: &Phases) -> Result<Restored, DriverError> {
        let (driver, phases) = (Arc::clone(&self.0), phases.clone());
        let back = whole(async move { driver.restore(vm, id, &phases).await }).await?;
        Ok(Restored { machine: Box::new(QemuMachine(back.live)), memory: back.memory, since: back.since })
    }

    async fn remove_snapshot(&self, vm: VmId, id: SnapshotId) -> Result<SnapshotRemoved, DriverError> {
        let driver = Arc::clone(&self.0);
        whole(async move { driver.remove_snapshot(vm, id).await }).await
    }

    async fn flatten(&self, vm: VmId, id: SnapshotId, percents: &Percents) -> Result<Flat, DriverError> {
        let driver = Arc::clone(&self.0);
        let (percents, given_up) = (percents.clone(), CancellationToken::new());
        let watch = flatten::Watch { percents, given_up, reserve: flatten::RESERVE };
        let _gives_up = watch.given_up.clone().drop_guard();
        whole(async move { driver.flatten(vm, id, &watch).await }).await
    }

    async fn snapshots(&self) -> Result<Vec<SnapshotId>, DriverError> {
        let driver = Arc::clone(&self.0);
        let found = blocking(move || driver.snapshots()).await;
        found.map_err(|error| storage("the snapshots of this node cannot be listed", &error))
    }

    async fn find(&self) -> Result<Finds, DriverError> {
        let driver = Arc::clone(&self.0);
        let found = blocking(move || driver.find()).await;
        found.map_err(|error| storage("the machines of this node cannot be listed", &error))
    }
}

impl Driver {
    fn folder(&self, id: VmId) -> Folder {
        Folder::new(&self.data, &self.run, id)
    }

    async fn create(&self, plan: &MachinePlan, phases: &Phases) -> Result<Arc<Live>, DriverError> {
        let folder = self.folder(plan.id);
        command::check(plan, self.uefi.as_ref())?;
        if let Some(path) = folder.overlong_socket() {
            return Err(refused(format!(
                "the socket's path {} is longer than 107 bytes; choose a shorter run folder",
                path.display()
            )));
        }
        let _turn = self.turns.wait(plan.id).await;
        let _ = phases.send("disk");
        if let Some(live) = self.earlier(plan, &folder).await? {
            return Ok(live);
        }
        let plan = &edit::with_ports(plan, &[])?;
        self.prepare(plan, &folder).await?;
        let _ = phases.send("start");
        let arguments = command::arguments(plan, &folder, &self.acceleration, self.uefi.as_ref())?;
        self.launch(&folder, &arguments).await
    }

    /// What an earlier call left of this machine: its process, if it lives. An older epoch's is an earlier life of the
    /// machine and goes; a newer epoch's means that this call comes too late.
    async fn earlier(&self, plan: &MachinePlan, folder: &Folder) -> Result<Option<Arc<Live>>, DriverError> {
        let (made, known) = (folder.clone(), folder.clone());
        let unreadable = |error| storage(format!("the folder of machine {} cannot be used", plan.id), &error);
        if blocking(move || made.make()).await.map_err(unreadable)? {
            return Ok(None);
        }
        match blocking(move || known.spec()).await.map_err(unreadable)? {
            Some(spec) if spec.epoch > plan.epoch => Err(DriverError {
                code: Code::TaskRefused,
                detail: format!("machine {} is here under epoch {}, and {} is older", plan.id, spec.epoch, plan.epoch),
                retryable: false,
            }),
            Some(spec) if spec.epoch < plan.epoch => {
                self.clear(folder).await?;
                let made = folder.clone();
                blocking(move || made.make()).await.map_err(unreadable)?;
                Ok(None)
            }
            _ => self.living(folder).await,
        }
    }

    /// Starts the process and takes hold of it. One that cannot be taken hold of is ended: it would be nobody's.
    async fn launch(&self, folder: &Folder, arguments: &[OsString]) -> Result<Arc<Live>, DriverError> {
        fail::fail_point!("agent.qemu.before_start");
        let started = launch::spawn(&self.binary, arguments, folder)?;
        fail::fail_point!("agent.qemu.after_start");
        match self.take_up(folder, &started).await {
            Ok(live) => Ok(self.share(live)),
            Err(error) => Err(started.end(error).await),
        }
    }

    /// Writes down which process it is, and waits until it answers.
    async fn take_up(&self, folder: &Folder, started: &Started) -> Result<Live, DriverError> {
        let (recorded, process) = (folder.clone(), started.process);
        let record = blocking(move || launch::record(&recorded, process)).await;
        record.map_err(|error| {
            storage(format!("the process of machine {} cannot be written down", folder.id()), &error)
        })?;
        fail::fail_point!("agent.qemu.after_record");
        let live = self.take_hold(folder, process, Some(started.status.clone())).await?;
        let mut live = live.ok_or_else(|| ended_at_start(folder))?;
        live.began_ms = started.began_ms;
        live.qmp = Some(answering(&live, folder).await?);
        Ok(live)
    }

    /// The machine's process, if it lives: as it is already held, or anew.
    async fn living(&self, folder: &Folder) -> Result<Option<Arc<Live>>, DriverError> {
        let sought = folder.clone();
        let unknown = |error| storage(format!("the process of machine {} cannot be looked for", folder.id()), &error);
        if let Some(live) = self.held(folder.id()).map_err(unknown)? {
            return Ok(Some(live));
        }
        let Some(process) = blocking(move || seek(&sought)).await.map_err(unknown)? else { return Ok(None) };
        let Some(mut live) = self.take_hold(folder, process, None).await? else { return Ok(None) };
        // The agent that started it may have died before it wrote this down; the folder may be gone.
        let recorded = folder.clone();
        if let Err(error) = blocking(move || present(launch::record(&recorded, process))).await {
            tracing::warn!(vm.id = %folder.id(), %error, "the process of a machine cannot be written down; it is found without that");
        }
        match Qmp::connect(&folder.qmp(), ATTACH).await {
            Ok(qmp) => live.qmp = Some(qmp),
            Err(error) => {
                tracing::warn!(vm.id = %folder.id(), %error, "a running machine's control socket does not answer")
            }
        }
        Ok(Some(self.share(live)))
    }

    /// `None` when the process is gone. An error says nothing about that: whoever takes it for gone would remove a
    /// machine that lives.
    async fn take_hold(
        &self,
        folder: &Folder,
        process: Process,
        status: Option<Status>,
    ) -> Result<Option<Live>, DriverError> {
        let handle = process.open().map_err(|error| storage("no hold of QEMU can be taken (pidfd)", &error))?;
        let Some(handle) = handle else { return Ok(None) };
        let known = folder.clone();
        let complete = blocking(move || known.complete()).await.unwrap_or_default();
        let complete = complete.filter(|complete| complete.process == process);
        Ok(Some(Live {
            folder: folder.clone(),
            handle,
            qmp: None,
            guest: Arc::new(Guest::new(&folder.agent())),
            status,
            began_ms: process.start_time as f64 * 1e3 / TICKS_PER_SECOND as f64,
            boot_ms: complete.map_or_else(OnceLock::new, |complete| complete.boot_ms.into()),
            requested: AtomicBool::new(false),
            thawing: AtomicBool::new(false),
            telling: tokio::sync::Mutex::default(),
        }))
    }

    fn held(&self, id: VmId) -> io::Result<Option<Arc<Live>>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).get(&id).and_then(Weak::upgrade);
        let Some(live) = live else { return Ok(None) };
        Ok(live.handle.process().alive()?.then_some(live))
    }

    fn share(&self, live: Live) -> Arc<Live> {
        let live = Arc::new(live);
        let mut all = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, live| live.strong_count() > 0);
        all.insert(live.folder.id(), Arc::downgrade(&live));
        tokio::spawn(logs::keep_short(Arc::downgrade(&live)));
        live
    }

    async fn remove(&self, id: VmId) -> Result<bool, DriverError> {
        let _turn = match timeout(BY_ITSELF, self.turns.wait(id)).await {
            Ok(turn) => turn,
            // Whoever is at it may wait for a process that does not answer: it has nothing to wait for without one.
            Err(_) => {
                if let Ok(Some(live)) = self.held(id) {
                    live.end().await?;
                }
                self.turns.wait(id).await
            }
        };
        self.clear(&self.folder(id)).await
    }

    async fn clear(&self, folder: &Folder) -> Result<bool, DriverError> {
        fail::fail_point!("agent.qemu.before_kill");
        let live = self.living(folder).await?;
        if let Some(live) = &live {
            live.end().await?;
        }
        fail::fail_point!("agent.qemu.after_kill");
        let removed = folder.clone();
        let removed = blocking(move || removed.remove()).await;
        let removed = removed
            .map_err(|error| storage(format!("the folder of machine {} cannot be removed", folder.id()), &error))?;
        Ok(removed || live.is_some())
    }

    fn find(&self) -> io::Result<Finds> {
        let census = Census::take()?;
        let mut ids = Folder::list(&self.data)?;
        ids.extend(census.pidfiles().filter_map(|pidfile| Folder::owner(&self.data, pidfile)));
        ids.sort();
        ids.dedup();
        let mut finds = Finds::default();
        for id in ids {
            match self.look(id, &census) {
                Ok(found) => finds.found.push(found),
                Err(error) => {
                    tracing::error!(vm.id = %id, %error, "a machine's folder cannot be read");
                    finds.unread.push(id);
                }
            }
        }
        Ok(finds)
    }

    fn look(&self, id: VmId, census: &Census) -> io::Result<Found> {
        let folder = self.folder(id);
        let (process, complete) = (seek_in(&folder, census)?, folder.complete()?);
        let spec = folder.spec()?;
        Ok(Found {
            id,
            epoch: spec.as_ref().map_or(0, |spec| spec.epoch),
            image: spec.map(|spec| spec.spec.image_digest),
            alive: process.is_some(),
            complete: complete.is_some(),
            answered: complete.is_some_and(|complete| Some(complete.process) == process && !complete.not_ready),
            ended: if process.is_none() { power::how_it_ended(&folder)? } else { None },
        })
    }
}

/// Waits until a QEMU that was just started answers, or has ended.
async fn answering(live: &Live, folder: &Folder) -> Result<Qmp, DriverError> {
    let socket = folder.qmp();
    let connected = tokio::select! {
        biased;
        () = live.handle.ended() => return Err(ended_at_start(folder)),
        connected = Qmp::connect(&socket, START) => connected,
    };
    connected.map_err(|error| {
        failed(format!("QEMU of machine {} was started, but: {error}{}", folder.id(), launch::words(folder)))
    })
}

#[cfg(test)]
mod tests;
