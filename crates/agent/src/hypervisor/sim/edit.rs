//! What a simulated machine is to be, while it is there. A host's ports are all its machines'.

use hostler_model::{
    VmId,
    error::Code,
    forward::{self, PortForward},
};

use super::host::{SimHost, World};
use crate::hypervisor::{Applied, DriverError, MachinePlan, NotApplied, Runs};

/// The first port that is chosen where none is named.
const FIRST: u16 = 40_000;

/// What a process of this plan is started with.
pub(super) fn runs(plan: &MachinePlan) -> Runs {
    Runs { vcpus: plan.spec.vcpus, memory_mib: plan.spec.memory_mib }
}

impl SimHost {
    pub(super) fn edit(&self, plan: &MachinePlan) -> Result<Applied, NotApplied> {
        let mut world = self.world();
        let plan = world.with_ports(plan)?;
        let Some(folder) = world.folders.get_mut(&plan.id) else { return Err(nothing(plan.id).into()) };
        folder.plan = plan.clone();
        let runs = world.running(plan.id);
        Ok(Applied { plan, runs })
    }

    pub(super) fn behind(&self, id: VmId) -> bool {
        let world = self.world();
        let wanted = world.folders.get(&id).map(|folder| runs(&folder.plan));
        world.running(id).is_some_and(|running| wanted.is_some_and(|wanted| wanted != running))
    }
}

impl World {
    fn running(&self, id: VmId) -> Option<Runs> {
        self.processes.values().find(|process| process.vm == id && process.alive()).map(|process| process.runs)
    }

    /// The plan with its ports, which no other machine of this host has.
    pub(super) fn with_ports(&self, plan: &MachinePlan) -> Result<MachinePlan, DriverError> {
        let mut plan = plan.clone();
        let others: Vec<(VmId, PortForward)> = self
            .folders
            .iter()
            .filter(|(id, _)| **id != plan.id)
            .flat_map(|(id, folder)| folder.plan.spec.port_forwards.iter().map(|forward| (*id, *forward)))
            .collect();
        let mut mine: Vec<PortForward> = plan.spec.port_forwards.clone();
        for at in 0..mine.len() {
            if mine[at].host_port == 0 {
                let free = |port: &u16| {
                    let chosen = PortForward { host_port: *port, ..mine[at] };
                    !others.iter().any(|(_, other)| other.collides(&chosen))
                        && !mine.iter().any(|other| other.collides(&chosen))
                };
                mine[at].host_port = (FIRST..).find(free).unwrap_or(FIRST);
            }
            if let Some((id, _)) = others.iter().find(|(_, other)| other.collides(&mine[at])) {
                let detail = forward::taken(&mine[at], &format!("the machine {id}")).detail;
                return Err(DriverError { code: Code::PortTaken, detail, retryable: false });
            }
        }
        plan.spec.port_forwards = mine;
        Ok(plan)
    }
}

fn nothing(id: VmId) -> DriverError {
    let detail = format!("there is nothing of simulated machine {id}");
    DriverError { code: Code::HypervisorFailed, detail, retryable: false }
}
