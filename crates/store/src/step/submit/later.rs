//! Tasks on a machine that are to be done later. Until its time such a task takes no turn, names no machine and stops
//! nothing, and what it wants is not judged by a state that is not the one it will find.
//!
//! ```text
//! accepted ──not_before──► takes its place at the end of the machine's queue ──► as any other task
//!                     └──► what it wants may not be: failed, with the refusal's code
//! ```
//!
//! Its place is that of its time, not of its submission: what was queued meanwhile was promised that nothing is before it.

use hostler_db::Result;
use hostler_model::{
    Code, Refusal, TaskId,
    edit::check_deletable,
    event::Actor,
    kind::{Admission, Turn},
    task::Event,
    vm::VmState,
};
use serde_json::json;

use super::{Batch, aborts, change::Change, snapshot, vm_not_found};
use crate::{
    Answer, Submission,
    life::running,
    task::{self, TaskRow},
    work::Work,
};

/// How many tasks whose time has come one step lets be leased: the next step comes within a second.
const RIPE: usize = 1000;

/// Lets tasks be leased whose time has come, before the step reads any. One that the store fails on takes neither the
/// others with it nor the step.
pub(in crate::step) fn ripen(work: &mut Work<'_>) -> Result<()> {
    if !work.context.ripened.is_due(work.now) {
        return Ok(());
    }
    task::ripen(work.tx, work.now, RIPE)?;
    let mut pieces = vec![task::later::due(work.tx, work.now, RIPE)?];
    while let Some(mut piece) = pieces.pop().filter(|piece| !piece.is_empty()) {
        let rows = piece.clone();
        let Err(error) = work.part(|work| take_places(work, rows)) else { continue };
        if error.is_outage() {
            return Err(error);
        }
        tracing::error!(%error, tasks = piece.len(), "tasks whose time has come cannot take their places");
        match (piece.split_off(piece.len() / 2), piece) {
            (last, first) if first.is_empty() => last.into_iter().try_for_each(|row| give_up(work, row))?,
            (last, first) => pieces.extend([last, first]),
        }
    }
    Ok(())
}

/// Ends a task that the store fails on: it would come again with every step.
fn give_up(work: &mut Work<'_>, row: TaskRow) -> Result<()> {
    let id = row.task.id;
    let detail = "the store failed on it when its time came; the server's log says why".to_owned();
    let ended = work.part(|work| {
        work.adopt(vec![row])?;
        work.apply(id, Event::Refuse { code: Code::Internal, detail }).map(drop)
    });
    match ended {
        Err(error) if !error.is_outage() => {
            tracing::error!(%error, task.id = %id, "a task whose time has come cannot be ended");
            Ok(())
        }
        ended => ended,
    }
}

/// Each by itself, in the order of their times.
fn take_places(work: &mut Work<'_>, rows: Vec<TaskRow>) -> Result<()> {
    let items: Vec<Submission> = rows.iter().map(again).collect();
    work.adopt(rows)?;
    let mut batch = Batch::read(work, &items)?;
    items.iter().try_for_each(|item| come(&mut batch, work, item))
}

/// A task as it was asked for.
fn again(row: &TaskRow) -> Submission {
    let task = &row.task;
    Submission {
        task: task.id,
        tenant: task.tenant,
        actor: Actor { principal: task.created_by, ..Actor::system() },
        kind: task.kind,
        params: task.params.clone(),
        secrets: Vec::new(),
        target: task.target.clone(),
        schedule: task.schedule,
        not_before: task.not_before,
        vm: None,
        snapshot: None,
        retry_of: None,
        idempotency: None,
        if_match: None,
        dry_run: false,
    }
}

/// One task's time has come.
fn come(batch: &mut Batch, work: &mut Work<'_>, item: &Submission) -> Result<()> {
    let Some(row) = work.tasks.get(&item.task).filter(|row| row.later && !row.ended()) else { return Ok(()) };
    let (node, attempt) = (row.task.node, row.task.fence);
    let wanted = wants(batch, work, item)?;
    work.take_place(item.task);
    let data = json!({"kind": item.kind, "node": node, "fence": attempt, "vm": item.target.vm});
    work.event(Some(item.tenant), "task", "task.due", item.task.0, data);
    match wanted {
        Wanted::Go { change, stops } => {
            if let Some(Change::Edit(plan)) = &change {
                work.amend(item.task, plan.params.clone());
            }
            batch.begin(work, item, change, stops)?;
            work.wake(node);
        }
        // A denial would mean that somebody ended it just now.
        Wanted::End(event) => drop(work.apply(item.task, event)?),
    }
    Ok(())
}

/// What becomes of a task whose time has come.
enum Wanted {
    Go { change: Option<Change>, stops: Vec<TaskId> },
    End(Event),
}

fn wants(batch: &Batch, work: &mut Work<'_>, item: &Submission) -> Result<Wanted> {
    let Some(id) = item.target.vm else { return Ok(Wanted::Go { change: None, stops: Vec::new() }) };
    let queue = work.queue(id)?;
    let Some(vm) = work.vms.get(&id).map(|row| row.vm.clone()) else { return Ok(refused(vm_not_found(id))) };
    let spec = item.kind.spec();
    if vm.state == VmState::Deleted {
        return Ok(match (spec.admit)(vm.state) {
            Admission::Moot(output) => Wanted::End(Event::Moot { output }),
            Admission::Refuse(code, detail) => Wanted::End(Event::Refuse { code, detail }),
            Admission::Go => refused(vm_not_found(id)),
        });
    }
    if spec.turn == Turn::Final
        && let Err(refusal) = check_deletable(&vm)
    {
        return Ok(refused(refusal));
    }
    let waits = work.first_change(&queue).is_some();
    let change: Answer<Option<Change>> = match vm.node {
        Some(node) => match snapshot::come(work, item, &vm, node, waits)? {
            Ok(()) => batch.change(work, item, &vm, node)?,
            Err(refusal) => Err(refusal),
        },
        None => Ok(None),
    };
    if let Err(refusal) = running::may_start(work, item, id)? {
        return Ok(refused(refusal));
    }
    let stops = aborts(work, spec.turn, &queue);
    Ok(change.map_or_else(refused, |change| Wanted::Go { change, stops }))
}

fn refused(Refusal { code, detail, .. }: Refusal) -> Wanted {
    Wanted::End(Event::Refuse { code, detail })
}
