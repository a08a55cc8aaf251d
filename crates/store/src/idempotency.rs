//! Idempotency keys: the first answer under a key, kept for 24 h and until its task ends.

use std::time::Duration;

use hostler_model::{PrincipalId, TaskId, TenantId, Timestamp, snapshot::Snapshot, task::Task, vm::Vm};
use hostler_sqlite::{Result, Tx};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Submission;

/// How long a key is kept at least: what the API promises.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a key is unique by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(crate) struct Key {
    pub(crate) tenant: TenantId,
    pub(crate) principal: PrincipalId,
    pub(crate) route: String,
    pub(crate) key: String,
}

impl Key {
    /// The key of a submission that sent one and is not a dry run.
    pub(crate) fn of(item: &Submission) -> Option<Key> {
        let sent = item.idempotency.as_ref().filter(|_| !item.dry_run)?;
        let (tenant, principal) = (item.tenant, item.actor.principal);
        // No caller's key has a line feed.
        let key = sent.part.map_or_else(|| sent.key.clone(), |part| format!("{}\n{part}", sent.key));
        Some(Key { tenant, principal, route: sent.route.clone(), key })
    }

    /// What stands for the whole batch that a submission is part of: under another body the key is used up for all.
    pub(crate) fn of_batch(item: &Submission) -> Option<Key> {
        let sent = item.idempotency.as_ref().filter(|sent| sent.part.is_some())?;
        Key::of(item).map(|key| Key { key: sent.key.clone(), ..key })
    }
}

/// The first answer under a key.
#[derive(Clone, Debug)]
pub(crate) struct FirstAnswer {
    pub(crate) key: Key,
    pub(crate) body: String,
    pub(crate) answer: Stored,
}

/// An answer as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// `None`: it was done with the answer.
    pub(crate) task: Option<Task>,
    pub(crate) vm: Option<Vm>,
    pub(crate) snapshot: Option<Snapshot>,
}

const BY_KEYS: &str = "
SELECT i.tenant, i.principal, i.route, i.key, i.body, i.answer
  FROM jsonb_each(?1) wanted
  JOIN idempotency i ON i.tenant = wanted.value->>'tenant' AND i.principal = wanted.value->>'principal'
   AND i.route = wanted.value->>'route' AND i.key = wanted.value->>'key'";

/// The first answers under these keys.
pub(crate) fn by_keys(tx: &Tx<'_>, keys: &[Key]) -> Result<Vec<FirstAnswer>> {
    tx.query(BY_KEYS, &keys, |row| {
        let key = Key { tenant: row.parse(0)?, principal: row.parse(1)?, route: row.get(2)?, key: row.get(3)? };
        Ok(FirstAnswer { key, body: row.get(4)?, answer: row.json(5)? })
    })
}

const INSERT: &str = "
INSERT INTO idempotency (tenant, principal, route, key, body, task, answer, created_at)
SELECT value->>'tenant', value->>'principal', value->>'route', value->>'key', value->>'body', value->>'task',
       value->>'answer', CAST(value->>'created_at' AS BIGINT)
  FROM jsonb_each(?1)
 WHERE true";

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    key: &'a Key,
    body: &'a str,
    task: Option<TaskId>,
    answer: &'a Stored,
    created_at: i64,
}

/// Writes first answers.
pub(crate) fn insert(tx: &Tx<'_>, answers: &[FirstAnswer], now: Timestamp) -> Result<()> {
    let batch: Vec<Written<'_>> = answers
        .iter()
        .map(|FirstAnswer { key, body, answer }| Written {
            key,
            body,
            task: answer.task.as_ref().map(|task| task.id),
            answer,
            created_at: now.as_micros(),
        })
        .collect();
    if !batch.is_empty() {
        tx.execute(INSERT, &batch)?;
    }
    Ok(())
}

const DROP: &str = "
DELETE FROM idempotency
 WHERE (tenant, principal, route, key) IN (
       SELECT i.tenant, i.principal, i.route, i.key
         FROM idempotency i
         LEFT JOIN tasks t ON t.id = i.task
        WHERE i.created_at <= CAST(?1->>'before' AS BIGINT)
          AND (t.id IS NULL OR t.state IN ('succeeded', 'failed', 'cancelled'))
        ORDER BY i.created_at
        LIMIT CAST(?1->>'limit' AS BIGINT))";

/// Drops keys that are old enough and whose task ended; says how many.
pub(crate) fn drop_old(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<usize> {
    let kept = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
    tx.execute(DROP, &json!({"before": now.as_micros().saturating_sub(kept), "limit": limit}))
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[BY_KEYS, DROP];
