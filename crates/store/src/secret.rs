//! Texts that are kept apart from the tasks they belong to. They are written with their task, given to the node that
//! holds its lease, and go with its success; those of a task that came to nothing stay for a while, so that it can be
//! asked for once more. The server seals them before they come here.

use std::time::Duration;

use hostler_db::{Document, Result, Tx};
use hostler_model::{Ids, TaskId, TenantId, Timestamp, secret::Secret};
use serde_json::{Value, json};

use crate::Reveal;

/// How long the texts of a task that came to nothing stay: a week, in which somebody may look at what failed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

const INSERT: &str = "
INSERT INTO secrets (id, task, text)
SELECT value->>'id', value->>'task', value->>'text'
  FROM jsonb_each(?1)
 WHERE true";

/// Writes texts of new tasks.
pub(crate) fn insert(tx: &Tx<'_>, secrets: &[(TaskId, Secret)]) -> Result<()> {
    let row =
        |(task, secret): &(TaskId, Secret)| json!({"id": secret.id, "task": task, "text": Document(&secret.text)});
    let batch: Vec<Value> = secrets.iter().map(row).collect();
    if !batch.is_empty() {
        tx.put(INSERT, &batch)?;
    }
    Ok(())
}

const REVEAL: &str = "
SELECT s.text, t.tenant
  FROM secrets s
  JOIN tasks t ON t.id = s.task
 WHERE s.id = ?1->>'secret' AND t.id = ?1->>'task' AND t.state = 'running' AND t.node = ?1->>'node'
   AND t.enrolment = ?1->>'enrolment' AND t.store_epoch = CAST(?1->>'store_epoch' AS BIGINT)
   AND t.attempt = CAST(?1->>'attempt' AS BIGINT)";

/// A text and whose it is, for the node that works on its task under its current fence; nothing for anybody else.
pub(crate) fn reveal(tx: &Tx<'_>, wanted: &Reveal) -> Result<Option<(TenantId, String)>> {
    let wanted = json!({
        "secret": wanted.secret, "task": wanted.task, "node": wanted.node, "enrolment": wanted.enrolment,
        "store_epoch": wanted.fence.store_epoch, "attempt": wanted.fence.attempt,
    });
    tx.query_one(REVEAL, &wanted, |row| Ok((row.parse(1)?, row.json(0)?)))
}

const OF_TASK: &str = "
SELECT id, text
  FROM secrets
 WHERE task = ?1->>'task'";

/// The texts of a task.
pub(crate) fn of_task(tx: &Tx<'_>, task: TaskId) -> Result<Vec<Secret>> {
    tx.query(OF_TASK, &json!({"task": task}), |row| Ok(Secret { id: row.parse(0)?, text: row.json(1)? }))
}

const DROP: &str = "
DELETE FROM secrets
 WHERE task IN (SELECT value->>'task' FROM jsonb_each(?1))";

/// Drops the texts of these tasks.
pub(crate) fn drop_of(tx: &Tx<'_>, tasks: &[TaskId]) -> Result<()> {
    let batch: Vec<Value> = tasks.iter().map(|task| json!({"task": task})).collect();
    if !batch.is_empty() {
        tx.put(DROP, &batch)?;
    }
    Ok(())
}

// A task that ended long ago was made before that, so what is younger is not come across; the question in brackets stays
// one, or an engine might begin with all tasks that ever failed.
const DROP_OLD: &str = "
DELETE FROM secrets
 WHERE id IN (
       SELECT s.id
         FROM secrets s
        WHERE s.task < ?1->>'younger'
          AND (SELECT t.finished_at
                 FROM tasks t
                WHERE t.id = s.task AND t.state IN ('failed', 'cancelled')) <= CAST(?1->>'before' AS BIGINT)
        LIMIT CAST(?1->>'limit' AS BIGINT))";

/// Drops texts that nobody asked for again in time; says how many.
pub(crate) fn drop_old(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<usize> {
    let kept = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
    let before = Timestamp::from_micros(now.as_micros().saturating_sub(kept));
    let younger: TaskId = Ids::lowest(before);
    tx.execute(DROP_OLD, &json!({"before": before.as_micros(), "younger": younger, "limit": limit}))
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[REVEAL, OF_TASK, DROP, INSERT, DROP_OLD];
