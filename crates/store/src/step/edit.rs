//! Editing a machine. What takes effect by being written down is written down at once; what concerns its host is asked
//! for at once as well, and brought there by a `vm.edit`, all in one commit.
//!
//! ```text
//! patch ──► record only ──────────────────► written
//!      └──► its host too ──► quota, room, ports ──► written, charged max(what is, what is to be), filed
//!                                                       │ done: charged what is there · undone: taken back
//! ```

use hostler_db::Result;
use hostler_model::{
    Code, NodeId, Refusal, Resources, TaskId, VmId,
    alloc::{Allocation, Owner, Settlement},
    amounts::Amounts,
    edit::{self, Outcome, Shape, VmPatch},
    forward,
    kind::{Filed, KindName, VmCreateOutput, VmEditOutput, is_plausible},
    placement, quota,
    task::{Effects, Verdict},
    vm::{Observation, Vm, VmState},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    port,
    submit::{self, vm_not_found},
};
use crate::{
    Answer, Edited, Submission,
    idempotency::{self, FirstAnswer, Key, Stored},
    task::TaskRow,
    work::Work,
};

/// A patch: the machine as it is then, and the task where its host must do something.
pub(crate) fn edit(work: &mut Work<'_>, submission: &Submission) -> Result<Answer<Edited>> {
    let key = Key::of(submission);
    let first = key.as_ref().map(|key| idempotency::by_key::<Stored>(work.tx, key)).transpose()?.flatten();
    if let (Some(first), Some(sent)) = (first, &submission.idempotency) {
        return match first.again(sent) {
            Ok(Stored { task: None, vm: Some(vm), .. }) => Ok(Ok(Edited::Record { vm: Box::new(vm), replayed: true })),
            Ok(_) => file(work, submission),
            Err(refusal) => Ok(Err(refusal)),
        };
    }
    let (vm, after) = match decide(work, submission)? {
        Ok(decided) => decided,
        Err(refusal) => return Ok(Err(refusal)),
    };
    // What is for later is not in the answer, and so a task whatever it changes.
    if Shape::of(&vm.spec) != Shape::of(&after.spec) || submission.not_before > work.now {
        return file(work, submission);
    }
    if after != vm && !submission.dry_run {
        let data = json!({"generation": after.generation, "patch": submission.params});
        work.audit(&submission.actor, Some(vm.tenant), "vm", "vm.edit", vm.id.0, data);
        write(work, &vm, &after);
    }
    let now = work.vms.get(&vm.id).filter(|_| !submission.dry_run).map_or(after, |row| row.vm.clone());
    if let (Some(key), Some(sent)) = (key, &submission.idempotency) {
        let answer = Stored { task: None, vm: Some(now.clone()), snapshot: None };
        work.first_answers.push(FirstAnswer { key, body: sent.body.clone(), answer });
    }
    Ok(Ok(Edited::Record { vm: Box::new(now), replayed: false }))
}

fn file(work: &mut Work<'_>, submission: &Submission) -> Result<Answer<Edited>> {
    let mut answers = submit::run(work, std::slice::from_ref(submission))?;
    Ok(answers.remove(0).map(|accepted| Edited::Task(Box::new(accepted))))
}

/// The machine before and after.
fn decide(work: &mut Work<'_>, item: &Submission) -> Result<Answer<(Vm, Vm)>> {
    let Some(id) = item.target.vm else {
        return Ok(Err(Refusal::field("target.vm", "an edit works on a VM, and the target names none")));
    };
    let queue = work.queue(id)?;
    let vm = work.vms.get(&id).map(|row| &row.vm);
    let Some(vm) = vm.filter(|vm| vm.tenant == item.tenant && vm.state != VmState::Deleted).cloned() else {
        return Ok(Err(vm_not_found(id)));
    };
    if queue.iter().any(|task| is(work, *task, TaskRow::is_final)) {
        return Ok(Err(going(&vm)));
    }
    let patch = VmPatch::deserialize(&item.params)
        .map_err(|error| Refusal::new(Code::ValidationError, format!("the patch cannot be read: {error}")));
    let decided =
        edit::check_generation(&vm, item.if_match.as_deref()).and(patch).and_then(|patch| patch.apply(&vm, work.now));
    Ok(decided.map(|after| (vm, after)))
}

