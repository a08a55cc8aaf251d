//! Hypervisors: what a driver must be able to do. Two live here: [`qemu`] runs real machines, [`sim`] pretends to.
//!
//! A driver keeps no state that matters in memory: what it must remember of a machine lies in the machine's folder, so
//! that an agent that died can attach again. Nothing here knows tasks, leases or the server.

pub mod qemu;
pub mod seed;
pub mod sim;
mod turns;

use std::{fmt, path::PathBuf, time::Duration};

use async_trait::async_trait;
use hostler_model::{
    ImageDigest, SnapshotId, VmId,
    error::Code,
    image::Manifest,
    kind::{VmExecOutput, VmExecParams},
    snapshot::Written,
    vm::VmSpec,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};

use self::seed::Seed;

/// What a machine is made of, with its image already in the node's cache.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MachinePlan {
    /// Which machine.
    pub id: VmId,
    /// Its placement's epoch: an older one is refused.
    pub epoch: u32,
    /// Its name, for the process title and the guest's host name.
    pub name: String,
    /// Its size.
    pub spec: VmSpec,
    /// Its image.
    pub manifest: Manifest,
    /// The folder that holds the image's files by the names of their parts.
    pub image_dir: PathBuf,
    /// What its guest is told at its first boot, where its spec says that it is told anything. Needed to make it only.
    #[serde(skip)]
    pub seed: Option<Seed>,
}

impl MachinePlan {
    /// How long its guest may take to answer.
    pub fn ready_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.spec.ready_timeout_seconds))
    }
}

/// What went wrong in a driver.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct DriverError {
    /// By code: HYPERVISOR_FAILED, GUEST_NOT_READY, GUEST_FAILED, NODE_STORAGE_FULL, INJECTED …
    pub code: Code,
    /// What happened, to what, why, and what to do next; the console's last lines where they help.
    pub detail: String,
    /// Whether another attempt may help.
    pub retryable: bool,
}

/// Why a machine's process ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// The guest turned itself off.
    GuestShutdown,
    /// We told it to.
    Requested,
    /// We told it to, because its host was going down.
    HostGoesDown,
    /// By itself: a signal, an error; with what is known.
    Crashed(String),
    /// The host it ran on was turned off or restarted.
    HostWentDown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::GuestShutdown => f.write_str("the guest turned itself off"),
            Exit::Requested => f.write_str("it was told to end"),
            Exit::HostGoesDown => f.write_str("it was told to end, because its host was going down"),
            Exit::Crashed(detail) => f.write_str(detail),
            Exit::HostWentDown => f.write_str("its host went down"),
        }
    }
}

/// What the processors of a machine whose process lives are doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// They run.
    Running,
    /// They are held.
    Paused,
    /// They are held by the hypervisor, because the host could not read or write the machine's disk. What failed is tried
    /// again when they are let go.
    IoError,
}

/// What came of asking a guest to restart itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// It has begun anew.
    Begun,
    /// It turned itself off instead: the process has ended.
    Off,
    /// Nothing, in the time it was given.
    Ignored,
}

/// A snapshot that was taken.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SnapshotMade {
    /// How much it has on this host.
    pub written: Written,
    /// Whether the guest's file systems were held; nothing where that was not tried.
    pub quiesced: Option<bool>,
    /// How long the machine's processors stood still, in milliseconds.
    pub paused_ms: f64,
    /// How the machine was left, where somebody should know of it.
    #[serde(skip)]
    pub warning: Option<String>,
}

/// A snapshot that was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotRemoved {
    /// Whether there was anything.
    pub existed: bool,
    /// Whether its layer of the disk is still there, because something stands on it.
    pub layer_left: bool,
}

/// What a machine's disk is once it is as flat as it can be.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Flat {
    /// Whether the layer of the snapshot that was removed stays, because several others stand on it.
    pub layer_kept: bool,
    /// How much of the disk each of the machine's snapshots answers for now, in bytes.
    pub shares: Vec<(SnapshotId, u64)>,
}

/// A machine that runs from a snapshot.
pub struct Restored {
    /// Its new process.
    pub machine: Box<dyn Machine>,
    /// Whether its memory was restored: otherwise it boots.
    pub memory: bool,
    /// When the process before it was gone.
    pub since: Instant,
}

