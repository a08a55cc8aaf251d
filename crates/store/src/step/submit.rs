//! Submitting: a task, its VM, its allocation, its audit entry and its event are written together, or refused.

mod again;
mod change;
mod image;
pub(super) mod later;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};

use hostler_db::Result;
use hostler_model::{
    Code, Fence, NodeId, Refusal, TaskId, TenantId, VmId,
    alloc::{Allocation, Hold, Owner},
    amounts::Amounts,
    edit::{check_deletable, check_generation},
    kind::{Admission, Aim, Turn},
    name::Name,
    placement::Choice,
    task::{Event, Left, Life, Target, Task, TaskState},
    vm::{Vm, VmState},
};
use serde_json::json;

use self::change::{Change, name_wanted};
use super::{
    edit,
    place::{Groups, Placed, place},
    tenant::no_tenant,
};
use crate::{
    Accepted, Answer, NewMachine, Submission,
    group::Step,
    idempotency::{self, FirstAnswer, Key, Stored},
    life::running,
    task::{Held, TaskRow, waiting_for},
    vm::{self, VmRow},
    work::{Did, Work},
};

/// The step.
#[derive(Debug)]
pub(crate) struct Submit;

impl Step for Submit {
    type Item = Submission;
    type Output = Accepted;
    const LABEL: &'static str = "store.submit";
    const MOST: usize = 256;

    fn run(work: &mut Work<'_>, items: &[Submission]) -> Result<Vec<Answer<Accepted>>> {
        run(work, items)
    }
}

/// Answers each item, in order; also for steps that file tasks of their own.
pub(super) fn run(work: &mut Work<'_>, items: &[Submission]) -> Result<Vec<Answer<Accepted>>> {
    let mut batch = Batch::read(work, items)?;
    items.iter().map(|item| batch.answer(work, item)).collect()
}

/// What the whole batch needs.
struct Batch {
    answers: BTreeMap<Key, FirstAnswer>,
    names: BTreeMap<(TenantId, Name), VmId>,
    images: image::There,
    groups: Groups,
    store_epoch: u32,
}

/// What an accepted item comes to, before anything is written.
struct Plan {
    row: TaskRow,
    vm: Option<VmRow>,
    allocation: Option<Allocation>,
    snapshot: Option<snapshot::Part>,
    /// Earlier tasks on the VM that it aborts.
    aborts: Vec<TaskId>,
    /// What it changes of the VM with its submission.
    change: Option<Change>,
    /// What spoke for and against each node, where that was asked.
    choice: Option<Choice>,
}

impl Batch {
    fn read(work: &mut Work<'_>, items: &[Submission]) -> Result<Batch> {
        let keys =
            items.iter().filter_map(Key::of).chain(items.iter().filter_map(Key::of_batch)).collect::<BTreeSet<_>>();
        let keys = Vec::from_iter(keys);
        let retried: Vec<TaskId> = items.iter().filter_map(|item| item.retry_of).collect();
        work.read_task_rows(&retried)?;
        let names: Vec<(TenantId, Name)> =
            items.iter().filter_map(|item| Some((item.tenant, name_wanted(item)?))).collect();
        work.read_tenants(&items.iter().map(|item| item.tenant).collect())?;
        let vms: BTreeSet<VmId> = items.iter().filter_map(|item| item.target.vm).collect();
        work.read_vms(&vms)?;
        let answers = if keys.is_empty() { Vec::new() } else { idempotency::by_keys(work.tx, &keys)? };
        let taken = if names.is_empty() { Vec::new() } else { vm::by_names(work.tx, &names)? };
        Ok(Batch {
            answers: answers.into_iter().map(|first| (first.key.clone(), first)).collect(),
            names: taken.into_iter().map(|row| ((row.vm.tenant, row.vm.name), row.vm.id)).collect(),
            images: image::There::read(work.tx, items)?,
            groups: Groups::of_batch(work.tx, items)?,
            store_epoch: work.head()?.store_epoch,
        })
    }

