//! What happens to tasks and VMs within a step: transitions from the model, and everything that follows from them
//! (the VM, its turn, allocations, events), so that one transaction tells the whole truth.

pub(crate) mod running;
mod snapshot;

use hostler_db::Result;
use hostler_model::{
    TaskId, VmId,
    alloc::{Allocation, Hold, Owner, Settlement},
    event::Actor,
    planted::{Bug, is_planted},
    task::{self, Denial, End, Event, Outcome, TaskState, Verdict},
    vm::{VmChange, VmState},
};
use serde_json::{Value, json};

use crate::{step::edit, task::TaskRow, work::Work};

impl Work<'_> {
    /// Lets something happen to a task that was read, with all that follows from it.
    pub(crate) fn apply(&mut self, id: TaskId, event: Event) -> Result<std::result::Result<Outcome, Denial>> {
        let Some(row) = self.tasks.get(&id) else { return Ok(Err(Denial::WrongState)) };
        let before = row.life();
        let mut life = before.clone();
        let rules = row.task.rules();
        let (word, failure) = (Word::of(&event), failure(&event));
        let outcome = match task::apply(&mut life, event, &rules, self.now, self.context.ids.unit()) {
            Ok(outcome) => outcome,
            Err(denial) => return Ok(Err(denial)),
        };
        if life == before {
            return Ok(Ok(outcome));
        }
        let Some(row) = self.tasks.change(&id) else { return Ok(Ok(outcome)) };
        let leased = life.lease.is_some();
        row.set_life(life);
        let told = row
            .task
            .node
            .filter(|_| leased && row.task.state == TaskState::Aborting && before.state != TaskState::Aborting);
        if row.task.state == TaskState::Queued {
            // Its time in the queue begins anew with each backoff.
            row.task.queue_deadline =
                row.task.queue_deadline.max(row.task.schedule.queue_deadline(row.task.not_before));
            row.task.progress = None;
            if is_planted(Bug::TurnLostInBackoff) {
                self.take_place(id);
            }
        }
        if let Some(node) = told {
            self.abort(node, id);
        }
        match &outcome {
            Outcome::Ended(verdict) => self.end(id, verdict)?,
            Outcome::Alive => {
                self.count_change(id, &before);
                self.tell(id, word, before.state);
                self.explain(id, word, failure);
            }
        }
        Ok(Ok(outcome))
    }

    /// Cancels a task on behalf of somebody; whether it was there to be cancelled.
    pub(crate) fn cancel(&mut self, id: TaskId, actor: &Actor) -> Result<bool> {
        let Some(row) = self.tasks.get(&id) else { return Ok(false) };
        let (tenant, node) = (row.task.tenant, row.task.node);
        if self.apply(id, Event::Cancel)?.is_err() {
            return Ok(false);
        }
        self.audit(actor, Some(tenant), "task", "task.cancel", id.0, json!({}));
        self.wake(node);
        Ok(true)
    }

    /// The event of a change that did not end the task.
    fn tell(&mut self, id: TaskId, word: Word, before: TaskState) {
        let Some(row) = self.tasks.get(&id) else { return };
        let kind = match (word, row.task.state) {
            (Word::Leased, _) => "task.leased",
            (Word::Renewed, _) => return,
            (_, TaskState::Aborting) if before != TaskState::Aborting => "task.aborting",
            (Word::Lapsed, _) => "task.lapsed",
            (Word::Reported, _) => "task.retrying",
            (Word::Stopped, _) => return,
        };
        let task = &row.task;
        let mut data = json!({"kind": task.kind, "node": task.node, "fence": task.fence});
        if let Some(vm) = task.target.vm {
            data["vm"] = json!(vm);
        }
        match task.state {
            TaskState::Queued => data["not_before"] = json!(task.not_before),
            TaskState::Aborting => data["reason"] = json!(task.abort_reason),
            TaskState::Running | TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => {}
        }
        let tenant = task.tenant;
        self.event(Some(tenant), "task", kind, id.0, data);
    }

    /// What the task's log says of a second attempt and how it came to that; a task that goes well costs no line.
    fn explain(&mut self, id: TaskId, word: Word, failure: Option<String>) {
        let Some(task) = self.tasks.get(&id).map(|row| &row.task) else { return };
        let again = match task.state {
            TaskState::Queued => format!("; it is tried again after {}", task.not_before),
            TaskState::Running | TaskState::Aborting => String::new(),
            TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => return,
        };
        match (word, failure) {
            (Word::Leased, _) if task.fence.attempt > 1 => self.note(id, None),
            (Word::Lapsed, _) => self.note(id, Some(format!("its node was not heard of it in time{again}"))),
            (Word::Reported, Some(failure)) => self.note(id, Some(format!("failed: {failure}{again}"))),
            (Word::Leased | Word::Renewed | Word::Reported | Word::Stopped, _) => {}
        }
    }

    /// All that follows from a task's end.
    fn end(&mut self, id: TaskId, verdict: &Verdict) -> Result<()> {
        let now = self.now;
        let Some(row) = self.tasks.change(&id) else { return Ok(()) };
        row.task.finished_at.get_or_insert(now);
        row.task.progress = None;
        match verdict {
            Verdict::Succeeded { output } => row.task.output = Some(output.clone()),
            Verdict::Unsuccessful { error, .. } => row.task.error = Some(error.clone()),
        }
        let row = row.clone();
        self.count_end(&row.task);
        self.event(Some(row.task.tenant), "task", ended_word(row.task.state), id.0, ended_data(&row));
        self.ended(id);
        self.settle_allocation(Owner::Task(id), Settlement::of_task(verdict))?;
        self.end_on_snapshot(&row, verdict)?;
        match row.task.target.vm {
            Some(vm) => self.end_on_vm(&row, vm, verdict),
            None => Ok(()),
        }
    }

    fn end_on_vm(&mut self, row: &TaskRow, id: VmId, verdict: &Verdict) -> Result<()> {
        let queue = self.queue(id)?;
        let Some(vm) = self.vms.get(&id) else { return Ok(()) };
        let node = vm.vm.node;
        let settled = (row.task.kind.spec().settle)(vm.vm.state, verdict);
        let is_there = settled.vm.as_ref().is_some_and(|change| change.state.is_there());
        if let Some(change) = settled.vm {
            self.change_vm(id, &change, json!({"task": row.task.id}));
            if change.state == VmState::Deleted {
                self.delete_snapshots_of(id)?;
            }
        }
        let settlement = edit::settlement(self, id, settled.allocation)?;
        self.settle_allocation(Owner::Vm(id), settlement)?;
        if is_there {
            self.charge_again(id)?;
        }
        edit::settle(self, row, id, verdict)?;
        if self.vms.get(&id).is_some_and(|vm| vm.vm.task == Some(row.task.id)) {
            let next = self.first_change(&queue);
            let now = self.now;
            if let Some(vm) = self.vms.change(&id) {
                vm.vm.task = next;
                vm.vm.updated_at = now;
            }
        }
        if self.any_queued(&queue) {
            self.wake(node);
        }
        Ok(())
    }

    fn settle_allocation(&mut self, owner: Owner, settlement: Settlement) -> Result<()> {
        match self.allocation(owner)? {
            Some(before) => self.set_allocation(owner, settlement.apply(before)),
            None => Ok(()),
        }
    }

    /// Changes what is known of a VM, and says so.
    pub(crate) fn change_vm(&mut self, id: VmId, change: &VmChange, why: Value) {
        let now = self.now;
        let Some(row) = self.vms.change(&id) else { return };
        let vm = &mut row.vm;
        vm.last_state = change.last_state(vm.state, vm.last_state);
        (vm.state, vm.ready, vm.reason) = (change.state, change.ready, change.reason);
        // A text column ends at a NUL; an agent's words may have one.
        vm.detail = change.detail.as_deref().map(|detail| detail.replace('\0', "\u{fffd}"));
        vm.updated_at = now;
        let mut data = json!({"name": vm.name, "node": vm.node, "ready": vm.ready, "cause": why});
        if let Some(reason) = vm.reason {
            data["reason"] = json!(reason);
        }
        let (tenant, kind) = (vm.tenant, vm_word(vm.state));
        self.event(Some(tenant), "vm", kind, id.0, data);
        self.plan_restart(id);
    }

    /// Charges for a machine that is there, although nobody has reported that it was made, or nothing is booked for it any
    /// more.
    pub(crate) fn charge_again(&mut self, id: VmId) -> Result<()> {
        let owner = Owner::Vm(id);
        let taken = self.allocation(owner)?;
        let Some(vm) = self.vms.get(&id).map(|row| &row.vm) else { return Ok(()) };
        let amount = taken.map_or_else(|| vm.spec.charge().into(), |taken| taken.amount);
        let booked = Allocation { owner, tenant: vm.tenant, node: vm.node, amount, hold: Hold::Used };
        self.set_allocation(owner, Some(booked))
    }
}

