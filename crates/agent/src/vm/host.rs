//! The host goes down: its machines are asked to turn themselves off, side by side. That it was for the host's sake is
//! remembered of each, so that those with autostart are started again when it is back.

use std::time::Duration;

use hostler_model::{VmId, kind::StopHow};
use tokio::task::JoinSet;

use super::Vms;
use crate::{handler::Failure, hypervisor::Exit};

impl Vms {
    /// Ends every machine that has a process; each guest has `patience` to turn itself off.
    pub async fn host_goes_down(&self, patience: Duration) {
        let mut stopping = JoinSet::new();
        for (vm, epoch) in self.alive() {
            let vms = self.clone();
            stopping.spawn(async move { (vm, vms.stop(vm, epoch, patience, Exit::HostGoesDown).await) });
        }
        tracing::info!(machines = stopping.len(), "the host goes down; its machines are asked to turn themselves off");
        while let Some(Ok((vm, stopped))) = stopping.join_next().await {
            tell(vm, &stopped);
        }
    }

    fn alive(&self) -> Vec<(VmId, u32)> {
        let machines = self.0.lock();
        let alive = machines.values().filter(|entry| entry.glance.alive);
        alive.filter_map(|entry| entry.seen.as_ref()).map(|seen| (seen.vm, seen.epoch)).collect()
    }
}

fn tell(vm: VmId, stopped: &Result<StopHow, Failure>) {
    match stopped {
        Ok(StopHow::Hard) => tracing::warn!(vm.id = %vm, "the guest did not turn itself off; its process was ended"),
        Ok(how) => tracing::info!(vm.id = %vm, ?how, "a machine is off"),
        Err(failure) => {
            tracing::warn!(vm.id = %vm, detail = failure.detail, "a machine is left to the host, which ends it");
        }
    }
}
