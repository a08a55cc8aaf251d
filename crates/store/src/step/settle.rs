//! Settling: what attempts came to. A repeat changes nothing, and neither does a fence that was passed.

use std::collections::BTreeSet;

use hostler_db::Result;
use hostler_model::{
    NodeId, TaskId,
    alloc::Owner,
    internal::{Receipt, Report},
    planted::{Bug, is_planted},
    task::{End, Event, PhaseTiming},
};
use serde_json::{Value, json};

use super::identify;
use crate::{Answer, Proof, Settle, allocation, group::Step, node, proof::KeptProof, task, work::Work};

/// An output's bytes as JSON, at most: what a kind may say (64 KiB twice, escaped) fits well; a fault does not fill
/// the disk.
const OUTPUT: usize = 1 << 20;
/// An error's characters, at most.
const DETAIL: usize = 4096;
/// Phases of one attempt, at most.
const PHASES: usize = 64;

/// The step.
#[derive(Debug)]
pub(crate) struct Conclude;

impl Step for Conclude {
    type Item = Settle;
    type Output = Receipt;
    const LABEL: &'static str = "store.settle";
    const MOST: usize = 512;

    fn run(work: &mut Work<'_>, items: &[Settle]) -> Result<Vec<Answer<Receipt>>> {
        let nodes: BTreeSet<NodeId> = items.iter().map(|item| item.node).collect();
        let tasks: BTreeSet<TaskId> = items.iter().map(|item| item.report.task).collect();
        let owners: Vec<Owner> = tasks.iter().copied().map(Owner::Task).collect();
        let tasks = Vec::from_iter(tasks);
        task::expect(work.tx, &tasks)?;
        allocation::expect(work.tx, &owners)?;
        let known = node::identities(work.tx, &Vec::from_iter(nodes))?;
        work.read_allocations(owners)?;
        work.read_tasks(&tasks)?;
        items
            .iter()
            .map(|item| match identify(&known, item.node, item.enrolment) {
                Ok(_) => conclude(work, item.node, &item.report, Some(&item.proof)).map(Ok),
                Err(refusal) => Ok(Err(refusal)),
            })
            .collect()
    }
}

pub(super) fn conclude(work: &mut Work<'_>, node: NodeId, report: &Report, proof: Option<&Proof>) -> Result<Receipt> {
    let Some(row) = work.tasks.get(&report.task) else { return Ok(Receipt::Unknown) };
    if row.task.node != Some(node) {
        return Ok(Receipt::Stale);
    }
    let life = row.life();
    if life.reported(report.fence) {
        return Ok(Receipt::Settled);
    }
    let fence = if is_planted(Bug::FenceUnchecked) { life.fence } else { report.fence };
    if life.fence != fence || life.state.is_terminal() {
        return Ok(Receipt::Stale);
    }
    work.say(report.task, &report.log);
    let Some(row) = work.tasks.get(&report.task) else { return Ok(Receipt::Unknown) };
    let before = (row.task.started_at, row.task.finished_at, row.task.phases.clone());
    note_times(work, report);
    let end = bounded(report.end.clone());
    // What is kept of it in part is no longer what was signed.
    let proof = proof.filter(|_| end == report.end);
    let outcome = work.apply(report.task, Event::Report { fence, end })?;
    let Some(row) = work.tasks.change(&report.task) else { return Ok(Receipt::Unknown) };
    match outcome {
        Ok(_) => {
            if !row.ended() {
                row.task.finished_at = None;
            }
            row.proof = proof.map(|proof| kept(report, proof));
            row.task.signed |= row.proof.is_some();
            Ok(Receipt::Settled)
        }
        Err(_) => {
            (row.task.started_at, row.task.finished_at, row.task.phases) = before;
            Ok(Receipt::Stale)
        }
    }
}

/// What is kept of a proof: the task's output is not kept twice.
fn kept(report: &Report, proof: &Proof) -> KeptProof {
    let end = match &report.end {
        End::Succeeded { .. } => None,
        end @ (End::Failed { .. } | End::Cancelled { .. }) => Some(end.clone()),
    };
    let Proof { signed, certificate } = proof;
    KeptProof { fence: report.fence, signed: signed.to_string(), certificate: certificate.clone(), end }
}

/// When the handler began and ended, and its phases. The agent's clock may be another: a task neither begins before it
/// was asked for nor ends in the future.
fn note_times(work: &mut Work<'_>, report: &Report) {
    let now = work.now;
    let Some(row) = work.tasks.change(&report.task) else { return };
    let task = &mut row.task;
    let started_at = *task.started_at.get_or_insert(report.started_at.min(now).max(task.created_at));
    task.finished_at = Some(report.finished_at.min(now).max(started_at));
    task.phases = phases(&report.phases);
}

/// What is kept of the phases that an agent reports.
pub(super) fn phases(reported: &[PhaseTiming]) -> Vec<PhaseTiming> {
    let kept = reported.iter().take(PHASES);
    kept.map(|timing| PhaseTiming { phase: timing.phase.chars().take(128).collect(), ms: timing.ms }).collect()
}

/// An end that fits the store.
fn bounded(end: End) -> End {
    match end {
        End::Succeeded { output } => End::Succeeded { output: bounded_output(output) },
        End::Failed { code, detail, retryable, effects } => {
            End::Failed { code, detail: detail.chars().take(DETAIL).collect(), retryable, effects }
        }
        End::Cancelled { effects } => End::Cancelled { effects },
    }
}

fn bounded_output(output: Value) -> Value {
    let bytes = output.to_string().len();
    if bytes <= OUTPUT { output } else { json!({"truncated": true, "bytes": bytes, "limit": OUTPUT}) }
}