/// What a machine's process was started with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Runs {
    /// Virtual processors.
    pub vcpus: i64,
    /// Memory, in MiB.
    pub memory_mib: i64,
}

/// What became of an edit.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// What the machine is to be, as its folder says now; every port is chosen.
    pub plan: MachinePlan,
    /// What its process runs with, where one lives.
    pub runs: Option<Runs>,
}

impl Applied {
    /// Whether something waits for the next start.
    pub fn is_behind(&self) -> bool {
        let wanted = Runs { vcpus: self.plan.spec.vcpus, memory_mib: self.plan.spec.memory_mib };
        self.runs.is_some_and(|runs| runs != wanted)
    }
}

/// An edit that was not made.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotApplied {
    /// Why not.
    pub error: DriverError,
    /// Whether something of it is left.
    pub left: bool,
}

impl From<DriverError> for NotApplied {
    /// Before anything was done.
    fn from(error: DriverError) -> Self {
        NotApplied { error, left: false }
    }
}

/// What a driver found of a machine when the agent started.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// Which machine.
    pub id: VmId,
    /// The epoch in its folder.
    pub epoch: u32,
    /// The image it is made of, where that is known.
    pub image: Option<ImageDigest>,
    /// Whether its process lives.
    pub alive: bool,
    /// Whether the making of it was completed (the guest answered once).
    pub complete: bool,
    /// Whether the guest has answered since its process began.
    pub answered: bool,
    /// How its process ended, as far as it is known: what [`Hypervisor::note_end`] wrote down, that the host went down
    /// under it, or what the process left behind.
    pub ended: Option<Exit>,
}

/// What a driver found on its host.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Finds {
    /// The machines.
    pub found: Vec<Found>,
    /// Those of which there is something, and it cannot be said what.
    pub unread: Vec<VmId>,
}

/// A phase of a driver's work, for progress and timing: sent when it begins.
pub type Phases = mpsc::UnboundedSender<&'static str>;

/// How much of a driver's long work is done, in percent.
pub type Percents = mpsc::UnboundedSender<u8>;

/// A hypervisor on this host.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// Name and version, such as `qemu 7.2.22`.
    fn version(&self) -> String;

    /// `kvm`, `tcg` or `simulated`.
    fn acceleration(&self) -> &str;

    /// Why nothing faster.
    fn acceleration_reason(&self) -> &str;

    /// Makes the machine's folder, disk and process, and returns once the process answers its control socket: phases
    /// `disk`, `start`. What a failed call did is left for [`Hypervisor::remove`] to clean. Called again for a machine
    /// that is there, it does what is missing only: one process at the most ever exists for one machine.
    async fn create(&self, plan: &MachinePlan, phases: &Phases) -> Result<Box<dyn Machine>, DriverError>;

    /// What a machine is, as its folder says; `None` where that was never written down.
    async fn plan(&self, id: VmId) -> Result<Option<MachinePlan>, DriverError>;

    /// Starts the process of a machine whose folder is complete, and returns once it answers its control socket: phase
    /// `start`. What is started is what the plan says (by [`Hypervisor::plan`]), on the disk that is there. One whose
    /// process lives is taken hold of as it is.
    async fn start(&self, plan: &MachinePlan, phases: &Phases) -> Result<Box<dyn Machine>, DriverError>;

    /// Makes a machine that is complete what the plan says, in its folder and, where its process lives and can take it, at
    /// once: the disk, which only grows, and the port forwards; processors, memory and name are for the next start. Done
    /// twice it comes to the same. It runs to its end; one that fails takes back what it did.
    async fn edit(&self, plan: &MachinePlan) -> Result<Applied, NotApplied>;

    /// Whether a machine's process runs with something else than its folder says now.
    async fn behind(&self, id: VmId) -> Result<bool, DriverError>;

    /// Remembers how a machine's process ended, until it is started again. Nothing is written while one lives.
    async fn note_end(&self, id: VmId, exit: &Exit) -> Result<(), DriverError>;

    /// Takes hold of a machine that an earlier agent made; `None` when its process does not live. An error means that
    /// this is not known.
    async fn attach(&self, id: VmId) -> Result<Option<Box<dyn Machine>>, DriverError>;

    /// Ends the machine's process if it lives and removes all that the machine had; says whether there was anything.
    /// It may be called at any time and any number of times, also for what was half made.
    async fn remove(&self, id: VmId) -> Result<bool, DriverError>;

    /// Takes a snapshot of a machine's disk, or of its memory and its disk, and lets the machine go on: phases `memory` or
    /// `freeze`, `disk`. One that is there whole is answered as it was made; of one that fails nothing is left.
    async fn take_snapshot(
        &self,
        vm: VmId,
        id: SnapshotId,
        memory: bool,
        phases: &Phases,
    ) -> Result<SnapshotMade, DriverError>;

    /// Puts a machine back to a snapshot: phases `check`, `stop`, `disk`, `start`. A snapshot that cannot be used leaves
    /// the machine alone; when the restored machine does not start, it is stopped and its disk is as it was.
    async fn restore(&self, vm: VmId, id: SnapshotId, phases: &Phases) -> Result<Restored, DriverError>;

    /// Removes a snapshot, or what is left of one: it cannot be restored from then on. A layer of the disk on which
    /// something stands is left for [`Hypervisor::flatten`], and the snapshot counts as there until then.
    async fn remove_snapshot(&self, vm: VmId, id: SnapshotId) -> Result<SnapshotRemoved, DriverError>;

    /// Makes the layers of a machine's disk that no snapshot needs any more part of those that stand on them, and forgets
    /// a snapshot that was removed. It may take long; nothing else that is done to the machine waits for it. Dropping the
    /// future gives it up where it is, and the same again goes on from there.
    async fn flatten(&self, vm: VmId, removed: SnapshotId, percents: &Percents) -> Result<Flat, DriverError>;

    /// Every snapshot of which there is something on this host that takes room.
    async fn snapshots(&self) -> Result<Vec<SnapshotId>, DriverError>;

    /// Every machine of which there is anything on this host.
    async fn find(&self) -> Result<Finds, DriverError>;
}

