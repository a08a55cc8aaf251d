//! `vm.edit`: brings to a machine what was asked for. Done twice it comes to the same, so what was begun is completed
//! rather than undone; the driver takes back what it cannot complete.

use hostler_model::{
    edit::larger,
    error::Code,
    kind::{Effect, Filed, VmEdit, VmEditOutput},
    unit::Resources,
};

use super::{Begun, Failure, Handler, Job, Undo};
use crate::{
    hypervisor::{Applied, NotApplied},
    vm::edit::Change,
};

impl Handler for VmEdit {
    async fn run(job: &Job<VmEdit>) -> Result<VmEditOutput, Failure> {
        match edit(job).await? {
            Ok(output) => Ok(output),
            Err(NotApplied { error, .. }) => Err(error.into()),
        }
    }

    async fn undo(job: &Job<VmEdit>, begun: Begun) -> Undo<VmEditOutput> {
        if begun == Begun::No {
            return Undo::Undone;
        }
        match edit(job).await {
            Ok(Ok(output)) => Undo::Done(output),
            Ok(Err(NotApplied { left: false, .. })) => Undo::Undone,
            Ok(Err(NotApplied { error, left: true })) => Undo::Remains(Some(error.detail)),
            // It is not here, or not whole: there is nothing to be edited.
            Err(failure) if failure.code == Code::VmStateConflict => Undo::Undone,
            Err(failure) => Undo::Remains(Some(failure.detail)),
        }
    }
}

async fn edit(job: &Job<VmEdit>) -> Result<Result<VmEditOutput, NotApplied>, Failure> {
    let (vm, epoch) = job.vm()?;
    let filed = job.params.filed.as_ref().ok_or_else(|| Failure {
        code: Code::TaskRefused,
        detail: "what the VM is to be is not filled in".to_owned(),
        retryable: false,
    })?;
    job.phase("edit");
    let change = Change { shape: Some(filed.after.clone()), name: None };
    Ok(job.tools.vms.edit(vm, epoch, change).await?.map(|applied| output(filed, &applied)))
}

fn output(filed: &Filed, applied: &Applied) -> VmEditOutput {
    let Filed { before, after, .. } = filed;
    let spec = &applied.plan.spec;
    let effect = |differs: bool, live: bool| differs.then_some(if live { Effect::Live } else { Effect::NextStart });
    let (runs, lives) = (applied.runs, applied.runs.is_some());
    let running = runs.map_or(Resources::ZERO, |runs| Resources {
        vcpus: runs.vcpus,
        memory_mib: runs.memory_mib,
        ..Resources::ZERO
    });
    VmEditOutput {
        vcpus: effect(before.vcpus != after.vcpus, runs.is_some_and(|runs| runs.vcpus == spec.vcpus)),
        memory_mib: effect(
            before.memory_mib != after.memory_mib,
            runs.is_some_and(|runs| runs.memory_mib == spec.memory_mib),
        ),
        disk_gib: effect(before.disk_gib != after.disk_gib, lives),
        port_forwards: effect(before.port_forwards != after.port_forwards, lives),
        forwards: spec.port_forwards.clone(),
        restart_pending: applied.is_behind(),
        charge: larger(running, spec.charge()),
    }
}
