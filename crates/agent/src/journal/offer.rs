//! Offers that came by the broker: kept from their acknowledgement until they are begun, or over.

use hostler_db::{Result, Tx};
use hostler_model::{
    Timestamp,
    internal::{Assignment, HeldLease},
};
use serde_json::{Value, json};

const PUT: &str = "
    INSERT INTO offer (task, store_epoch, attempt, assignment, offered_at)
    VALUES (?1 ->> 'task', ?1 ->> 'store_epoch', ?1 ->> 'attempt', ?1 ->> 'assignment', ?1 ->> 'at')
    ON CONFLICT (task, store_epoch, attempt) DO UPDATE SET assignment = excluded.assignment";

const ALL: &str = "SELECT assignment FROM offer ORDER BY offered_at, task";

const REMOVE: &str = "
    DELETE FROM offer
    WHERE task = ?1 ->> 'task' AND store_epoch = ?1 ->> 'store_epoch' AND attempt = ?1 ->> 'attempt'";

pub(super) fn row(assignment: &Assignment, now: Timestamp) -> Value {
    let Assignment { sub, fence, .. } = assignment;
    json!({
        "task": sub, "store_epoch": fence.store_epoch, "attempt": fence.attempt, "assignment": assignment,
        "at": now.as_micros(),
    })
}

pub(super) fn put(tx: &Tx<'_>, row: &Value) -> Result<()> {
    tx.put(PUT, row)
}

pub(super) fn all(tx: &Tx<'_>) -> Result<Vec<Assignment>> {
    tx.query(ALL, &Value::Null, |row| row.json(0))
}

pub(super) fn remove(tx: &Tx<'_>, HeldLease { task, fence }: HeldLease) -> Result<()> {
    let row = json!({"task": task, "store_epoch": fence.store_epoch, "attempt": fence.attempt});
    tx.put(REMOVE, &row)
}
