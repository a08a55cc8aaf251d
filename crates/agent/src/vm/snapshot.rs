//! Snapshots of a machine: taken, restored, removed.
//!
//! Taking and restoring are never broken off: the driver brings them to an end, and whoever gave them up has what they
//! left removed. Only the wait for a restored guest's answer is.

use std::time::Duration;

use hostler_model::{SnapshotId, VmId};
use tokio::time::Instant;

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
    /// Takes a snapshot of a machine. It goes on when the future is dropped: [`Vms::remove_snapshot`] waits for it.
    pub async fn take_snapshot(
        &self,
        vm: VmId,
        epoch: u32,
        id: SnapshotId,
        memory: bool,
        phases: &Phases,
    ) -> Result<SnapshotMade, Failure> {
        self.change(vm, epoch, Take { id, memory, phases: phases.clone() }).await
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

#[derive(Clone)]
struct Take {
    id: SnapshotId,
    memory: bool,
    phases: Phases,
}

impl Verb for Take {
    type Answer = SnapshotMade;
    const ASK: Ask = Ask::Snapshot;

    fn begin(self, drive: &mut Drive, reply: Reply<SnapshotMade>) {
        let Take { id, memory, phases } = self;
        let before = Before::of(drive);
        drive.change(async move {
            let taken = before.hypervisor.take_snapshot(before.id, id, memory, &phases).await;
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