    fn answer(&mut self, work: &mut Work<'_>, item: &Submission) -> Result<Answer<Accepted>> {
        let (key, batch) = (Key::of(item), Key::of_batch(item));
        if let Some(first) = batch.as_ref().and_then(|key| self.answers.get(key))
            && let Some(Err(refusal)) = item.idempotency.as_ref().map(|sent| first.again(sent))
        {
            return Ok(Err(refusal));
        }
        if let Some(again) = key.as_ref().and_then(|key| replay(self.answers.get(key)?, item)) {
            return Ok(again);
        }
        if let Err(refusal) = again::check(work, item)? {
            return Ok(Err(refusal));
        }
        let plan = match self.decide(work, item)? {
            Ok(plan) => plan,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if item.dry_run {
            return Ok(Ok(Accepted {
                task: plan.row.task,
                vm: plan.vm.map(|row| row.vm),
                snapshot: plan.snapshot.map(|part| part.snapshot),
                replayed: false,
                placement: plan.choice,
            }));
        }
        let accepted = self.accept(work, item, plan)?;
        again::accept(work, item);
        if let (Some(key), Some(sent)) = (key, &item.idempotency) {
            let answer = Stored {
                task: Some(accepted.task.clone()),
                vm: accepted.vm.clone(),
                snapshot: accepted.snapshot.clone(),
            };
            let first = FirstAnswer { key, body: sent.body.clone(), answer };
            // The first item that is accepted speaks for its batch too.
            let whole = batch.filter(|key| !self.answers.contains_key(key));
            for first in whole.map(|key| FirstAnswer { key, ..first.clone() }).into_iter().chain([first]) {
                work.first_answers.push(first.clone());
                self.answers.insert(first.key.clone(), first);
            }
        }
        Ok(Ok(accepted))
    }

    fn decide(&self, work: &mut Work<'_>, item: &Submission) -> Result<Answer<Plan>> {
        match item.kind.spec().aim {
            Aim::NewVm => self.decide_new_vm(work, item),
            Aim::Vm => self.decide_on_vm(work, item),
            Aim::AnyNode => self.decide_any_node(work, item),
            Aim::Node => self.decide_node(work, item),
        }
    }

    fn decide_new_vm(&self, work: &mut Work<'_>, item: &Submission) -> Result<Answer<Plan>> {
        let Some(machine) = &item.vm else {
            return Ok(Err(Refusal::field("vm", "this kind makes a machine, and the submission describes none")));
        };
        if let Some(id) = self.names.get(&(item.tenant, machine.name.clone())) {
            return Ok(Err(name_taken(&machine.name, *id)));
        }
        let amount = Amounts { running_vms: i64::from(item.kind.spec().starts), ..machine.spec.charge().into() };
        let Placed { node, choice } = match place(work, &self.groups, item, amount, Some(machine))? {
            Ok(placed) => placed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let free = match node {
            Some(node) => edit::free(work, machine.id, item.tenant, &machine.spec.port_forwards, node)?,
            None => Ok(()),
        };
        if let Err(refusal) = free.and(self.images.has(item)) {
            return Ok(Err(refusal));
        }
        let row = self.row(work, item, Target { vm: Some(machine.id), node: item.target.node }, node)?;
        let owner = Owner::Vm(machine.id);
        let allocation = Some(Allocation { owner, tenant: item.tenant, node, amount, hold: Hold::Held });
        let vm = Some(new_vm(work, item, machine, node));
        Ok(Ok(Plan { row, vm, allocation, snapshot: None, aborts: Vec::new(), change: None, choice }))
    }

    fn decide_any_node(&self, work: &mut Work<'_>, item: &Submission) -> Result<Answer<Plan>> {
        let amount = (item.kind.spec().delta)(&item.params).into();
        let placed = place(work, &self.groups, item, amount, None)?;
        let Placed { node, choice } = match placed.and_then(|placed| self.images.has(item).map(|()| placed)) {
            Ok(placed) => placed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let row = self.row(work, item, Target { vm: None, node: item.target.node }, node)?;
        let allocation = of_task(item, node, amount);
        Ok(Ok(Plan { row, vm: None, allocation, snapshot: None, aborts: Vec::new(), change: None, choice }))
    }

    /// The node that is named does it, whether it takes new machines or not; one that is away has its time in the queue.
    fn decide_node(&self, work: &mut Work<'_>, item: &Submission) -> Result<Answer<Plan>> {
        if work.tenant(item.tenant)?.is_none() {
            return Ok(Err(no_tenant(item.tenant)));
        }
        let named = match item.target.node {
            Some(id) => crate::node::identities(work.tx, &[id])?.get(&id).map(|known| (id, known.state)),
            None => None,
        };
        let Some((node, state)) = named else {
            return Ok(Err(Refusal::field(
                "target.node",
                "this kind works on a node, and the target names none that is there",
            )));
        };
        if !state.takes_tasks() {
            let detail = format!("the node is {state}, and gets no tasks; approve it first");
            return Ok(Err(Refusal::new(Code::NodeStateConflict, detail).with("node", node.to_string())));
        }
        let row = self.row(work, item, Target { vm: None, node: Some(node) }, Some(node))?;
        let (aborts, change, choice) = (Vec::new(), None, None);
        Ok(Ok(Plan { row, vm: None, allocation: None, snapshot: None, aborts, change, choice }))
    }

    fn decide_on_vm(&self, work: &mut Work<'_>, item: &Submission) -> Result<Answer<Plan>> {
        let Some(id) = item.target.vm else {
            return Ok(Err(Refusal::field("target.vm", "this kind works on a VM, and the target names none")));
        };
        let (queue, later) = (work.queue(id)?, item.not_before > work.now);
        let vm = work.vms.get(&id).filter(|row| row.vm.tenant == item.tenant && row.vm.state != VmState::Deleted);
        let Some(vm) = vm.cloned() else { return Ok(Err(vm_not_found(id))) };
        let Some(node) = vm.vm.node else { return self.decide_unplaced(work, item, &vm) };
        if let Err(refusal) = check_generation(&vm.vm, item.if_match.as_deref()) {
            return Ok(Err(refusal));
        }
        let (spec, earlier) = (item.kind.spec(), work.first_change(&queue));
        if spec.turn == Turn::Final
            && let Err(refusal) = check_deletable(&vm.vm)
        {
            return Ok(Err(refusal));
        }
        if earlier.is_none()
            && !later
            && let Admission::Refuse(code, detail) = (spec.admit)(vm.vm.state)
        {
            return Ok(Err(Refusal::new(code, detail).with("vm", id.to_string()).with("state", vm.vm.state.as_str())));
        }
        let part = match snapshot::decide(work, item, &vm.vm, node, later || earlier.is_some())? {
            Ok(part) => part,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // What a task for later changes and stops is decided when its time comes.
        let change = match if later { Ok(None) } else { self.change(work, item, &vm.vm, node)? } {
            Ok(change) => change,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !later && let Err(refusal) = running::may_start(work, item, id)? {
            return Ok(Err(refusal));
        }
        let aborts = if later { Vec::new() } else { aborts(work, spec.turn, &queue) };
        let target = Target { vm: Some(id), node: item.target.node };
        let mut row = TaskRow { later, ..self.row(work, item, target, Some(node))? };
        let vm = change.as_ref().map_or_else(|| vm.clone(), |change| change.told(&mut row.task, &vm));
        let held = Held { turn: earlier.is_some(), paused: work.is_paused(node)?, unplaced: false };
        row.task.waiting_for = waiting_for(&row.task, held, work.now);
        let allocation = of_task(item, Some(node), (spec.delta)(&item.params).into());
        Ok(Ok(Plan { row, vm: Some(vm), allocation, snapshot: part, aborts, change, choice: None }))
    }

    /// A machine that waits for a node with room may be deleted, and nothing else: nobody has it yet.
    fn decide_unplaced(&self, work: &mut Work<'_>, item: &Submission, row: &VmRow) -> Result<Answer<Plan>> {
        let (vm, queue) = (&row.vm, work.queue(row.vm.id)?);
        let spec = item.kind.spec();
        if let Err(refusal) = check_generation(vm, item.if_match.as_deref()) {
            return Ok(Err(refusal));
        }
        if spec.turn != Turn::Final || item.not_before > work.now {
            let detail = format!(
                "the VM {} waits for a node with room, and is not made yet; wait until it is, or delete it",
                vm.name
            );
            return Ok(Err(Refusal::new(Code::VmStateConflict, detail).with("vm", vm.id.to_string())));
        }
        if let Err(refusal) = check_deletable(vm) {
            return Ok(Err(refusal));
        }
        let aborts = aborts(work, spec.turn, &queue);
        let plan = Plan {
            row: self.row(work, item, Target { vm: Some(vm.id), node: None }, None)?,
            vm: Some(row.clone()),
            allocation: None,
            snapshot: None,
            aborts,
            change: None,
            choice: None,
        };
        Ok(Ok(plan))
    }

    /// The task as it is written down first.
    fn row(&self, work: &mut Work<'_>, item: &Submission, target: Target, node: Option<NodeId>) -> Result<TaskRow> {
        let (now, not_before) = (work.now, item.not_before.max(work.now));
        let mut task = Task {
            id: item.task,
            tenant: item.tenant,
            kind: item.kind,
            target,
            params: item.params.clone(),
            state: TaskState::Queued,
            waiting_for: None,
            node,
            fence: Fence { store_epoch: self.store_epoch, attempt: 0 },
            max_attempts: item.schedule.retry.attempts,
            schedule: item.schedule,
            abort_reason: None,
            progress: None,
            phases: Vec::new(),
            output: None,
            error: None,
            dead_letter: None,
            retry_of: item.retry_of,
            created_by: item.actor.principal,
            created_at: now,
            not_before,
            queue_deadline: item.schedule.queue_deadline(not_before),
            deadline: None,
            started_at: None,
            finished_at: None,
            signed: false,
        };
        let paused = node.map_or(Ok(false), |node| work.is_paused(node))?;
        task.waiting_for = waiting_for(&task, Held { paused, ..Held::default() }, now);
        let mut row =
            TaskRow { seq: 0, task, left: Left::Nothing, lease: None, later: false, ripe: false, proof: None };
        row.set_life(Life::new(self.store_epoch, not_before));
        Ok(row)
    }

    /// Puts a plan into the working set, and answers with what it made.
    fn accept(&mut self, work: &mut Work<'_>, item: &Submission, plan: Plan) -> Result<Accepted> {
        let Plan { row, vm, allocation, snapshot, aborts, change, choice } = plan;
        let snapshot_id = snapshot.as_ref().map(|part| part.snapshot.id);
        let task = row.task.clone();
        let vm_id = task.target.vm;
        work.insert_task(row);
        work.secrets.extend(item.secrets.iter().map(|secret| (task.id, secret.clone())));
        tell(work, item, &task);
        if let Some(allocation) = allocation {
            work.set_allocation(allocation.owner, Some(allocation))?;
        }
        if let (Some(machine), Some(vm)) = (&item.vm, vm) {
            self.names.insert((item.tenant, machine.name.clone()), machine.id);
            if let Some(node) = task.node {
                self.groups.put(item.tenant, &machine.spec, machine.id, &machine.name, node);
            }
            let data = json!({"name": vm.vm.name, "node": vm.vm.node, "task": task.id});
            work.event(Some(item.tenant), "vm", "vm.created", machine.id.0, data);
            work.vms.insert(machine.id, vm);
        }
        if let Some(part) = snapshot {
            snapshot::accept(work, item, part)?;
        }
        self.begin(work, item, change, aborts)?;
        work.wake(task.node);
        let waiting_for = task.waiting_for;
        let mut task = work.tasks.get(&task.id).map_or(task, |row| row.task.clone());
        task.waiting_for = waiting_for.filter(|_| task.state == TaskState::Queued);
        let vm = vm_id.and_then(|id| work.vms.get(&id)).map(|row| row.vm.clone());
        let snapshot = snapshot_id.and_then(|id| work.snapshots.get(&id)).map(|row| row.snapshot.clone());
        Ok(Accepted { task, vm, snapshot, replayed: false, placement: choice })
    }

    /// What a task does as it takes its place in its machine's queue.
    fn begin(
        &mut self,
        work: &mut Work<'_>,
        item: &Submission,
        change: Option<Change>,
        aborts: Vec<TaskId>,
    ) -> Result<()> {
        if let Some(change) = change {
            self.accept_change(work, item, change)?;
        }
        for earlier in aborts {
            work.cancel(earlier, &item.actor)?;
        }
        let Some(vm) = work.tasks.get(&item.task).and_then(|row| row.task.target.vm) else { return Ok(()) };
        self.take_turn(work, item, vm)?;
        work.recount_running(vm)
    }

    /// Names the change under way on the VM, and ends a task at once for which nothing is left to do.
    fn take_turn(&mut self, work: &mut Work<'_>, item: &Submission, vm: VmId) -> Result<()> {
        let queue = work.queue(vm)?;
        let first = work.first_change(&queue);
        let Some(row) = work.vms.get(&vm) else { return Ok(()) };
        let (state, named) = (row.vm.state, row.vm.task);
        if state == VmState::Deleted {
            self.names.retain(|_, id| *id != vm);
        }
        if first != Some(item.task) {
            return Ok(());
        }
        if let Admission::Moot(output) = (item.kind.spec().admit)(state) {
            // A denial would only mean that it waits for its node.
            let _ = work.apply(item.task, Event::Moot { output })?;
        } else if named.is_none()
            && let Some(row) = work.vms.change(&vm)
        {
            row.vm.task = Some(item.task);
        }
        Ok(())
    }
}

fn replay(first: &FirstAnswer, item: &Submission) -> Option<Answer<Accepted>> {
    Some(match first.again(item.idempotency.as_ref()?) {
        Ok(Stored { task: Some(task), vm, snapshot }) => {
            Ok(Accepted { task, vm, snapshot, replayed: true, placement: None })
        }
        // A record was changed under this key, which is another request than this one.
        Ok(answer @ Stored { task: None, .. }) => Err(idempotency::used_up(&answer)),
        Err(refusal) => Err(refusal),
    })
}

/// The tasks before it that a deletion ends. One under way is not ended by the next one, which then finds nothing left
/// to do.
fn aborts(work: &Work<'_>, turn: Turn, queue: &[TaskId]) -> Vec<TaskId> {
    let is_other = |id: &TaskId| work.tasks.get(id).is_some_and(|row| row.task.kind.spec().turn != Turn::Final);
    match turn {
        Turn::Final => queue.iter().copied().filter(is_other).collect(),
        Turn::None | Turn::Shared | Turn::Exclusive => Vec::new(),
    }
}

fn new_vm(work: &Work<'_>, item: &Submission, machine: &NewMachine, node: Option<NodeId>) -> VmRow {
    let vm = Vm {
        id: machine.id,
        tenant: item.tenant,
        name: machine.name.clone(),
        state: VmState::Provisioning,
        ready: false,
        reason: None,
        detail: None,
        last_state: None,
        task: Some(item.task),
        node,
        // It grows with every placement.
        epoch: u32::from(node.is_some()),
        generation: 1,
        observed_generation: 0,
        protected: machine.protected,
        restart_at: None,
        expires_at: machine.ttl.map(|ttl| work.now.plus(ttl)),
        spec: machine.spec.clone(),
        created_at: work.now,
        updated_at: work.now,
    };
    VmRow { seq: 0, vm, reaped_at: None, tries: Vec::new() }
}

/// What a task takes while it lives, if it takes anything.
fn of_task(item: &Submission, node: Option<NodeId>, amount: Amounts) -> Option<Allocation> {
    let owner = Owner::Task(item.task);
    let allocation = Allocation { owner, tenant: item.tenant, node, amount, hold: Hold::Held };
    Some(allocation).filter(|_| !amount.is_zero())
}

/// What the log says of a task that was accepted. Its entry's number is the task's own.
fn tell(work: &mut Work<'_>, item: &Submission, task: &Task) {
    let mut data = json!({"kind": task.kind, "node": task.node});
    if let Some(vm) = task.target.vm {
        data["vm"] = json!(vm);
    }
    let did = Did { kind: "task.queued", by: "task.submit" };
    work.act(&item.actor, Some(item.tenant), "task", did, task.id.0, &data);
}

pub(super) fn name_taken(name: &Name, id: VmId) -> Refusal {
    Refusal::new(Code::NameTaken, format!("a VM named {name} exists; choose another name, or delete that one first"))
        .with("name", name.as_str())
        .with("vm", id.to_string())
}

pub(super) fn vm_not_found(id: VmId) -> Refusal {
    Refusal::new(Code::VmNotFound, "there is no such VM; `hostler vm list` shows those there are")
        .with("vm", id.to_string())
}