/// What happened, without what came with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Leased,
    Renewed,
    Reported,
    Lapsed,
    Stopped,
}

impl Word {
    fn of(event: &Event) -> Word {
        match event {
            Event::Lease(_) => Word::Leased,
            Event::Renew { .. } => Word::Renewed,
            Event::Report { .. } => Word::Reported,
            Event::Lapse => Word::Lapsed,
            Event::Cancel
            | Event::MissQueueDeadline
            | Event::MissDeadline
            | Event::Refuse { .. }
            | Event::Moot { .. }
            | Event::Force => Word::Stopped,
        }
    }
}

/// Why an attempt failed, in words.
fn failure(event: &Event) -> Option<String> {
    match event {
        Event::Report { end: End::Failed { code, detail, .. }, .. } => Some(format!("{code}: {detail}")),
        Event::Report { .. }
        | Event::Lease(_)
        | Event::Renew { .. }
        | Event::Lapse
        | Event::Cancel
        | Event::MissQueueDeadline
        | Event::MissDeadline
        | Event::Refuse { .. }
        | Event::Moot { .. }
        | Event::Force => None,
    }
}

const fn ended_word(state: TaskState) -> &'static str {
    match state {
        TaskState::Succeeded => "task.succeeded",
        TaskState::Failed => "task.failed",
        TaskState::Cancelled => "task.cancelled",
        TaskState::Queued | TaskState::Running | TaskState::Aborting => "task.changed",
    }
}

fn ended_data(row: &TaskRow) -> Value {
    let task = &row.task;
    let mut data = json!({"kind": task.kind, "node": task.node, "fence": task.fence});
    if let Some(vm) = task.target.vm {
        data["vm"] = json!(vm);
    }
    if let Some(error) = &task.error {
        data["code"] = json!(error.code);
    }
    data
}

const fn vm_word(state: VmState) -> &'static str {
    match state {
        VmState::Provisioning => "vm.provisioning",
        VmState::Running => "vm.running",
        VmState::Paused => "vm.paused",
        VmState::Stopped => "vm.stopped",
        VmState::Sleeping => "vm.sleeping",
        VmState::Error => "vm.error",
        VmState::Unknown => "vm.unknown",
        VmState::Deleted => "vm.deleted",
    }
}
