//! Machines that are to be started again by themselves: an ordinary start is filed for each, on behalf of the system.
//! Whether and when is the model's decision (`model/restart.rs`), made with each change of a machine.

use std::collections::BTreeSet;

use hostler_db::Result;
use hostler_model::{
    VmId,
    kind::KindName,
    restart::{self, PER_HOUR, WINDOW},
};
use serde_json::json;

use super::submit;
use crate::{
    Submission, Swept,
    vm::{self, VmRow},
    work::Work,
};

/// How many machines one pass takes: after a host came back there may be many.
const PIECE: usize = 256;

/// One pass.
pub(crate) fn restart_vms(work: &mut Work<'_>) -> Result<Swept> {
    vm::bound_restarts(work.tx, work.now, work.now.plus(WINDOW))?;
    let rows = vm::restartable(work.tx, work.now, PIECE)?;
    let more = rows.len() == PIECE;
    let ids: BTreeSet<VmId> = rows.iter().map(|row| row.vm.id).collect();
    work.read_vms(&ids)?;
    let mut filed = Vec::new();
    for row in &rows {
        let waits = work.queue(row.vm.id)?;
        // A change that waits decides what becomes of it; one that is not to be started any more is forgotten.
        if work.first_change(&waits).is_none() && restart::cause(&row.vm).is_some() {
            filed.push(start(work, row));
        }
        work.plan_restart(row.vm.id);
    }
    let changed = filed.len();
    for answer in submit::run(work, &filed)? {
        if let Err(refusal) = answer {
            tracing::warn!(%refusal, "the start of a machine that ended by itself was refused");
        }
    }
    Ok(Swept { changed, more })
}

/// The task, the event that tells of it, and the try that is counted.
fn start(work: &mut Work<'_>, row: &VmRow) -> Submission {
    let (vm, now) = (&row.vm, work.now);
    let task = work.context.ids.next(now);
    let nth = 1 + row.tries.iter().filter(|at| restart::counts(**at, now)).count();
    if let Some(row) = work.vms.change(&vm.id) {
        row.tries.push(now);
    }
    let policy = json!({"restart": vm.spec.restart, "autostart": vm.spec.autostart});
    let data = json!({
        "name": vm.name, "node": vm.node, "cause": restart::cause(vm), "policy": policy, "try": nth,
        "tries_per_hour": PER_HOUR, "task": task,
    });
    work.event(Some(vm.tenant), "vm", "vm.restarting", vm.id.0, data);
    Submission::of_system(task, vm, KindName::VmStart, now)
}

impl Work<'_> {
    /// Decides anew when a machine is started by itself, if it is; and says so when its tries of this hour are used up.
    pub(crate) fn plan_restart(&mut self, id: VmId) {
        let now = self.now;
        let Some(row) = self.vms.get(&id) else { return };
        let plan = restart::plan(&row.vm, &row.tries, now);
        let at = plan.map(|plan| plan.at);
        if row.vm.restart_at == at && plan.is_none() {
            return;
        }
        let news = row.vm.restart_at != at;
        let Some(row) = self.vms.change(&id) else { return };
        row.tries.retain(|at| restart::counts(*at, now));
        row.vm.restart_at = at;
        let (tenant, name) = (row.vm.tenant, row.vm.name.clone());
        if news && plan.is_some_and(|plan| plan.held) {
            let data = json!({"name": name, "tries_per_hour": PER_HOUR, "until": at});
            self.event(Some(tenant), "vm", "vm.restart_held", id.0, data);
        }
    }
}
