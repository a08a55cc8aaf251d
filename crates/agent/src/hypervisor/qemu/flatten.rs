//! Flattening: a layer that no snapshot names any more, and on which exactly one other stands, becomes part of that one.
//!
//! ```text
//! image ◄── disk.qcow2 ◄── disk-1.qcow2 ◄── disk-2.qcow2        disk-1 was a snapshot's, and is nobody's now
//!                               └── what disk-2 lacks of it is copied up; then disk-2 stands on disk.qcow2, and disk-1 goes
//! ```
//!
//! Data goes up, never down: a layer then says the same to who reads it at each instant, before, during and after, and
//! keeps its name; a layer on which two stand stays. QEMU copies: the machine's own where the layer is of what it has
//! open, and otherwise one without a machine, which ends with us. It may change what the upper layer stands on only when
//! that layer's own tables, in its file, cover the lower one's ([`clusters::covers`]): QEMU keeps tables in memory, and
//! both it and its host may die at any instant. Nor is the host believed before it has written all of it
//! ([`super::witness`]). What was copied before a death or a stop is not copied again. Nothing is copied that would fill
//! the host's disk.
//!
//! It takes its turn at the machine as everybody does, and lets whoever waits by within milliseconds: nothing that is done
//! to a machine waits for a copy.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use hostler_model::{SnapshotId, VmId, error::Code};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Driver, blocking, clusters,
    error::{disk_full, failed, storage},
    folder::Folder,
    machine::Live,
    qmp::{Job, Qmp, QmpError},
    removal::{forget, top},
    shelf,
    snapshot::{is_full, remove_above, room, sweep},
    surrogate::Surrogate,
    witness::{Witness, Witnesses, refuse_if_unsure},
};
use crate::hypervisor::{DriverError, Flat, Percents, turns::Turn};

/// How fast it is copied, in bytes a second: guests read and write beside it.
const SPEED: u64 = 256 << 20;

/// Between two looks at how far it is, where nothing else happens.
const LOOK: Duration = Duration::from_secs(1);

/// How long the process of a machine that was stopped may take to be gone.
const ENDING: Duration = Duration::from_secs(2);

/// Between two times that what was copied is written out, and that the host's room is looked at. At [`SPEED`], so much
/// is copied meanwhile that writing it out takes a moment.
const WRITE_OUT: Duration = Duration::from_secs(2);

/// How much of the host's disk stays free, in bytes: on a full one every machine is held. It is more than is copied in
/// [`WRITE_OUT`].
pub(super) const RESERVE: u64 = 1 << 30;

/// The name of the job.
const JOB: &str = "flatten";

/// Who wants to know how far it is, and may give it up.
pub(super) struct Watch {
    pub(super) percents: Percents,
    pub(super) given_up: CancellationToken,
    /// How much of the host's disk is to stay free, in bytes.
    pub(super) reserve: u64,
}

/// What is to become part of what.
struct Pair {
    upper: PathBuf,
    lower: PathBuf,
}

/// A layer that becomes part of another, and who does it.
struct Work<'a> {
    folder: &'a Folder,
    qmp: &'a Qmp,
    /// By which QEMU knows the upper layer.
    node: &'a str,
    pair: &'a Pair,
    /// The upper layer's.
    witness: Arc<Witness>,
    watch: &'a Watch,
}

/// What came of a turn at it.
enum Came {
    /// Nothing is left to be flattened.
    Flat,
    /// One layer less, or somebody else wanted the turn.
    More,
}

impl Driver {
    /// Flattens all that can be of a machine's disk, then forgets the snapshot for whose sake it was.
    pub(super) async fn flatten(&self, vm: VmId, id: SnapshotId, watch: &Watch) -> Result<Flat, DriverError> {
        // Who has nothing to copy does not wait for others that do.
        if !self.is_flat(vm).await? {
            self.flatten_all(vm, watch).await?;
        }
        fail::fail_point!("agent.flatten.flat");
        let folder = self.folder(vm);
        let _turn = self.turns.wait(vm).await;
        let (layer_kept, shares) = blocking(move || forget(&folder, id))
            .await
            .map_err(|error| storage(format!("snapshot {id} of machine {vm} cannot be forgotten"), &error))?;
        Ok(Flat { layer_kept, shares })
    }

    async fn is_flat(&self, vm: VmId) -> Result<bool, DriverError> {
        let folder = self.folder(vm);
        let _turn = self.turns.wait(vm).await;
        let live = self.living(&folder).await?;
        Ok(next(&folder, live.as_deref()).await?.is_none())
    }

