//! What is to be offered by the broker. A row follows its task in the same transaction: it is there as long as the task
//! waits to be leased and its node's tasks travel that way, and names the attempt that will be leased.
//!
//! ```text
//! the task waits ──► due ──taken──► being sent ──confirmed──► with the broker ──the task is leased, or ends──► gone
//!                     ▲                 │
//!                     └── not confirmed ┘            another attempt, or another intent: due again
//! ```
//!
//! In plain form the task is leased as it is taken, and the row stays until the broker has it.

use std::collections::BTreeSet;

use hostler_db::{Result, Tx};
use hostler_model::{
    Fence, NodeId, TaskId, Timestamp,
    broker::Transport,
    task::{Intent, TaskState},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{COLUMNS, TaskRow, read};

// The words about `poll` name the index that has the nodes which a broker serves, if any.
const WAITING: &str = "
INSERT INTO outbox (task, node, store_epoch, attempt, intent, form, due_at)
SELECT c.value->>'task', n.id, h.store_epoch, CAST(c.value->>'attempt' AS BIGINT), c.value->>'intent', n.transport,
       CAST(c.value->>'due_at' AS BIGINT)
  FROM jsonb_each(?1) c
  JOIN nodes n ON n.id = c.value->>'node' AND n.transport <> 'poll'
  JOIN log_head h ON h.one = 1
 WHERE n.transport = 'amqp' OR (n.transport = 'plain' AND c.value->>'intent' = 'run')
    ON CONFLICT (task) DO UPDATE
   SET node = excluded.node, store_epoch = excluded.store_epoch, attempt = excluded.attempt, intent = excluded.intent,
       form = excluded.form, due_at = excluded.due_at, confirmed_at = NULL
 WHERE outbox.store_epoch <> excluded.store_epoch OR outbox.attempt <> excluded.attempt
    OR outbox.intent <> excluded.intent OR outbox.form <> excluded.form";

const OVER: &str = "
DELETE FROM outbox
 WHERE task IN (SELECT value FROM jsonb_each(?1))
   AND (form = 'amqp' OR NOT EXISTS (SELECT 1 FROM tasks t WHERE t.id = outbox.task AND t.lease_until IS NOT NULL))";

#[derive(Serialize)]
struct Waiting {
    task: TaskId,
    node: NodeId,
    attempt: u32,
    intent: Intent,
    due_at: i64,
}

/// Lets the outbox follow tasks that were written.
pub(crate) fn follow<'a>(tx: &Tx<'_>, rows: impl Iterator<Item = &'a TaskRow>) -> Result<()> {
    let (mut waiting, mut over) = (Vec::new(), Vec::new());
    for row in rows {
        match waits(row) {
            Some(wait) => waiting.push(wait),
            None => over.push(row.task.id),
        }
    }
    if !waiting.is_empty() {
        tx.put(WAITING, &waiting)?;
    }
    if !over.is_empty() {
        tx.put(OVER, &over)?;
    }
    Ok(())
}

fn waits(row: &TaskRow) -> Option<Waiting> {
    let task = &row.task;
    match task.state {
        TaskState::Queued | TaskState::Aborting if row.lease.is_none() => {}
        TaskState::Queued
        | TaskState::Aborting
        | TaskState::Running
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Cancelled => return None,
    }
    let Fence { attempt, .. } = task.fence.next();
    Some(Waiting {
        task: task.id,
        node: task.node?,
        attempt,
        intent: row.life().intent(),
        due_at: task.not_before.as_micros(),
    })
}

const FORGET_NODE: &str = "DELETE FROM outbox WHERE node = ?1->>'node'";

/// Rows for what waits at nodes, as far as a text goes on to say of which.
macro_rules! fill {
    () => {
        "
INSERT INTO outbox (task, node, store_epoch, attempt, intent, form, due_at)
SELECT t.id, n.id, h.store_epoch, t.attempt + 1, CASE t.state WHEN 'aborting' THEN 'abort' ELSE 'run' END, n.transport,
       t.not_before
  FROM nodes n
  JOIN log_head h ON h.one = 1
  JOIN tasks t ON t.node = n.id AND t.state IN ('queued', 'aborting') AND t.lease_until IS NULL
 WHERE "
    };
}

const FILL_NODE: &str = concat!(
    fill!(),
    "n.id = ?1->>'node' AND (n.transport = 'amqp' OR (n.transport = 'plain' AND t.state = 'queued'))
   AND ",
    has_not_ended!()
);

/// Makes the outbox anew for nodes whose tasks travel by another road from now on.
pub(crate) fn reroute(tx: &Tx<'_>, nodes: &BTreeSet<NodeId>) -> Result<()> {
    for node in nodes {
        let node = json!({"node": node});
        tx.put(FORGET_NODE, &node)?;
        tx.put(FILL_NODE, &node)?;
    }
    Ok(())
}

