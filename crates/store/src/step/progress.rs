//! Progress: renews a lease, notes when the handler began and how far it is, and answers whether to stop.

use std::collections::BTreeSet;

use hostler_db::Result;
use hostler_model::{
    Code, NodeId, Refusal, TaskId,
    internal::ProgressAnswer,
    task::{Event, Progress, TaskState},
};
use serde_json::json;

use super::identify;
use crate::{Answer, Progressed, group::Step, node, work::Work};

/// Characters of a phase's name that are kept.
const PHASE: usize = 128;

/// The step.
#[derive(Debug)]
pub(crate) struct Report;

impl Step for Report {
    type Item = Progressed;
    type Output = ProgressAnswer;
    const LABEL: &'static str = "store.start";
    const MOST: usize = 256;

    fn run(work: &mut Work<'_>, items: &[Progressed]) -> Result<Vec<Answer<ProgressAnswer>>> {
        let nodes: BTreeSet<NodeId> = items.iter().map(|item| item.node).collect();
        let known = node::identities(work.tx, &Vec::from_iter(nodes))?;
        let tasks: Vec<TaskId> = items.iter().map(|item| item.task).collect();
        work.read_task_rows(&tasks)?;
        items
            .iter()
            .map(|item| match identify(&known, item.node, item.enrolment) {
                Ok(_) => note(work, item),
                Err(refusal) => Ok(Err(refusal)),
            })
            .collect()
    }
}

fn note(work: &mut Work<'_>, item: &Progressed) -> Result<Answer<ProgressAnswer>> {
    let held = |work: &Work<'_>| {
        work.tasks.get(&item.task).is_some_and(|row| {
            row.task.node == Some(item.node) && row.lease.is_some_and(|lease| lease.enrolment == item.enrolment)
        })
    };
    let fence = item.report.fence;
    let expires_at = work.now.plus(work.context.timing.lease);
    if !held(work) || work.apply(item.task, Event::Renew { fence, expires_at })?.is_err() {
        return Ok(Err(stale(item.task)));
    }
    write_down(work, item);
    let Some((state, lease)) = work.tasks.get(&item.task).map(|row| (row.task.state, row.lease)) else {
        return Ok(Err(stale(item.task)));
    };
    let lease_expires_at = lease.map_or(expires_at, |lease| lease.expires_at);
    Ok(Ok(ProgressAnswer { abort: state == TaskState::Aborting, lease_expires_at }))
}

fn write_down(work: &mut Work<'_>, item: &Progressed) {
    let now = work.now;
    let Some(row) = work.tasks.change(&item.task) else { return };
    let (tenant, fence) = (row.task.tenant, row.task.fence);
    let began = row.task.started_at.is_none();
    let report = &item.report;
    if began {
        // The agent's clock may be another; a task neither begins before it was asked for nor in the future.
        row.task.started_at = Some(report.started_at.min(now).max(row.task.created_at));
    }
    let progress = Progress {
        phase: cut(&report.progress.phase),
        percent: report.progress.percent.map(|p| p.min(100)),
        done: super::settle::phases(&report.progress.done),
    };
    let moved = row.task.progress.as_ref() != Some(&progress);
    if moved {
        row.task.progress = Some(progress.clone());
    }
    let started_at = row.task.started_at;
    if began {
        let data = json!({"node": item.node, "fence": fence, "started_at": started_at});
        work.event(Some(tenant), "task", "task.started", item.task.0, data);
    }
    work.say(item.task, &report.log);
    if moved && !progress.phase.is_empty() {
        let data = json!({"fence": fence, "phase": progress.phase, "percent": progress.percent, "done": progress.done});
        work.event(Some(tenant), "task", "task.progress", item.task.0, data);
    }
}

fn cut(text: &str) -> String {
    text.chars().take(PHASE).collect()
}

fn stale(task: TaskId) -> Refusal {
    Refusal::new(Code::StaleFence, "this attempt is over: another is current, or the task has ended; stop and undo it")
        .with("task", task.to_string())
}
