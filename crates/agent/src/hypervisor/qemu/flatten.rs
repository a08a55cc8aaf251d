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
//! both it and its host may die at any instant. What was copied before a death or a stop is not copied again.
//!
//! It takes its turn at the machine as everybody does, and lets whoever waits by within milliseconds: nothing that is done
//! to a machine waits for a copy.

use std::{fs::File, io, path::PathBuf, time::Duration};

use hostler_model::{SnapshotId, VmId, error::Code};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    Driver, blocking, clusters,
    error::{disk_full, failed, storage},
    folder::Folder,
    machine::Live,
    qmp::{Job, Qmp, QmpError},
    removal::{forget, top},
    shelf,
    snapshot::{is_full, remove_above, sweep},
    surrogate::Surrogate,
};
use crate::hypervisor::{DriverError, Flat, Percents, turns::Turn};

/// How fast it is copied, in bytes a second: guests read and write beside it.
const SPEED: u64 = 256 << 20;

/// Between two looks at how far it is, where nothing else happens.
const LOOK: Duration = Duration::from_secs(1);

/// How long the process of a machine that was stopped may take to be gone.
const ENDING: Duration = Duration::from_secs(2);

/// The name of the job.
const JOB: &str = "flatten";

/// Who wants to know how far it is, and may give it up.
pub(super) struct Watch {
    pub(super) percents: Percents,
    pub(super) given_up: CancellationToken,
}

/// What is to become part of what.
struct Pair {
    upper: PathBuf,
    lower: PathBuf,
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
        // One disk at a time: they are on the same one of the host.
        let _alone = tokio::select! {
            alone = self.flattening.lock() => alone,
            () = watch.given_up.cancelled() => return Err(given_up(vm)),
        };
        while let Came::More = self.flatten_once(vm, watch).await? {
            if watch.given_up.is_cancelled() {
                return Err(given_up(vm));
            }
        }
        fail::fail_point!("agent.flatten.flat");
        let folder = self.folder(vm);
        let _turn = self.turns.wait(vm).await;
        let (layer_kept, shares) = blocking(move || forget(&folder, id))
            .await
            .map_err(|error| storage(format!("snapshot {id} of machine {vm} cannot be forgotten"), &error))?;
        Ok(Flat { layer_kept, shares })
    }

    /// One layer of it, unless somebody else wants a turn meanwhile.
    async fn flatten_once(&self, vm: VmId, watch: &Watch) -> Result<Came, DriverError> {
        let folder = self.folder(vm);
        let turn = self.turns.wait(vm).await;
        let live = self.living(&folder).await?;
        let Some(pair) = next(&folder, live.as_deref()).await? else { return Ok(Came::Flat) };
        let at_work = async {
            let node = match &live {
                Some(live) => live.qmp()?.node(&pair.upper).await.map_err(|error| not_flattened(vm, &error))?,
                None => None,
            };
            if let (Some(live), Some(node)) = (&live, node) {
                return merge(&folder, live.qmp()?, &node, &pair, &turn, watch).await;
            }
            // The machine's QEMU has it not open, or there is none.
            let surrogate = Surrogate::start(&self.binary, &folder, &pair.upper).await?;
            let merged = merge(&folder, surrogate.qmp(), Surrogate::NODE, &pair, &turn, watch).await;
            surrogate.end().await;
            merged
        };
        match (at_work.await, &live) {
            // The machine was stopped meanwhile.
            (Err(_), Some(live)) if timeout(ENDING, live.handle.ended()).await.is_ok() => Ok(Came::More),
            (merged, _) => merged.map(|()| Came::More),
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
        Ok(pair.map(|(upper, lower)| Pair { upper, lower }))
    });
    found.await.map_err(|error| storage(format!("the layers of machine {id} cannot be looked at"), &error))
}

/// Copies, makes sure, and lets go of the lower layer. Until all is copied others may have the turn.
async fn merge(
    folder: &Folder,
    qmp: &Qmp,
    node: &str,
    pair: &Pair,
    turn: &Turn,
    watch: &Watch,
) -> Result<(), DriverError> {
    let id = folder.id();
    let copied = tokio::select! {
        biased;
        copied = copy(id, qmp, node, pair, watch) => copied.map(|()| true),
        () = watch.given_up.cancelled() => Err(given_up(id)),
        () = turn.wanted() => Ok(false),
    };
    let merged = match copied {
        Ok(true) => let_go(folder, qmp, pair).await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    // Whatever came of it, QEMU is to be free for what others want of it. One that is gone has no jobs.
    match qmp.end_jobs().await {
        Ok(()) | Err(QmpError::Closed) => {}
        Err(error) => tracing::warn!(vm.id = %id, %error, "a job on a machine's disk cannot be ended"),
    }
    merged
}

async fn copy(vm: VmId, qmp: &Qmp, node: &str, pair: &Pair, watch: &Watch) -> Result<(), DriverError> {
    let told = |error: QmpError| not_flattened(vm, &error);
    qmp.end_jobs().await.map_err(told)?;
    let lower = qmp.node(&pair.lower).await.map_err(told)?;
    let lower = lower.ok_or_else(|| failed(format!("QEMU has the layer {} not open", pair.lower.display())))?;
    qmp.pull(JOB, node, &lower, SPEED).await.map_err(told)?;
    fail::fail_point!("agent.flatten.begun");
    let tell = |job: &Job| {
        // Nobody may be listening.
        let _ = watch.percents.send(job.percent());
    };
    until(qmp, "pending", vm, tell).await?;
    qmp.flush(node).await.map_err(told)?;
    covered(pair).await.map_err(|error| storage(format!("a layer of machine {vm} cannot be flattened"), &error))
}

/// The upper layer stands on what the lower one stood on, and that one goes. It takes a moment.
async fn let_go(folder: &Folder, qmp: &Qmp, pair: &Pair) -> Result<(), DriverError> {
    let id = folder.id();
    let told = |error: QmpError| not_flattened(id, &error);
    fail::fail_point!("agent.flatten.copied");
    qmp.finalize(JOB).await.map_err(told)?;
    until(qmp, "concluded", id, |_| {}).await?;
    fail::fail_point!("agent.flatten.pulled");
    // QEMU is not asked for its layers while a job is there that has concluded: it does not survive that.
    qmp.end_jobs().await.map_err(told)?;
    if let Some(lower) = qmp.node(&pair.lower).await.map_err(told)? {
        qmp.close(&lower).await.map_err(told)?;
    }
    let (folder, upper) = (folder.clone(), pair.upper.clone());
    let swept = blocking(move || {
        File::open(upper)?.sync_all()?;
        sweep(&folder)
    });
    swept.await.map_err(|error| storage(format!("a layer of machine {id} cannot be removed"), &error))
}

/// That the upper layer's file, and not only QEMU, has all that the lower one has.
async fn covered(pair: &Pair) -> io::Result<()> {
    let (upper, lower) = (pair.upper.clone(), pair.lower.clone());
    blocking(move || {
        if !clusters::covers(&upper, &lower)? {
            let detail = format!("{} was not wholly copied into {}", lower.display(), upper.display());
            return Err(io::Error::other(detail));
        }
        File::open(upper)?.sync_all()
    })
    .await
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
