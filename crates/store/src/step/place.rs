//! Where work is done: quota, then room. A group no two machines of which share a node is counted over what is there, what
//! is under way, and the batch itself.

use std::collections::{BTreeMap, BTreeSet};

use hostler_db::{Result, Tx};
use hostler_model::{
    NodeId, Refusal, Resources, TaskId, TenantId, VmId,
    alloc::{Allocation, Owner},
    amounts::Amounts,
    forward::{self, PortForward},
    kind::KindName,
    name::Name,
    placement::{self, Apart, Candidate, Choice, Placement, PortTaken, Wanted, Weights},
    quota,
    task::{Left, TaskState},
    vm::{Vm, VmSpec, VmState},
};
use serde_json::json;

use super::{port, tenant::no_tenant};
use crate::{Answer, NewMachine, Submission, task::TaskRow, vm, work::Work};

/// A machine of a group.
struct Member {
    id: VmId,
    name: Name,
    node: NodeId,
}

/// The machines of the groups that are asked for.
pub(super) struct Groups(BTreeMap<(TenantId, Name), Vec<Member>>);

impl Groups {
    /// Those of these words, where any names a group.
    pub(super) fn read<'a>(tx: &Tx<'_>, of: impl Iterator<Item = (TenantId, &'a Placement)>) -> Result<Groups> {
        let named = of.filter_map(|(tenant, placement)| Some((tenant, placement.anti_affinity.clone()?)));
        let wanted: BTreeSet<(TenantId, Name)> = named.collect();
        let mut groups = Groups(BTreeMap::new());
        let members = if wanted.is_empty() { Vec::new() } else { vm::apart(tx, &wanted)? };
        for vm::Apart { tenant, group, id, name, node } in members {
            groups.0.entry((tenant, group)).or_default().push(Member { id, name, node });
        }
        Ok(groups)
    }

    /// Those of a batch of submissions.
    pub(super) fn of_batch(tx: &Tx<'_>, items: &[Submission]) -> Result<Groups> {
        Groups::read(tx, items.iter().filter_map(|item| Some((item.tenant, &item.vm.as_ref()?.spec.placement))))
    }

    /// A machine is to be on this node, and nowhere else.
    pub(super) fn put(&mut self, tenant: TenantId, spec: &VmSpec, id: VmId, name: &Name, node: NodeId) {
        if let Some(group) = &spec.placement.anti_affinity {
            let members = self.0.entry((tenant, group.clone())).or_default();
            members.retain(|member| member.id != id);
            members.push(Member { id, name: name.clone(), node });
        }
    }

    /// Where others of the machine's group are. One that this step saw deleted is there no more.
    fn apart<'a>(&self, work: &Work<'_>, asked: &Asked<'a>) -> Option<Apart<'a>> {
        let (id, spec) = asked.machine?;
        let group = spec.placement.anti_affinity.as_ref()?;
        let is_there = |member: &&Member| {
            member.id != id && work.vms.get(&member.id).is_none_or(|row| row.vm.state != VmState::Deleted)
        };
        let members = self.0.get(&(asked.tenant, group.clone())).into_iter().flatten().filter(is_there);
        Some(Apart { group, taken: members.map(|member| (member.node, member.name.clone())).collect() })
    }
}

/// What is to be placed.
struct Asked<'a> {
    tenant: TenantId,
    kind: KindName,
    amount: Resources,
    /// The only node that will do.
    node: Option<NodeId>,
    machine: Option<(VmId, &'a VmSpec)>,
    /// The create that waits for room, if it is one.
    waiting: Option<TaskId>,
}

/// Nodes on which a port is taken that is to be forwarded there.
type Ports = BTreeMap<NodeId, PortTaken>;

impl<'a> Asked<'a> {
    /// The ports that it is to have; a port that is yet to be chosen is in nobody's way.
    fn forwards(&self) -> Vec<PortForward> {
        let all = self.machine.into_iter().flat_map(|(_, spec)| &spec.port_forwards);
        all.filter(|forward| forward.host_port != 0).copied().collect()
    }
}

/// How many nodes are looked at together for a port, where it was taken on all before: most times it is free on the first.
const MORE: usize = 16;

