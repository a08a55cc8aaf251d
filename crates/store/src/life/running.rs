//! Machines that run count against a limit of their own. A machine is charged as one while it runs, and from the
//! submission on of whatever is about to start it; it is given back when its end was seen, or what was to start it came
//! to nothing.

use std::collections::BTreeSet;

use hostler_db::Result;
use hostler_model::{
    VmId,
    alloc::{Allocation, Owner},
    amounts::Amounts,
    quota, vm,
};

use crate::{Answer, Submission, step::tenant::no_tenant, task::TaskRow, work::Work};

/// Refuses what would start one machine more than the tenant may have running.
pub(crate) fn may_start(work: &mut Work<'_>, item: &Submission, id: VmId) -> Result<Answer<()>> {
    if !item.kind.spec().starts {
        return Ok(Ok(()));
    }
    let charged = work.allocation(Owner::Vm(id))?.map_or(0, |held| held.amount.running_vms);
    let asked = Amounts { running_vms: 1 - charged, ..Amounts::ZERO };
    let Some(tenant) = work.tenant(item.tenant)? else { return Ok(Err(no_tenant(item.tenant))) };
    Ok(quota::check(&tenant.limits, &tenant.book, &asked))
}

impl Work<'_> {
    /// Charges a machine as one that runs if it does or is about to, and only then.
    pub(crate) fn recount_running(&mut self, id: VmId) -> Result<()> {
        let queue = self.queue(id)?;
        let Some(held) = self.allocation(Owner::Vm(id))? else { return Ok(()) };
        let Some(row) = self.vms.get(&id) else { return Ok(()) };
        let about_to = |row: &TaskRow| row.task.kind.spec().starts && !row.later && !row.ended();
        let charged = held.amount.running_vms > 0;
        let runs = vm::runs(row.vm.state, row.vm.reason, charged)
            || queue.iter().any(|task| self.tasks.get(task).is_some_and(about_to));
        if runs == charged {
            return Ok(());
        }
        let amount = Amounts { running_vms: i64::from(runs), ..held.amount };
        self.set_allocation(Owner::Vm(id), Some(Allocation { amount, ..held }))
    }

    /// The same for every machine that this step changed, or whose tasks it did.
    pub(crate) fn recount_all(&mut self) -> Result<()> {
        let of_tasks = self.tasks.made().chain(self.tasks.changed()).filter_map(|row| row.task.target.vm);
        let vms = self.vms.made().chain(self.vms.changed()).map(|row| row.vm.id);
        let touched: BTreeSet<VmId> = vms.chain(of_tasks).collect();
        self.read_vms(&touched)?;
        touched.into_iter().try_for_each(|id| self.recount_running(id))
    }
}
