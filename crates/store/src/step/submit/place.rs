//! Where a submission's work is done: quota, then room. A group no two machines of which share a node is counted over
//! what is there, what is under way, and the batch itself.

use std::collections::{BTreeMap, BTreeSet};

use hostler_db::{Result, Tx};
use hostler_model::{
    NodeId, TenantId, VmId,
    amounts::Amounts,
    name::Name,
    placement::{self, Apart, Choice, Wanted},
    quota,
    vm::VmState,
};

use super::super::tenant::no_tenant;
use crate::{Answer, NewMachine, Submission, vm, work::Work};

/// A machine of a group.
struct Member {
    id: VmId,
    name: Name,
    node: NodeId,
}

/// The machines of the groups that the batch asks for.
pub(super) struct Groups(BTreeMap<(TenantId, Name), Vec<Member>>);

impl Groups {
    /// Reads them, where any item is of a group.
    pub(super) fn read(tx: &Tx<'_>, items: &[Submission]) -> Result<Groups> {
        let of = |item: &Submission| Some((item.tenant, group(item.vm.as_ref())?.clone()));
        let wanted: BTreeSet<(TenantId, Name)> = items.iter().filter_map(of).collect();
        let mut groups = Groups(BTreeMap::new());
        let members = if wanted.is_empty() { Vec::new() } else { vm::apart(tx, &wanted)? };
        for vm::Apart { tenant, group, id, name, node } in members {
            groups.0.entry((tenant, group)).or_default().push(Member { id, name, node });
        }
        Ok(groups)
    }

    /// A machine of the batch is to be on this node.
    pub(super) fn add(&mut self, tenant: TenantId, machine: &NewMachine, node: NodeId) {
        if let Some(group) = group(Some(machine)) {
            let member = Member { id: machine.id, name: machine.name.clone(), node };
            self.0.entry((tenant, group.clone())).or_default().push(member);
        }
    }

    /// Where the machine's group is already. One that this step saw deleted is there no more.
    fn apart<'a>(&self, work: &Work<'_>, tenant: TenantId, machine: Option<&'a NewMachine>) -> Option<Apart<'a>> {
        let group = group(machine)?;
        let is_there = |member: &&Member| work.vms.get(&member.id).is_none_or(|row| row.vm.state != VmState::Deleted);
        let members = self.0.get(&(tenant, group.clone())).into_iter().flatten().filter(is_there);
        Some(Apart { group, taken: members.map(|member| (member.node, member.name.clone())).collect() })
    }
}

fn group(machine: Option<&NewMachine>) -> Option<&Name> {
    machine?.spec.placement.anti_affinity.as_ref()
}

/// The node that takes a submission's work, and for a dry run what speaks for and against each.
pub(super) fn place(
    work: &mut Work<'_>,
    groups: &Groups,
    item: &Submission,
    amount: Amounts,
    machine: Option<&NewMachine>,
) -> Result<Answer<(NodeId, Option<Choice>)>> {
    let Some(tenant) = work.tenant(item.tenant)? else { return Ok(Err(no_tenant(item.tenant))) };
    if let Err(refusal) = quota::check(&tenant.limits, &tenant.book, &amount) {
        return Ok(Err(refusal));
    }
    let any = BTreeMap::new();
    let wanted = Wanted {
        amount: amount.room(),
        capability: item.kind.as_str(),
        image: machine.map(|machine| &machine.spec.image_digest),
        node: item.target.node,
        labels: machine.map_or(&any, |machine| &machine.spec.placement.labels),
        apart: groups.apart(work, item.tenant, machine),
    };
    let weights = work.context.placement.weights;
    let candidates = work.candidates()?;
    let choice = item.dry_run.then(|| placement::explain(candidates, &wanted, &weights));
    Ok(placement::place(candidates, &wanted, &weights).map(|node| (node, choice)))
}