/// A machine whose process lives. Dropping it lets go of the machine, which goes on running.
#[async_trait]
pub trait Machine: Send + Sync {
    /// Waits until the guest answers, or shows itself as its spec says, and marks the machine's folder complete.
    async fn ready(&self, timeout: Duration) -> Result<(), DriverError>;

    /// Waits, once [`Machine::ready`] has returned, until the machine is ready in the way that its spec says; or says
    /// why it will not be although its guest runs.
    async fn settled(&self, timeout: Duration) -> Result<Option<String>, DriverError>;

    /// Whether the guest answers now.
    async fn answers(&self) -> bool;

    /// Runs a program in the guest. Dropping the future stops waiting and ends the program where that can be done.
    async fn exec(&self, params: &VmExecParams) -> Result<VmExecOutput, DriverError>;

    /// Waits until the process has ended, and says why.
    async fn exited(&self) -> Exit;

    /// What its processors are doing now.
    async fn power(&self) -> Result<Power, DriverError>;

    /// Waits until its processors do something else than this, whoever made them, and says what.
    async fn turned(&self, known: Power) -> Power;

    /// Holds its processors. One that is held already stays so.
    async fn pause(&self) -> Result<(), DriverError>;

    /// Lets its processors run. They may run already.
    async fn resume(&self) -> Result<(), DriverError>;

    /// Asks the guest to turn itself off: through its agent, or by the power button. That it was asked says nothing
    /// about what it does.
    async fn shutdown(&self) -> Result<(), DriverError>;

    /// Ends the process as pulling the plug does, and returns when it is gone. Its disk is whole; what the guest had
    /// not written there is lost.
    async fn end(&self) -> Result<(), DriverError>;

    /// Asks the guest to restart itself, through its agent or by the power button, and waits for that so long.
    async fn reboot(&self, patience: Duration) -> Result<Restart, DriverError>;

    /// Restarts the machine as its reset button does.
    async fn reset(&self) -> Result<(), DriverError>;

    /// Sets the guest's clock, in nanoseconds since the Unix epoch; says whether the guest did.
    async fn set_clock(&self, now: i64) -> bool;

    /// Milliseconds between the process's start and the guest's first answer, once [`Machine::ready`] has returned.
    fn boot_ms(&self) -> f64;

    /// The process's id on this host, where there is a process.
    fn pid(&self) -> Option<i32> {
        None
    }
}