fn is(work: &Work<'_>, task: TaskId, what: impl Fn(&TaskRow) -> bool) -> bool {
    work.tasks.get(&task).is_some_and(what)
}

/// Whether it is an edit that the machine's spec says already. One for later is not in it.
fn is_edit(row: &TaskRow) -> bool {
    row.task.kind == KindName::VmEdit && !row.later
}

/// What an accepted `vm.edit` comes to.
pub(super) struct Plan {
    before: Vm,
    pub(super) after: Vm,
    pub(super) params: Value,
    allocation: Option<Allocation>,
}

/// Decides a `vm.edit`: one at a time, within quota and room, with ports that are free.
pub(super) fn plan(work: &mut Work<'_>, item: &Submission, node: NodeId) -> Result<Answer<Plan>> {
    let (before, after) = match decide(work, item)? {
        Ok(decided) => decided,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let queue = work.queue(before.id)?;
    if let Some(other) = queue.into_iter().find(|task| is(work, *task, is_edit)) {
        return Ok(Err(busy(&before, other)));
    }
    let shape = Shape::of(&after.spec);
    if let Err(refusal) = ports_free(work, &before, &shape, node)? {
        return Ok(Err(refusal));
    }
    let charged = work.allocation(Owner::Vm(before.id))?;
    let allocation = charged.map(|held| {
        let room = edit::larger(held.amount.room(), shape.charge());
        Allocation { amount: held.amount.with_room(room), ..held }
    });
    if let (Some(charged), Some(then)) = (&charged, &allocation)
        && let Err(refusal) = may_grow(work, item, node, then.amount - charged.amount)?
    {
        return Ok(Err(refusal));
    }
    let filed = Filed {
        generation: after.generation,
        before: Shape::of(&before.spec),
        after: shape,
        charged: charged.map(|charged| charged.amount.room()),
    };
    let mut params = item.params.clone();
    params["filed"] = json!(filed);
    Ok(Ok(Plan { before, after, params, allocation }))
}

/// Only growth is checked.
fn may_grow(work: &mut Work<'_>, item: &Submission, node: NodeId, growth: Amounts) -> Result<Answer<()>> {
    if growth.is_zero() {
        return Ok(Ok(()));
    }
    let Some(tenant) = work.tenant(item.tenant)? else { return Ok(Ok(())) };
    if let Err(refusal) = quota::check(&tenant.limits, &tenant.book, &growth) {
        return Ok(Err(refusal));
    }
    let candidate = work.candidates()?.iter().find(|candidate| candidate.id == node);
    Ok(candidate.map_or(Ok(()), |candidate| placement::grow(candidate, &growth.room())))
}

/// Refuses a port of the node that another machine there has.
fn ports_free(work: &mut Work<'_>, vm: &Vm, shape: &Shape, node: NodeId) -> Result<Answer<()>> {
    let new: Vec<_> = shape.port_forwards.iter().filter(|new| !vm.spec.port_forwards.contains(new)).copied().collect();
    port::free(work, vm.id, vm.tenant, &new, node)
}

/// Writes an accepted `vm.edit` down, beside its task.
pub(super) fn accept(work: &mut Work<'_>, plan: &Plan) -> Result<()> {
    if plan.allocation.is_some() {
        work.set_allocation(Owner::Vm(plan.before.id), plan.allocation)?;
    }
    if plan.before != plan.after {
        write(work, &plan.before, &plan.after);
    }
    Ok(())
}

fn write(work: &mut Work<'_>, before: &Vm, after: &Vm) {
    let fields = edit::changed(before, after);
    let data = json!({"name": after.name, "generation": after.generation, "changed": fields});
    work.event(Some(after.tenant), "vm", "vm.edited", after.id.0, data);
    put(work, after);
}

/// Puts the edited machine in its place. Another end of its time is another reason to delete it.
fn put(work: &mut Work<'_>, after: &Vm) {
    let mut policy = false;
    if let Some(row) = work.vms.change(&after.id) {
        policy = (row.vm.spec.restart, row.vm.spec.autostart) != (after.spec.restart, after.spec.autostart);
        if row.vm.expires_at != after.expires_at {
            row.reaped_at = None;
        }
        row.vm = after.clone();
    }
    if policy {
        work.plan_restart(after.id);
    }
}

/// What the end of a task says of what a machine is to be, beside what its kind says.
pub(crate) fn settle(work: &mut Work<'_>, task: &TaskRow, id: VmId, verdict: &Verdict) -> Result<()> {
    match task.task.kind {
        KindName::VmEdit => settle_edit(work, task, id, verdict),
        KindName::VmCreate => {
            if let Verdict::Succeeded { output } = verdict {
                let said = VmCreateOutput::deserialize(output).map(|made| made.port_forwards);
                made(work, id, said.unwrap_or_default())?;
            }
            Ok(())
        }
        KindName::VmStart | KindName::VmStop if is_new_process(verdict) => applied(work, id),
        _ => Ok(()),
    }
}

/// A machine was made: what it was made of is what runs. Only its record changed meanwhile, unless an edit of it waits.
fn made(work: &mut Work<'_>, id: VmId, said: Vec<forward::PortForward>) -> Result<()> {
    let waits = waiting(work, id)?;
    let Some(row) = work.vms.change(&id) else { return Ok(()) };
    row.vm.observed_generation = match &waits {
        Some((_, filed)) => filed.generation.saturating_sub(1),
        None => row.vm.generation,
    };
    forward::choose(&mut row.vm.spec.port_forwards, said.clone());
    if let Some((task, mut filed)) = waits {
        // Should it be undone, the machine is to have the ports that it has.
        forward::choose(&mut filed.before.port_forwards, said);
        let params = work.tasks.get(&task).map(|row| row.task.params.clone());
        if let Some(mut params) = params {
            params["filed"] = json!(filed);
            work.amend(task, params);
        }
    }
    Ok(())
}

/// The edit that waits for its turn on a machine, and what was filed with it.
fn waiting(work: &mut Work<'_>, id: VmId) -> Result<Option<(TaskId, Filed)>> {
    let queue = work.queue(id)?;
    let edit = queue.into_iter().find(|task| is(work, *task, is_edit));
    Ok(edit.and_then(|task| {
        let row = work.tasks.get(&task)?;
        Some((task, Filed::deserialize(row.task.params.get("filed")?).ok()?))
    }))
}

/// What the end of a task does to its machine's charge: while an edit waits, what that asks for stays taken.
pub(crate) fn settlement(work: &mut Work<'_>, id: VmId, settlement: Settlement) -> Result<Settlement> {
    match settlement {
        Settlement::Use(amount) => Ok(match waiting(work, id)? {
            Some((_, filed)) => Settlement::Use(edit::larger(amount, filed.after.charge())),
            None => settlement,
        }),
        Settlement::Keep | Settlement::UseHeld | Settlement::Release => Ok(settlement),
    }
}

/// Whether a machine's process is another one than before, or gone: what waited for that waits no longer.
fn is_new_process(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Succeeded { output } => output.get("how").and_then(Value::as_str) != Some("already"),
        Verdict::Unsuccessful { .. } => false,
    }
}

