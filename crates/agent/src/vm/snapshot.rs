//! Snapshots of a machine: taken, restored, removed.
//!
//! Taking and restoring are never broken off: the driver brings them to an end, and whoever gave them up has what they
//! left removed. Only the wait for a restored guest's answer is.

use std::time::Duration;

use hostler_model::{SnapshotId, VmId, error::Code};
use tokio::time::Instant;

use super::{
    Vms,
    admit::{Admission, Ask},
    drive::{Done, Drive, Reply, Request, Standing, Then, answer, done, note_end},
    power::booted,
};
use crate::{
    handler::Failure,
    hypervisor::{Exit, Phases, Power, SnapshotMade, SnapshotRemoved},
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
        self.is_here(vm)?;
        let request = |reply| Take { epoch, id, memory, phases: phases.clone(), reply };
        self.ask(vm, Code::HypervisorFailed, request).await
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
        self.is_here(vm)?;
        let request = |reply| Restore { epoch, id, now, phases: phases.clone(), reply };
        self.ask(vm, Code::HypervisorFailed, request).await
    }

    /// Removes a snapshot, or what is left of one, once nothing else is done to its machine's disk.
    pub async fn remove_snapshot(&self, vm: VmId, id: SnapshotId) -> Result<SnapshotRemoved, Failure> {
        // No machine, no snapshots: they go with it.
        if self.is_here(vm).is_err() {
            return Ok(SnapshotRemoved { existed: false, layer_kept: false });
        }
        Ok(self.0.hypervisor.remove_snapshot(vm, id).await?)
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

struct Take {
    epoch: u32,
    id: SnapshotId,
    memory: bool,
    phases: Phases,
    reply: Reply<SnapshotMade>,
}

impl Request for Take {
    fn ask(&self) -> Ask {
        Ask::Snapshot
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        if let Admission::Refuse(denial) = admission {
            return answer(self.reply, Err(denial.into()));
        }
        let Take { id, memory, phases, reply, .. } = *self;
        let (hypervisor, vm, live) = (drive.vms.hypervisor.clone(), drive.id, drive.live());
        let (answered, trouble) = (drive.answered, drive.trouble.clone());
        drive.change(async move {
            let taken = hypervisor.take_snapshot(vm, id, memory, &phases).await;
            let standing = match live {
                Some((machine, power)) => Standing::of(&*hypervisor, vm, machine, power, answered).await,
                None => Standing::Down(trouble),
            };
            done(standing, reply, taken.map_err(Failure::from))
        });
    }
}

struct Restore {
    epoch: u32,
    id: SnapshotId,
    /// The time, in nanoseconds since the Unix epoch.
    now: i64,
    phases: Phases,
    reply: Reply<Back>,
}

impl Request for Restore {
    fn ask(&self) -> Ask {
        Ask::Restore
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        if let Admission::Refuse(denial) = admission {
            return answer(self.reply, Err(denial.into()));
        }
        let Restore { id, now, phases, mut reply, .. } = *self;
        let (hypervisor, vm, before) = (drive.vms.hypervisor.clone(), drive.id, drive.live());
        let (answered, trouble) = (drive.answered, drive.trouble.clone());
        let asked = Instant::now();
        drive.change(async move {
            let restored = match hypervisor.restore(vm, id, &phases).await {
                Ok(restored) => restored,
                Err(error) => {
                    // Nothing was touched, or the process was ended.
                    let standing = match before {
                        Some((machine, power)) => Standing::of(&*hypervisor, vm, machine, power, answered).await,
                        None => Standing::Down(trouble),
                    };
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
