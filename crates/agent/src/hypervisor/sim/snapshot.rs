//! Simulated snapshots: kept in the host, with the size that their machine's memory has.

use hostler_model::{SnapshotId, VmId, error::Code, snapshot::Written};
use tokio::time::{Instant, sleep};

use super::{Driver, dice::Throw, host::Boot, injected, machine::SimMachine};
use crate::hypervisor::{DriverError, Phases, Restored, SnapshotMade, turns::Turn};

const MIB: i64 = 1 << 20;

impl Driver {
    pub(super) async fn take_snapshot(
        &self,
        vm: VmId,
        id: SnapshotId,
        memory: bool,
        phases: &Phases,
        _turn: Turn,
    ) -> Result<SnapshotMade, DriverError> {
        if let Some(made) = self.host.snapshot(vm, id) {
            return Ok(made);
        }
        let plan = self.host.plan(vm).ok_or_else(|| refused(Code::VmStateConflict, "the VM is not on this node"))?;
        if memory && self.host.living(vm).is_none() {
            return Err(refused(Code::VmStateConflict, "the VM is stopped and has no memory to keep"));
        }
        let _ = phases.send(if memory { "memory" } else { "disk" });
        sleep(self.dice(vm, Throw::Snapshot).within(&self.config.remove)).await;
        let memory_bytes = if memory { plan.spec.memory_mib * MIB } else { 0 };
        let quiesced = (!memory && self.host.living(vm).is_some()).then_some(true);
        let written = Written { disk_bytes: MIB, memory_bytes };
        let made = SnapshotMade { written, quiesced, paused_ms: 0.0, warning: None };
        self.host.keep_snapshot(vm, id, made.clone());
        Ok(made)
    }

    pub(super) async fn restore(&self, vm: VmId, id: SnapshotId, phases: &Phases) -> Result<Restored, DriverError> {
        let _turn = self.turns.wait(vm).await;
        let _ = phases.send("check");
        let made = self.host.snapshot(vm, id);
        let made = made.ok_or_else(|| refused(Code::SnapshotUnusable, "the snapshot is not on this node"))?;
        let _ = phases.send("stop");
        self.host.end_all(vm);
        let since = Instant::now();
        let _ = phases.send("start");
        let mut dice = self.dice(vm, Throw::Boot);
        sleep(dice.within(&self.config.create)).await;
        let memory = made.written.memory_bytes > 0;
        // A guest whose memory is there answers at once.
        let boot = if memory {
            Boot { began: Instant::now(), takes: Some(std::time::Duration::ZERO) }
        } else {
            Boot::of(&self.config, &mut dice)
        };
        let process = self.host.start(vm, boot);
        let machine = Box::new(SimMachine::new(&self.config, &self.host, vm, process));
        Ok(Restored { machine, memory, since })
    }
}

fn refused(code: Code, detail: &str) -> DriverError {
    DriverError { code, retryable: false, ..injected(detail.to_owned()) }
}