/// Where ports are taken that it is to have: of the nodes that would do otherwise the best ones are looked at until one has
/// them free.
fn ports(
    work: &mut Work<'_>,
    groups: &Groups,
    asked: &Asked<'_>,
    best: impl Fn(&[Candidate], &Wanted<'_>, &Weights, usize) -> Vec<NodeId>,
) -> Result<Ports> {
    let (mut ports, mut seen, mut many) = (Ports::new(), BTreeSet::new(), 1);
    let forwards = asked.forwards();
    let Some((id, _)) = asked.machine.filter(|_| !forwards.is_empty()) else { return Ok(ports) };
    loop {
        let next = ask(work, groups, asked, &ports, |nodes, wanted, weights| best(nodes, wanted, weights, many))?;
        let new: Vec<NodeId> = next.iter().filter(|node| !seen.contains(*node)).copied().collect();
        // Of what was seen and is still among them, everything is free.
        if next.first().is_none_or(|best| seen.contains(best)) {
            return Ok(ports);
        }
        ports.extend(port::taken(work, id, asked.tenant, &forwards, &new)?);
        seen.extend(new);
        many = many.saturating_mul(MORE);
    }
}

/// Asks placement about it, with every node as it is now.
fn ask<T>(
    work: &mut Work<'_>,
    groups: &Groups,
    asked: &Asked<'_>,
    ports: &Ports,
    about: impl FnOnce(&[Candidate], &Wanted<'_>, &Weights) -> T,
) -> Result<T> {
    let any = BTreeMap::new();
    let wanted = Wanted {
        waiting: asked.waiting,
        amount: asked.amount,
        capability: asked.kind.as_str(),
        image: asked.machine.map(|(_, spec)| &spec.image_digest),
        node: asked.node,
        labels: asked.machine.map_or(&any, |(_, spec)| &spec.placement.labels),
        apart: groups.apart(work, asked),
        ports,
    };
    let weights = work.context.placement.weights;
    Ok(about(work.candidates()?, &wanted, &weights))
}

/// Where a submission's work is to be done.
pub(super) struct Placed {
    /// The node; none where it waits for one.
    pub(super) node: Option<NodeId>,
    /// Of a dry run: what speaks for and against each.
    pub(super) choice: Option<Choice>,
}

/// The node that takes a submission's work, and for a dry run what speaks for and against each.
pub(super) fn place(
    work: &mut Work<'_>,
    groups: &Groups,
    item: &Submission,
    amount: Amounts,
    machine: Option<&NewMachine>,
) -> Result<Answer<Placed>> {
    let Some(tenant) = work.tenant(item.tenant)? else { return Ok(Err(no_tenant(item.tenant))) };
    if let Err(refusal) = quota::check(&tenant.limits, &tenant.book, &amount) {
        return Ok(Err(refusal));
    }
    let waits = machine.is_some_and(|machine| machine.wait_for_capacity);
    let machine = machine.map(|machine| (machine.id, &machine.spec));
    let (tenant, kind, amount, node) = (item.tenant, item.kind, amount.room(), item.target.node);
    let asked = Asked { tenant, kind, amount, node, machine, waiting: None };
    let ports = ports(work, groups, &asked, placement::fitting)?;
    let (node, choice) = ask(work, groups, &asked, &ports, |candidates, wanted, weights| {
        let choice = item.dry_run.then(|| placement::explain(candidates, wanted, weights));
        (placement::fitting(candidates, wanted, weights, 1).pop(), choice)
    })?;
    match node {
        None if !waits => Ok(Err(refusal(work, groups, &asked, &ports)?)),
        node => Ok(Ok(Placed { node, choice })),
    }
}

/// Why no node will do. Where only a port is in the way, whose that is.
fn refusal(work: &mut Work<'_>, groups: &Groups, asked: &Asked<'_>, ports: &Ports) -> Result<Refusal> {
    let best = ask(work, groups, asked, &Ports::new(), |nodes, wanted, weights| {
        placement::fitting(nodes, wanted, weights, 1).pop()
    })?;
    match best.and_then(|node| ports.get(&node)) {
        Some(PortTaken { forward, by }) => Ok(forward::taken(forward, by)),
        None => ask(work, groups, asked, ports, placement::why_none),
    }
}

/// A node for a machine that nobody has begun to make: its quota is taken, and only room is looked for.
pub(super) fn anew(work: &mut Work<'_>, groups: &Groups, row: &TaskRow, vm: &Vm) -> Result<Option<NodeId>> {
    let amount = amount(work, vm)?;
    let asked = asked(row, vm, amount);
    let ports = ports(work, groups, &asked, placement::fitting)?;
    ask(work, groups, &asked, &ports, |nodes, wanted, weights| placement::fitting(nodes, wanted, weights, 1).pop())
}

/// Why there is none.
pub(super) fn why_none(work: &mut Work<'_>, groups: &Groups, row: &TaskRow, vm: &Vm) -> Result<Refusal> {
    let amount = amount(work, vm)?;
    let asked = asked(row, vm, amount);
    let ports = ports(work, groups, &asked, placement::fitting)?;
    refusal(work, groups, &asked, &ports)
}

/// The node to be kept for a machine that has waited for long.
pub(super) fn keep(work: &mut Work<'_>, groups: &Groups, row: &TaskRow, vm: &Vm) -> Result<Option<NodeId>> {
    let amount = amount(work, vm)?;
    let asked = asked(row, vm, amount);
    let best = |nodes: &[Candidate], wanted: &Wanted<'_>, weights: &Weights| {
        placement::keep(nodes, wanted, weights).map(|candidate| candidate.id)
    };
    let ports =
        ports(work, groups, &asked, |nodes, wanted, weights, _| best(nodes, wanted, weights).into_iter().collect())?;
    ask(work, groups, &asked, &ports, best)
}

/// What a machine takes of its node.
pub(super) fn amount(work: &mut Work<'_>, vm: &Vm) -> Result<Resources> {
    Ok(work.allocation(Owner::Vm(vm.id))?.map_or_else(|| vm.spec.charge(), |taken| taken.amount.room()))
}

fn asked<'a>(row: &TaskRow, vm: &'a Vm, amount: Resources) -> Asked<'a> {
    let (kind, node, machine) = (row.task.kind, row.task.target.node, Some((vm.id, &vm.spec)));
    Asked { tenant: vm.tenant, kind, amount, node, machine, waiting: Some(row.task.id) }
}