    async fn flatten_all(&self, vm: VmId, watch: &Watch) -> Result<(), DriverError> {
        // One disk at a time: they are on the same one of the host.
        let _alone = tokio::select! {
            alone = self.flattening.lock() => alone,
            () = watch.given_up.cancelled() => return Err(given_up(vm)),
        };
        let mut witnesses = Witnesses::default();
        let flattened = loop {
            match self.flatten_once(vm, watch, &mut witnesses).await {
                Ok(Came::More) if watch.given_up.is_cancelled() => break Err(given_up(vm)),
                Ok(Came::More) => {}
                Ok(Came::Flat) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // What is copied and stays so: whoever goes on from it later would not hear that it was not written.
        let written = blocking(move || witnesses.sync()).await;
        flattened
            .and(written.map_err(|error| storage(format!("the disk of machine {vm} was not wholly written"), &error)))
    }

    /// One layer of it, unless somebody else wants a turn meanwhile.
    async fn flatten_once(&self, vm: VmId, watch: &Watch, witnesses: &mut Witnesses) -> Result<Came, DriverError> {
        let folder = self.folder(vm);
        let turn = self.turns.wait(vm).await;
        let live = self.living(&folder).await?;
        let Some(pair) = next(&folder, live.as_deref()).await? else { return Ok(Came::Flat) };
        let witness = witnesses
            .of(&folder, &pair.upper)
            .await
            .map_err(|error| storage(format!("a layer of machine {vm} cannot be opened"), &error))?;
        let at_work = async {
            let node = match &live {
                Some(live) => live.qmp()?.node(&pair.upper).await.map_err(|error| not_flattened(vm, &error))?,
                None => None,
            };
            if let (Some(live), Some(node)) = (&live, node) {
                let work = Work { folder: &folder, qmp: live.qmp()?, node: &node, pair: &pair, witness, watch };
                return work.merge(&turn).await;
            }
            // The machine's QEMU has it not open, or there is none.
            let surrogate = Surrogate::start(&self.binary, &folder, &pair.upper).await?;
            let (qmp, node) = (surrogate.qmp(), Surrogate::NODE);
            let merged = Work { folder: &folder, qmp, node, pair: &pair, witness, watch }.merge(&turn).await;
            surrogate.end().await;
            merged
        };
        match (at_work.await, &live) {
            // The machine was stopped meanwhile.
            (Err(_), Some(live)) if timeout(ENDING, live.handle.ended()).await.is_ok() => Ok(Came::More),
            (merged, _) => {
                if merged? {
                    witnesses.forget(&pair.lower);
                }
                Ok(Came::More)
            }
        }
    }
}

/// What is to be flattened next. What lies above the layer that QEMU writes is nothing.
async fn next(folder: &Folder, live: Option<&Live>) -> Result<Option<Pair>, DriverError> {
    let id = folder.id();
    let written = match live {
        Some(live) => Some(top(live).await?),
        None => None,
    };
    let folder = folder.clone();
    let found = blocking(move || {
        if let Some(top) = written {
            remove_above(&folder, &top.file)?;
        }
        sweep(&folder)?;
        let pair = folder.next_to_flatten(&shelf::layers(&folder)?)?;
        if pair.is_some() {
            refuse_if_unsure(&folder)?;
        }
        Ok(pair.map(|(upper, lower)| Pair { upper, lower }))
    });
    found.await.map_err(|error| storage(format!("the layers of machine {id} cannot be looked at"), &error))
}

impl Work<'_> {
    /// Copies, makes sure, and lets go of the lower layer; says whether it did. Until all is copied others may have the
    /// turn.
    async fn merge(&self, turn: &Turn) -> Result<bool, DriverError> {
        let id = self.folder.id();
        let copied = tokio::select! {
            biased;
            copied = self.copy() => copied.map(|()| true),
            () = self.watch.given_up.cancelled() => Err(given_up(id)),
            () = turn.wanted() => Ok(false),
        };
        let merged = match copied {
            Ok(true) => self.let_go().await.map(|()| true),
            Ok(false) => Ok(false),
            Err(error) => Err(error),
        };
        // Whatever came of it, QEMU is to be free for what others want of it. One that is gone has no jobs.
        match self.qmp.end_jobs().await {
            Ok(()) | Err(QmpError::Closed) => {}
            Err(error) => tracing::warn!(vm.id = %id, %error, "a job on a machine's disk cannot be ended"),
        }
        merged
    }

    async fn copy(&self) -> Result<(), DriverError> {
        let (vm, qmp, pair) = (self.folder.id(), self.qmp, self.pair);
        let told = |error: QmpError| not_flattened(vm, &error);
        qmp.end_jobs().await.map_err(told)?;
        self.fits().await?;
        let lower = qmp.node(&pair.lower).await.map_err(told)?;
        let lower = lower.ok_or_else(|| failed(format!("QEMU has the layer {} not open", pair.lower.display())))?;
        qmp.pull(JOB, self.node, &lower, SPEED).await.map_err(told)?;
        fail::fail_point!("agent.flatten.begun");
        let tell = |job: &Job| {
            // Nobody may be listening.
            let _ = self.watch.percents.send(job.percent());
        };
        tokio::select! {
            biased;
            copied = until(qmp, "pending", vm, tell) => copied?,
            error = self.write_out() => return Err(error),
        }
        qmp.flush(self.node).await.map_err(told)?;
        self.covered().await.map_err(|error| storage(format!("a layer of machine {vm} cannot be flattened"), &error))
    }

    /// That what is to be copied fits on the host's disk, and leaves it the room that every machine on it needs.
    async fn fits(&self) -> Result<(), DriverError> {
        let (upper, lower) = (self.pair.upper.clone(), self.pair.lower.clone());
        let lacks = blocking(move || clusters::lacks(&upper, &lower)).await;
        let lacks = lacks.map_err(|error| {
            storage(format!("the layers of machine {} cannot be looked at", self.folder.id()), &error)
        })?;
        self.leaves_room(lacks).await
    }

    async fn leaves_room(&self, more: u64) -> Result<(), DriverError> {
        let (id, folder, reserve) = (self.folder.id(), self.folder.clone(), self.watch.reserve);
        let free = blocking(move || room(&folder)).await;
        let free = free.map_err(|error| storage("the room on the node's disk cannot be looked at", &error))?;
        if free >= reserve.saturating_add(more) {
            return Ok(());
        }
        Err(disk_full(format!(
            "to flatten the disk of machine {id} takes {more} bytes more; {free} are free on the node's disk, and {reserve} of \
             them are kept for what its machines write"
        )))
    }

    /// Writes out meanwhile what is copied, so that the last of it takes a moment; until that fails, or there is no room.
    async fn write_out(&self) -> DriverError {
        loop {
            sleep(WRITE_OUT).await;
            if let Err(error) = self.leaves_room(0).await {
                return error;
            }
            let witness = Arc::clone(&self.witness);
            if let Err(error) = blocking(move || witness.sync()).await {
                return storage(format!("a layer of machine {} cannot be flattened", self.folder.id()), &error);
            }
        }
    }

    /// That the upper layer's file, and not only QEMU, has all that the lower one has; and the host's disk, and not only
    /// the host.
    async fn covered(&self) -> io::Result<()> {
        let (upper, lower) = (self.pair.upper.clone(), self.pair.lower.clone());
        let witness = Arc::clone(&self.witness);
        blocking(move || {
            if !clusters::covers(&upper, &lower)? {
                let detail = format!("{} was not wholly copied into {}", lower.display(), upper.display());
                return Err(io::Error::other(detail));
            }
            witness.sync()
        })
        .await
    }

    /// The upper layer stands on what the lower one stood on, and that one goes. It takes a moment.
    async fn let_go(&self) -> Result<(), DriverError> {
        let (id, qmp) = (self.folder.id(), self.qmp);
        let told = |error: QmpError| not_flattened(id, &error);
        fail::fail_point!("agent.flatten.copied");
        qmp.finalize(JOB).await.map_err(told)?;
        until(qmp, "concluded", id, |_| {}).await?;
        fail::fail_point!("agent.flatten.pulled");
        // QEMU is not asked for its layers while a job is there that has concluded: it does not survive that.
        qmp.end_jobs().await.map_err(told)?;
        if let Some(lower) = qmp.node(&self.pair.lower).await.map_err(told)? {
            qmp.close(&lower).await.map_err(told)?;
        }
        let (folder, witness) = (self.folder.clone(), Arc::clone(&self.witness));
        let swept = blocking(move || {
            witness.sync()?;
            sweep(&folder)
        });
        swept.await.map_err(|error| storage(format!("a layer of machine {id} cannot be removed"), &error))
    }
}

/// Waits until the job is so far, and tells how far it is meanwhile.
async fn until(qmp: &Qmp, status: &str, vm: VmId, tell: impl Fn(&Job)) -> Result<(), DriverError> {
    loop {
        let news = qmp.job_news();
        let jobs = qmp.jobs().await.map_err(|error| not_flattened(vm, &error))?;
        let job = jobs.into_iter().find(|job| job.id == JOB);
        let job = job.ok_or_else(|| failed(format!("QEMU knows nothing of the flattening of machine {vm}")))?;
        tell(&job);
        if let Some(error) = &job.error {
            let detail = format!("a layer of machine {vm} cannot be flattened: {error}");
            return Err(if is_full(error) { disk_full(detail) } else { failed(detail) });
        }
        if job.status == status {
            return Ok(());
        }
        if job.status == "concluded" {
            return Err(failed(format!("the flattening of machine {vm} was ended by somebody else")));
        }
        if let Ok(Err(error)) = timeout(LOOK, qmp.job_news_after(news)).await {
            return Err(not_flattened(vm, &error));
        }
    }
}

fn not_flattened(vm: VmId, error: &QmpError) -> DriverError {
    failed(format!("the disk of machine {vm} cannot be flattened: {error}"))
}

fn given_up(vm: VmId) -> DriverError {
    let detail = format!("the flattening of machine {vm} was given up");
    DriverError { code: Code::Cancelled, detail, retryable: true }
}