const DUE: &str = concat!(
    "
SELECT ",
    columns!(),
    ", o.form
  FROM outbox o
  JOIN tasks t ON t.id = o.task
  JOIN nodes n ON n.id = o.node
  JOIN log_head h ON h.one = 1
 WHERE o.confirmed_at IS NULL AND o.due_at <= CAST(?1->>'now' AS BIGINT) AND n.state <> 'pending'
   AND (n.heard_epoch = h.store_epoch OR o.form = 'plain')
   AND ((t.lease_until IS NOT NULL AND o.form = 'plain')
     OR (t.lease_until IS NULL AND t.ripe = 1
         AND (t.state = 'aborting'
           OR (t.state = 'queued' AND n.paused_at IS NULL AND t.queue_deadline > CAST(?1->>'now' AS BIGINT)))
         AND (t.vm IS NULL OR NOT ",
    waits_for_turn!(),
    ")
         AND (t.kind <> 'snapshot.delete' OR t.state = 'aborting' OR NOT ",
    waits_for_snapshot!(),
    ")))
 ORDER BY t.priority DESC, t.seq
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

/// What is to be offered now, by priority and then in the order in which it was queued.
pub(crate) fn due(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<Vec<(TaskRow, Transport)>> {
    let wanted = json!({"now": now.as_micros(), "limit": limit});
    tx.query(DUE, &wanted, |row| Ok((read(row)?, row.word(COLUMNS)?)))
}

const POSTPONE: &str = "
UPDATE outbox
   SET due_at = CAST(?1->>'until' AS BIGINT), confirmed_at = NULL
 WHERE task IN (SELECT value FROM jsonb_each(?1, '$.tasks'))";

/// Not sent before then: somebody sends it meanwhile, or what was sent has come back.
pub(crate) fn postpone(tx: &Tx<'_>, tasks: &[TaskId], until: Timestamp) -> Result<()> {
    if !tasks.is_empty() {
        tx.put(POSTPONE, &json!({"tasks": tasks, "until": until.as_micros()}))?;
    }
    Ok(())
}

const CONFIRM: &str = "
UPDATE outbox
   SET confirmed_at = CAST(?1->>'now' AS BIGINT)
  FROM jsonb_each(?1, '$.sent') c
 WHERE outbox.task = c.value->>'task' AND outbox.form = 'amqp' AND outbox.intent = c.value->>'intent'
   AND outbox.store_epoch = CAST(c.value->>'store_epoch' AS BIGINT)
   AND outbox.attempt = CAST(c.value->>'attempt' AS BIGINT)";

const DELIVERED: &str = "
DELETE FROM outbox
 WHERE task IN (SELECT value FROM jsonb_each(?1)) AND form = 'plain'";

/// The broker has these: they are not sent again.
pub(crate) fn confirm(tx: &Tx<'_>, sent: &[(TaskId, Fence, Intent)], now: Timestamp) -> Result<()> {
    let of = |(task, fence, intent): &(TaskId, Fence, Intent)| json!({"task": task, "intent": intent, "store_epoch": fence.store_epoch, "attempt": fence.attempt});
    let rows: Vec<Value> = sent.iter().map(of).collect();
    tx.put(CONFIRM, &json!({"sent": rows, "now": now.as_micros()}))?;
    tx.put(DELIVERED, &sent.iter().map(|(task, ..)| *task).collect::<Vec<_>>())?;
    Ok(())
}

const ANEW: &str = "
UPDATE outbox
   SET store_epoch = CAST(?1->>'store_epoch' AS BIGINT), due_at = 0, confirmed_at = NULL";

const FILL: &str = concat!(
    fill!(),
    "n.transport = 'amqp' AND ",
    has_not_ended!(),
    "
    ON CONFLICT (task) DO NOTHING"
);

/// The store was restored: what the broker has of before is over, whatever became of it, and what waits again is offered.
pub(crate) fn anew(tx: &Tx<'_>, store_epoch: u32) -> Result<()> {
    tx.put(ANEW, &json!({"store_epoch": store_epoch}))?;
    tx.put(FILL, &())
}

const STANDING: &str = "
SELECT o.task, o.store_epoch, o.attempt
  FROM jsonb_each(?1) wanted
  JOIN outbox o ON o.task = wanted.value";

/// Which attempts of these tasks are offered, or about to be.
pub(crate) fn standing(tx: &Tx<'_>, tasks: &[TaskId]) -> Result<Vec<(TaskId, Fence)>> {
    let read =
        |row: &hostler_db::Row<'_>| Ok((row.parse(0)?, Fence { store_epoch: row.get(1)?, attempt: row.get(2)? }));
    tx.query(STANDING, &tasks, read)
}

const LENGTH: &str = "
SELECT CAST(COALESCE(SUM(CASE WHEN confirmed_at IS NULL THEN 1 ELSE 0 END), 0) AS BIGINT),
       CAST(COALESCE(SUM(CASE WHEN confirmed_at IS NULL THEN 0 ELSE 1 END), 0) AS BIGINT)
  FROM outbox";

/// How many wait to be sent, and how many the broker has that no agent has begun.
pub(crate) fn length(tx: &Tx<'_>) -> Result<(i64, i64)> {
    Ok(tx.query_one(LENGTH, &(), |row| Ok((row.get(0)?, row.get(1)?)))?.unwrap_or_default())
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[WAITING, OVER, FORGET_NODE, FILL_NODE, DUE, POSTPONE, CONFIRM, DELIVERED, STANDING];