/// Whether a task is that of a machine that nobody has begun to make.
pub(super) fn is_fresh(row: &TaskRow) -> bool {
    row.task.kind == KindName::VmCreate
        && row.task.state == TaskState::Queued
        && row.left == Left::Nothing
        && row.lease.is_none()
}

/// Puts a machine that nobody has begun to make on a node, with all that is queued for it. It is another placement, and so
/// another epoch.
pub(super) fn put(work: &mut Work<'_>, groups: &mut Groups, vm: &Vm, node: NodeId) -> Result<()> {
    let now = work.now;
    for id in work.queue(vm.id)? {
        let Some(row) = work.tasks.change(&id) else { continue };
        row.task.node = Some(node);
        row.task.queue_deadline = row.task.queue_deadline.max(row.task.schedule.queue_deadline(now));
        let data = json!({"kind": row.task.kind, "node": node, "was": vm.node, "vm": vm.id});
        work.event(Some(vm.tenant), "task", "task.placed", id.0, data);
    }
    if let Some(row) = work.vms.change(&vm.id) {
        (row.vm.node, row.vm.updated_at) = (Some(node), now);
        row.vm.epoch = row.vm.epoch.saturating_add(1);
    }
    groups.put(vm.tenant, &vm.spec, vm.id, &vm.name, node);
    let owner = Owner::Vm(vm.id);
    if let Some(taken) = work.allocation(owner)? {
        work.set_allocation(owner, Some(Allocation { node: Some(node), ..taken }))?;
    }
    work.wake(vm.node);
    work.wake(Some(node));
    Ok(())
}

/// The machine of a task, where there is one.
pub(super) fn machine_of(work: &Work<'_>, id: TaskId) -> Option<(TaskRow, Vm)> {
    let row = work.tasks.get(&id)?;
    let vm = work.vms.get(&row.task.target.vm?)?;
    Some((row.clone(), vm.vm.clone()))
}