/// All that was asked for is in effect, but for an edit that is yet to come.
fn applied(work: &mut Work<'_>, id: VmId) -> Result<()> {
    let waits = waiting(work, id)?.is_some();
    let Some(row) = work.vms.change(&id).filter(|_| !waits) else { return Ok(()) };
    row.vm.observed_generation = row.vm.generation;
    let amount = row.vm.spec.charge();
    charge(work, id, Some(amount))
}

fn settle_edit(work: &mut Work<'_>, task: &TaskRow, id: VmId, verdict: &Verdict) -> Result<()> {
    let filed = task.task.params.get("filed").and_then(|filed| Filed::deserialize(filed).ok());
    let (Some(filed), Some(row)) = (filed, work.vms.get(&id)) else { return Ok(()) };
    let vm = row.vm.clone();
    let (after, amount) = match verdict {
        Verdict::Succeeded { output } => {
            let output = VmEditOutput::deserialize(output).unwrap_or_default();
            let mut wished = vm.clone();
            forward::choose(&mut wished.spec.port_forwards, output.forwards);
            let outcome = Outcome::Done { forwards: wished.spec.port_forwards, pending: output.restart_pending };
            let there = edit::larger(output.charge, vm.spec.charge());
            (edit::settle(&vm, &filed, outcome), Some(there).filter(is_plausible))
        }
        Verdict::Unsuccessful { effects: Effects::Undone, .. } => {
            (edit::settle(&vm, &filed, Outcome::Undone), filed.charged)
        }
        // Nobody knows which of both it is: it stays charged for the larger.
        Verdict::Unsuccessful { effects: Effects::Remain, .. } => (vm.clone(), None),
    };
    charge(work, id, amount)?;
    if after != vm {
        write(work, &vm, &after);
    }
    Ok(())
}

