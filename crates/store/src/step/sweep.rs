//! Passes of the loops: leases that lapsed, deadlines that passed, nodes that fell silent. Each does a bounded piece.

use std::collections::BTreeSet;

use hostler_db::Result;
use hostler_model::{
    NodeId, TaskId, Timestamp,
    node::{Freshness, FreshnessPolicy},
    task::Event,
    vm,
};
use serde_json::json;

use super::submit;
use crate::{
    Swept, idempotency,
    node::{self, NodeRow},
    secret,
    task::{self, Due, bound, stats},
    token, vm as vms,
    work::Work,
};

/// How many tasks one pass changes at most: a short transaction, and the loop comes again at once.
const PIECE: usize = 500;

/// Leases that ran out: back into the queue after a pause, or to be aborted. Judged only after a full lease of
/// uninterrupted service: before that the holders had no chance to renew.
pub(crate) fn lapse_leases(work: &mut Work<'_>) -> Result<Swept> {
    let lease = work.context.timing.lease;
    bound::leases(work.tx, work.now.plus(lease))?;
    bound::backoffs(work.tx, work.now)?;
    bound::plain(work.tx, work.now.plus(lease))?;
    if !work.context.service.long_enough(work.now, lease) {
        return Ok(Swept::default());
    }
    overdue(work, Due::Lease, &Event::Lapse)
}

/// Tasks that nobody leased in time. Those whose time has come take their place, whether any node asks for work or not.
pub(crate) fn expire_queued(work: &mut Work<'_>) -> Result<Swept> {
    submit::later::ripen(work)?;
    overdue(work, Due::Queue, &Event::MissQueueDeadline)
}

/// Tasks that ran too long.
pub(crate) fn expire_running(work: &mut Work<'_>) -> Result<Swept> {
    overdue(work, Due::End, &Event::MissDeadline)
}

fn overdue(work: &mut Work<'_>, due: Due, event: &Event) -> Result<Swept> {
    let rows = task::due(work.tx, due, work.now, PIECE)?;
    let more = rows.len() == PIECE;
    let ids: Vec<TaskId> = rows.iter().map(|row| row.task.id).collect();
    work.adopt(rows)?;
    let mut changed = 0;
    for id in ids {
        if work.apply(id, event.clone())?.is_ok() {
            changed += 1;
            let node = work.tasks.get(&id).and_then(|row| row.task.node);
            work.wake(node);
        }
    }
    Ok(Swept { changed, more })
}

/// Nodes by the length of their silence. Of those that would be lost only some may be, per lease period: when many fall
/// silent together, the fault is likely ours.
pub(crate) fn judge_nodes(work: &mut Work<'_>) -> Result<Swept> {
    let lease = work.context.timing.lease;
    if !work.context.service.long_enough(work.now, lease) {
        return Ok(Swept::default());
    }
    let rows = node::all(work.tx, work.usual())?;
    let lately = rows.iter().filter(|row| row.lost_at.is_some_and(|at| work.now.since(at) < lease)).count();
    let mut may_lose = FreshnessPolicy::may_lose(rows.len()).saturating_sub(lately);
    let mut lost = BTreeSet::new();
    let mut swept = Swept::default();
    for row in rows {
        let mut judged = judge(work, &row);
        if judged == Freshness::Lost && row.node.freshness != Freshness::Lost {
            if may_lose == 0 {
                judged = Freshness::Stale;
            } else {
                may_lose -= 1;
                lost.insert(row.node.id);
            }
        }
        if judged > row.node.freshness {
            worsen(work, row, judged);
            swept.changed += 1;
        }
    }
    lose_vms(work, &lost)?;
    Ok(swept)
}

/// Silence counts from the beginning of our own service at the earliest.
fn judge(work: &Work<'_>, row: &NodeRow) -> Freshness {
    let heard: Timestamp = row.node.last_seen.unwrap_or(row.node.created_at).max(work.context.service.since());
    work.context.timing.freshness.judge(work.now.since(heard))
}

fn worsen(work: &mut Work<'_>, mut row: NodeRow, judged: Freshness) {
    let (id, kind) = match judged {
        Freshness::Lost => (row.node.id, "node.lost"),
        Freshness::Stale | Freshness::Fresh => (row.node.id, "node.stale"),
    };
    let data = json!({"name": row.node.name, "was": row.node.freshness, "last_seen": row.node.last_seen});
    row.node.freshness = judged;
    row.lost_at = (judged == Freshness::Lost).then_some(work.now);
    work.nodes.insert(id, row);
    work.event(None, "node", kind, id.0, data);
}

/// What a lost node had is unknown.
fn lose_vms(work: &mut Work<'_>, nodes: &BTreeSet<NodeId>) -> Result<()> {
    if nodes.is_empty() {
        return Ok(());
    }
    for row in vms::on_nodes(work.tx, &Vec::from_iter(nodes.iter().copied()))? {
        let (id, change) = (row.vm.id, vm::lost(row.vm.state));
        work.vms.read(id, row);
        if let Some(change) = change {
            work.change_vm(id, &change, json!("node_lost"));
        }
    }
    Ok(())
}

/// Keys of 24 hours ago whose task ended, texts of tasks that came to nothing a week ago, and join tokens that were over a day
/// ago.
pub(crate) fn drop_idempotency_keys(work: &mut Work<'_>) -> Result<Swept> {
    let (texts, tokens) = (secret::drop_old(work.tx, work.now, PIECE)?, token::drop_old(work.tx, work.now)?);
    let changed = idempotency::drop_old(work.tx, work.now, PIECE)?.max(texts).max(tokens);
    Ok(Swept { changed, more: changed == PIECE })
}

/// Minutes of the statistics of tasks that are over.
pub(crate) fn fold_stats(work: &mut Work<'_>) -> Result<Swept> {
    let (changed, more) = stats::fold(work.tx, work.now)?;
    Ok(Swept { changed, more })
}
