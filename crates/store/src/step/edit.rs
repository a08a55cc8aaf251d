//! Editing a machine's record: what takes effect by being written down.

use hostler_model::{
    Code, Refusal, VmId, edit,
    kind::Turn,
    vm::{Vm, VmState},
};
use hostler_sqlite::Result;
use serde_json::json;

use super::submit::vm_not_found;
use crate::{Answer, EditVm, work::Work};

/// The machine as it is then; written only where something differs.
pub(crate) fn edit(work: &mut Work<'_>, item: &EditVm) -> Result<Answer<Vm>> {
    let queue = work.queue(item.vm)?;
    let vm = work.vms.get(&item.vm).map(|row| &row.vm);
    let Some(vm) = vm.filter(|vm| vm.tenant == item.tenant && vm.state != VmState::Deleted).cloned() else {
        return Ok(Err(vm_not_found(item.vm)));
    };
    let ends = |id| work.tasks.get(id).is_some_and(|row| row.task.kind.spec().turn == Turn::Final);
    if queue.iter().any(ends) {
        return Ok(Err(going(&vm)));
    }
    let decided = edit::check_generation(&vm, item.if_match.as_deref()).and_then(|()| item.patch.apply(&vm, work.now));
    let after = match decided {
        Ok(after) => after,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if after != vm && !item.dry_run {
        write(work, item, &vm, &after);
    }
    Ok(Ok(work.vms.get(&item.vm).filter(|_| !item.dry_run).map_or(after, |row| row.vm.clone())))
}

fn write(work: &mut Work<'_>, item: &EditVm, before: &Vm, after: &Vm) {
    let fields = edit::changed(before, after);
    let data = json!({"name": after.name, "generation": after.generation, "changed": fields});
    work.event(Some(item.tenant), "vm", "vm.edited", item.vm.0, data);
    let data = json!({"generation": after.generation, "patch": item.patch});
    work.audit(&item.actor, Some(item.tenant), "vm", "vm.edit", item.vm.0, data);
    put(work, item.vm, after);
}

/// Puts the edited machine in its place. Another end of its time is another reason to delete it.
fn put(work: &mut Work<'_>, id: VmId, after: &Vm) {
    let mut policy = false;
    if let Some(row) = work.vms.change(&id) {
        policy = (row.vm.spec.restart, row.vm.spec.autostart) != (after.spec.restart, after.spec.autostart);
        if row.vm.expires_at != after.expires_at {
            row.reaped_at = None;
        }
        row.vm = after.clone();
    }
    if policy {
        work.plan_restart(id);
    }
}

fn going(vm: &Vm) -> Refusal {
    let detail = format!("the VM {} is being deleted; it is too late to change it", vm.name);
    Refusal::new(Code::VmStateConflict, detail).with("vm", vm.id.to_string()).with("state", vm.state.as_str())
}
