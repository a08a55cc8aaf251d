//! Results of consumers that are not ours: of the one attempt that there is, without a fence. Who says so is whom the
//! broker lets say it; that the node's agent is not ours, that its own user says so where it has one, and that the task was
//! sent to it, is looked at here.

use std::collections::{BTreeMap, BTreeSet};

use hostler_db::Result;
use hostler_model::{
    Code, NodeId, Refusal, TaskId,
    broker::{PlainResult, Transport, may_speak},
    internal::{Receipt, Report},
    node::Node,
    task::{Effects, End},
};

use super::settle;
use crate::{Answer, PlainSettle, node, work::Work};

/// Writes results down. A repeat changes nothing.
pub(crate) fn settle(work: &mut Work<'_>, settles: &[PlainSettle]) -> Result<Vec<Answer<Receipt>>> {
    let nodes: BTreeSet<NodeId> = settles.iter().map(|settle| settle.result.agent_id).collect();
    let rows = node::by_ids(work.tx, &Vec::from_iter(nodes), work.usual())?;
    let known: BTreeMap<NodeId, Node> = rows.into_iter().map(|row| (row.node.id, row.node)).collect();
    let tasks: Vec<TaskId> = settles.iter().map(|settle| settle.result.task_id).collect();
    work.read_tasks(&tasks)?;
    let one = |settle: &PlainSettle| match known.get(&settle.result.agent_id) {
        Some(node) if node.transport != Transport::Plain => Ok(Err(not_plain(&settle.result))),
        Some(node) if !may_speak(node.facts.broker_user.as_deref(), settle.user.as_deref()) => {
            Ok(Err(not_its_user(&settle.result)))
        }
        Some(_) => conclude(work, &settle.result),
        None => Ok(Err(not_plain(&settle.result))),
    };
    settles.iter().map(one).collect()
}

fn not_its_user(result: &PlainResult) -> Refusal {
    let detail =
        "the broker does not vouch that this is of the user that speaks for the node: set the property user_id";
    Refusal::new(Code::IdentityMismatch, detail).with("node", result.agent_id.to_string())
}

fn conclude(work: &mut Work<'_>, result: &PlainResult) -> Result<Answer<Receipt>> {
    let Some(row) = work.tasks.get(&result.task_id) else { return Ok(Ok(Receipt::Unknown)) };
    if row.task.node != Some(result.agent_id) {
        let detail = "the task was not sent to the node in whose name the result is";
        return Ok(Err(Refusal::new(Code::IdentityMismatch, detail).with("node", result.agent_id.to_string())));
    }
    let end = if result.ok {
        End::Succeeded { output: result.result.clone() }
    } else {
        let effects = if result.undone { Effects::Undone } else { Effects::Remain };
        End::Failed { code: Code::HandlerFailed, detail: result.reason(), retryable: false, effects }
    };
    let (fence, now) = (row.task.fence, work.now);
    let finished_at = result.ended_at().unwrap_or(now);
    // When it began nobody said: when it was sent is as near as can be known.
    let started_at = row.task.started_at.unwrap_or(finished_at);
    let task = result.task_id;
    let report = Report { task, fence, end, phases: Vec::new(), log: Vec::new(), started_at, finished_at };
    // Nobody has a key of whom the broker speaks for.
    settle::conclude(work, result.agent_id, &report, None).map(Ok)
}

fn not_plain(result: &PlainResult) -> Refusal {
    let detail = "no node of this id takes its tasks in plain form: results of our own agents are signed";
    Refusal::new(Code::IdentityMismatch, detail).with("node", result.agent_id.to_string())
}
