//! What ended long ago: its rows are looked at by their ids, the oldest first, and removed piece by piece with all that
//! hangs on them. An id says when a thing was made, so what is younger than the limit is not come across, and what is kept
//! for a reason is passed by once in a walk, not once for each piece.
//!
//! ```text
//! a walk: from the oldest id ──a piece──► its last id ──a piece──► … ──► what is too young to have ended long ago
//! ```
//!
//! Never here: entries of the log, which is a chain, and idempotency keys, which have a time of their own.

use hostler_db::{Result, Tx};
use hostler_model::{Ids, TaskId, Timestamp};
use serde_json::json;
use uuid::Uuid;

use crate::{Old, secret};

/// A row that was looked at, and whether it may go.
pub(crate) type Looked = (Uuid, bool);

/// Of one noun: a piece of its rows by their ids.
macro_rules! look {
    ($from:literal, $may_go:literal) => {
        concat!(
            "\nSELECT o.id, CASE WHEN ",
            $may_go,
            "\n            THEN true ELSE false END\n  FROM ",
            $from,
            " o.id > ?1->>'after' AND o.id < ?1->>'younger'\n ORDER BY o.id\n LIMIT CAST(?1->>'limit' AS BIGINT)"
        )
    };
}

// What is still charged for, or named by what it did not finish, stays; so does a dead letter that nobody has decided about.
const TASKS: &str = look!(
    "tasks o WHERE",
    "o.state IN ('succeeded', 'failed', 'cancelled') AND o.finished_at <= CAST(?1->>'before' AS BIGINT)
             AND COALESCE(o.dead_letter, '') <> 'waiting'
             AND NOT EXISTS (SELECT 1 FROM allocations a WHERE a.noun = 'task' AND a.id = o.id)
             AND NOT EXISTS (SELECT 1 FROM vms v WHERE v.id = o.vm AND v.task = o.id)
             AND NOT EXISTS (SELECT 1 FROM snapshots s WHERE s.id = o.snapshot AND s.task = o.id)"
);

// A task that has not ended may yet look for it.
const SNAPSHOTS: &str = look!(
    "snapshots o WHERE o.state = 'deleted' AND",
    "o.updated_at <= CAST(?1->>'before' AS BIGINT) AND o.task IS NULL
             AND NOT EXISTS (SELECT 1 FROM allocations a WHERE a.noun = 'snapshot' AND a.id = o.id)
             AND NOT EXISTS (SELECT 1 FROM tasks t
                              WHERE t.vm = o.vm AND t.vm IS NOT NULL AND t.state IN ('queued', 'running', 'aborting'))"
);

// It goes after all that was ever done to it.
const VMS: &str = look!(
    "vms o WHERE o.state = 'deleted' AND",
    "o.updated_at <= CAST(?1->>'before' AS BIGINT) AND o.task IS NULL
             AND NOT EXISTS (SELECT 1 FROM allocations a WHERE a.noun = 'vm' AND a.id = o.id)
             AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.vm = o.id AND t.vm IS NOT NULL)
             AND NOT EXISTS (SELECT 1 FROM snapshots s WHERE s.vm = o.id AND s.state <> 'deleted')"
);

const IMPORTS: &str = look!("imports o WHERE", "o.finished_at <= CAST(?1->>'before' AS BIGINT)");

/// The rows of a piece behind that id, and whether each ended before that moment and is needed no more.
pub(crate) fn look(tx: &Tx<'_>, old: Old, after: Uuid, before: Timestamp, limit: usize) -> Result<Vec<Looked>> {
    let text = match old {
        Old::Tasks => TASKS,
        Old::Snapshots => SNAPSHOTS,
        Old::Vms => VMS,
        Old::Imports => IMPORTS,
    };
    let younger: Uuid = Ids::lowest(before);
    let wanted = json!({"after": after, "before": before.as_micros(), "younger": younger, "limit": limit});
    tx.query(text, &wanted, |row| Ok((row.parse(0)?, row.get(1)?)))
}

const REMOVE_LINES: &str = "DELETE FROM task_log WHERE task IN (SELECT value FROM jsonb_each(?1))";
const REMOVE_TASKS: &str = "DELETE FROM tasks WHERE id IN (SELECT value FROM jsonb_each(?1))";
const REMOVE_SNAPSHOTS: &str = "DELETE FROM snapshots WHERE id IN (SELECT value FROM jsonb_each(?1))";
const REMOVE_VMS: &str = "DELETE FROM vms WHERE id IN (SELECT value FROM jsonb_each(?1))";
const REMOVE_IMPORTS: &str = "DELETE FROM imports WHERE id IN (SELECT value FROM jsonb_each(?1))";

/// Removes these, with what hangs on them.
pub(crate) fn remove(tx: &Tx<'_>, old: Old, ids: &[Uuid]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    match old {
        Old::Tasks => {
            tx.put(REMOVE_LINES, &ids)?;
            secret::drop_of(tx, &ids.iter().copied().map(TaskId).collect::<Vec<_>>())?;
            tx.put(REMOVE_TASKS, &ids)
        }
        Old::Snapshots => tx.put(REMOVE_SNAPSHOTS, &ids),
        Old::Vms => tx.put(REMOVE_VMS, &ids),
        Old::Imports => tx.put(REMOVE_IMPORTS, &ids),
    }
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] =
    &[TASKS, SNAPSHOTS, VMS, IMPORTS, REMOVE_LINES, REMOVE_TASKS, REMOVE_SNAPSHOTS, REMOVE_VMS, REMOVE_IMPORTS];