/// Charges a machine this much, if it is charged at all. More than was held is never booked.
fn charge(work: &mut Work<'_>, id: VmId, amount: Option<Resources>) -> Result<()> {
    let (Some(held), Some(amount)) = (work.allocation(Owner::Vm(id))?, amount) else { return Ok(()) };
    let most = held.amount;
    let amount = Resources {
        vcpus: amount.vcpus.min(most.vcpus),
        memory_mib: amount.memory_mib.min(most.memory_mib),
        disk_gib: amount.disk_gib.min(most.disk_gib),
        vms: most.vms,
    };
    work.set_allocation(Owner::Vm(id), Some(Allocation { amount: most.with_room(amount), ..held }))
}

/// What a node saw of a machine that no task is changing: whether all that was asked for has taken effect. What runs no
/// longer is no longer charged.
pub(crate) fn observe(work: &mut Work<'_>, id: VmId, seen: &Observation) -> Result<()> {
    let Some(vm) = work.vms.get(&id).map(|row| row.vm.clone()) else { return Ok(()) };
    let observed = edit::observed_generation(&vm, seen.restart_pending);
    if seen.epoch != vm.epoch || !seen.state.is_seen() || observed == vm.observed_generation {
        return Ok(());
    }
    if let Some(row) = work.vms.change(&id) {
        row.vm.observed_generation = observed;
        row.vm.updated_at = work.now;
    }
    let data = json!({"name": vm.name, "generation": vm.generation, "observed_generation": observed});
    work.event(Some(vm.tenant), "vm", "vm.applied", id.0, data);
    if observed == vm.generation {
        charge(work, id, Some(vm.spec.charge()))?;
    }
    Ok(())
}

fn going(vm: &Vm) -> Refusal {
    let detail = format!("the VM {} is being deleted; it is too late to change it", vm.name);
    Refusal::new(Code::VmStateConflict, detail).with("vm", vm.id.to_string()).with("state", vm.state.as_str())
}

fn busy(vm: &Vm, other: TaskId) -> Refusal {
    let detail = format!(
        "the VM {} is being edited by the task {other}; wait for it (`hostler task watch {other}`) or cancel it, then edit again",
        vm.name
    );
    Refusal::new(Code::VmStateConflict, detail).with("vm", vm.id.to_string()).with("task", other.to_string())
}
