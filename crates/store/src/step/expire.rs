//! Machines whose time is over: an ordinary deletion is filed for each, on behalf of the system.

use std::collections::BTreeSet;

use hostler_db::Result;
use hostler_model::{
    Timestamp, VmId,
    edit::{FILE_AGAIN, is_over},
    kind::KindName,
};
use serde_json::json;

use super::submit;
use crate::{
    Submission, Swept,
    task::TaskRow,
    vm::{self, VmRow},
    work::Work,
};

/// How many machines one pass takes.
const PIECE: usize = 256;

/// One pass.
pub(crate) fn expire_vms(work: &mut Work<'_>) -> Result<Swept> {
    let again = Timestamp::from_micros(work.now.as_micros() - FILE_AGAIN.as_micros() as i64);
    let rows = vm::over(work.tx, work.now, again, PIECE)?;
    let more = rows.len() == PIECE;
    let ids: BTreeSet<VmId> = rows.iter().map(|row| row.vm.id).collect();
    work.read_vms(&ids)?;
    let mut filed = Vec::new();
    for VmRow { vm, reaped_at, .. } in rows {
        let queue = work.queue(vm.id)?;
        let goes = queue.iter().any(|id| work.tasks.get(id).is_some_and(TaskRow::is_final));
        if is_over(&vm, reaped_at, work.now) && !goes {
            filed.push(deletion(work, &vm));
        }
        if let Some(row) = work.vms.change(&vm.id) {
            row.reaped_at = Some(work.now);
        }
    }
    for item in &filed {
        if let Some(id) = item.target.vm
            && let Some(row) = work.vms.get(&id)
        {
            let data = json!({"name": row.vm.name, "expires_at": row.vm.expires_at, "task": item.task});
            work.event(Some(item.tenant), "vm", "vm.expired", id.0, data);
        }
    }
    for answer in submit::run(work, &filed)? {
        if let Err(refusal) = answer {
            tracing::warn!(%refusal, "the deletion of a machine whose time is over was refused");
        }
    }
    Ok(Swept { changed: filed.len(), more })
}

fn deletion(work: &Work<'_>, vm: &hostler_model::vm::Vm) -> Submission {
    Submission::of_system(work.context.ids.next(work.now), vm, KindName::VmDelete, work.now)
}
