//! Snapshots of a machine: taken, restored, removed.
//!
//! Taking and restoring are never broken off: the driver brings them to an end, and whoever gave them up has what they
//! left removed. Only the wait for a restored guest's answer is.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hostler_model::{SnapshotId, VmId};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Vms,
    admit::Ask,
    drive::{Done, Drive, Reply, Standing, Then, answer, done, note_end},
    power::booted,
    verb::{Before, Verb},
};
use crate::{
    handler::Failure,
    hypervisor::{Exit, Flat, Percents, Phases, Power, SnapshotMade, SnapshotRemoved},
};

/// A machine that runs from a snapshot, and whose guest has answered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Back {
    /// Whether its memory was restored.
    pub memory: bool,
    /// From the end of its process to its guest's answer.
    pub down: Duration,
    /// Whether the guest's clock was set; nothing of one that booted.
    pub clock_set: Option<bool>,
}

impl Vms {
    /// Takes a snapshot of a machine. It may go on when the future is dropped: [`Vms::remove_snapshot`] waits for it.
    pub async fn take_snapshot(
        &self,
        vm: VmId,
        epoch: u32,
        id: SnapshotId,
        memory: bool,
        phases: &Phases,
    ) -> Result<SnapshotMade, Failure> {
        let taking = self.0.takings.begin(id);
        self.change(vm, epoch, Take { id, memory, phases: phases.clone(), taking }).await
    }

    /// Puts a machine back to a snapshot, and waits until its guest answers. Dropping the future gives the wait up.
    pub async fn restore(
        &self,
        vm: VmId,
        epoch: u32,
        id: SnapshotId,
        now: i64,
        phases: &Phases,
    ) -> Result<Back, Failure> {
        self.change(vm, epoch, Restore { id, now, phases: phases.clone() }).await
    }

    /// Removes a snapshot, or what is left of one, once nothing else is done to its machine's disk. The driver is asked of
    /// every machine: one that could not be attached to yet may be here all the same.
    pub async fn remove_snapshot(&self, vm: VmId, id: SnapshotId) -> Result<SnapshotRemoved, Failure> {
        self.0.takings.over(id).await;
        Ok(self.0.hypervisor.remove_snapshot(vm, id).await?)
    }

    /// Makes a machine's disk as flat as it can be, after a snapshot was removed. It needs no turn of its own: what else
    /// is done to the machine goes before it. Dropping the future gives it up.
    pub async fn flatten(&self, vm: VmId, removed: SnapshotId, percents: &Percents) -> Result<Flat, Failure> {
        Ok(self.0.hypervisor.flatten(vm, removed, percents).await?)
    }

    /// The snapshots that are whole on this host; nothing when that cannot be said.
    pub async fn snapshots(&self) -> Option<Vec<SnapshotId>> {
        match self.0.hypervisor.snapshots().await {
            Ok(snapshots) => Some(snapshots),
            Err(error) => {
                tracing::error!(%error, "the snapshots on this host cannot be listed; the inventory is not full");
                None
            }
        }
    }
}

/// The snapshots whose taking was asked for, each until its driver has been asked, or nobody will: who gives one up does
/// not know which of these will be.
#[derive(Clone, Default)]
pub(super) struct Takings(Arc<Mutex<Vec<(SnapshotId, CancellationToken)>>>);

/// A share of one.
#[derive(Clone)]
struct Taking {
    _over: Arc<DropGuard>,
}

impl Takings {
    fn begin(&self, id: SnapshotId) -> Taking {
        let over = CancellationToken::new();
        let mut takings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        takings.retain(|(_, over)| !over.is_cancelled());
        takings.push((id, over.clone()));
        Taking { _over: Arc::new(over.drop_guard()) }
    }

    /// Waits until this one's driver has been asked, or nobody will ask it.
    async fn over(&self, id: SnapshotId) {
        let of = |(other, over): &(SnapshotId, CancellationToken)| (*other == id).then(|| over.clone());
        let all: Vec<CancellationToken> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(of).collect();
        for over in all {
            over.cancelled().await;
        }
    }
}

#[derive(Clone)]
struct Take {
    id: SnapshotId,
    memory: bool,
    phases: Phases,
    taking: Taking,
}

impl Verb for Take {
    type Answer = SnapshotMade;
    const ASK: Ask = Ask::Snapshot;

    fn begin(self, drive: &mut Drive, reply: Reply<SnapshotMade>) {
        let Take { id, memory, phases, taking } = self;
        let before = Before::of(drive);
        drive.change(async move {
            let mut asked = before.hypervisor.take_snapshot(before.id, id, memory, &phases);
            let mut taking = Some(taking);
            // Once the driver has been asked, the removal that comes after it waits there.
            let taken = poll_fn(|context| {
                let taken = asked.as_mut().poll(context);
                taking = None;
                taken
            });
            let taken = taken.await;
            drop(asked);
            done(before.now().await, reply, taken.map_err(Failure::from))
        });
    }
}

#[derive(Clone)]
struct Restore {
    id: SnapshotId,
    /// The time, in nanoseconds since the Unix epoch.
    now: i64,
    phases: Phases,
}

impl Verb for Restore {
    type Answer = Back;
    const ASK: Ask = Ask::Restore;

    fn begin(self, drive: &mut Drive, mut reply: Reply<Back>) {
        let Restore { id, now, phases } = self;
        let before = Before::of(drive);
        let asked = Instant::now();
        drive.change(async move {
            let (hypervisor, vm) = (before.hypervisor.clone(), before.id);
            let restored = match hypervisor.restore(vm, id, &phases).await {
                Ok(restored) => restored,
                Err(error) => {
                    // Nothing was touched, or the process was ended.
                    let standing = before.now().await;
                    if matches!(standing, Standing::Down(None)) {
                        note_end(&*hypervisor, vm, &Exit::Requested).await;
                    }
                    return done(standing, reply, Err(error.into()));
                }
            };
            let ready = match hypervisor.plan(vm).await {
                Ok(plan) => plan.map_or(LONG, |plan| plan.ready_timeout()),
                Err(_) => LONG,
            };
            let (machine, memory, since) = (restored.machine, restored.memory, restored.since);
            let (standing, answered) = booted(&*hypervisor, vm, machine.into(), ready, &phases, &mut reply).await;
            let down = since.elapsed();
            let now = now.saturating_add(i64::try_from(asked.elapsed().as_nanos()).unwrap_or_default());
            let clock_set = match (&standing, memory && answered.is_ok()) {
                (Standing::Up(machine, Power::Running, _), true) => Some(machine.set_clock(now).await),
                (Standing::Up(..) | Standing::Down(_), _) => None,
            };
            // With its memory it is as large as it was then, whatever its folder says now.
            let behind = hypervisor.behind(vm).await.unwrap_or(memory);
            let back = answered.map(|_| Back { memory, down, clock_set });
            Box::new(move |drive: &mut Drive| {
                drive.rest_behind(standing, behind);
                answer(reply, back);
                Then::Continue
            }) as Done
        });
    }
}

/// How long a guest may take to answer where that is not written down.
const LONG: Duration = Duration::from_secs(120);
