//! What this node refused, in all: kept so that nobody's death loses what was not said.

use hostler_db::{Result, Row, Tx};
use hostler_model::{
    Fence, NodeId, Timestamp,
    refused::{Counted, Refused},
};
use serde_json::{Value, json};
use uuid::Uuid;

const COUNT: &str = "SELECT count FROM refusals WHERE node = ?1 ->> 'node'";

const ALL: &str = "SELECT why, many, task, store_epoch, attempt, at FROM refused ORDER BY why";

/// What this node has counted; none where it counts nothing yet, or was another node when it did.
pub(super) fn all(tx: &Tx<'_>, node: NodeId) -> Result<Option<Counted>> {
    let count: Option<Uuid> = tx.query_one(COUNT, &json!({"node": node}), |row| row.parse(0))?;
    let Some(count) = count else { return Ok(None) };
    Ok(Some(Counted { count, refused: tx.query(ALL, &Value::Null, line)? }))
}

fn line(row: &Row<'_>) -> Result<Refused> {
    let fence = match (row.get::<Option<u32>>(3)?, row.get::<Option<u32>>(4)?) {
        (Some(store_epoch), Some(attempt)) => Some(Fence { store_epoch, attempt }),
        _ => None,
    };
    let many: i64 = row.get(1)?;
    Ok(Refused {
        why: row.word(0)?,
        count: many.unsigned_abs(),
        task: row.parse_opt(2)?,
        fence,
        at: Timestamp::from_micros(row.get(5)?),
    })
}

const BEGIN: &str = "DELETE FROM refused WHERE NOT EXISTS (SELECT 1 FROM refusals WHERE count = ?1 ->> 'count')";

const OF: &str = "
    INSERT INTO refusals (one, count, node)
    VALUES (1, ?1 ->> 'count', ?1 ->> 'node')
    ON CONFLICT (one) DO UPDATE SET count = excluded.count, node = excluded.node";

const PUT: &str = "
    INSERT INTO refused (why, many, task, store_epoch, attempt, at)
    SELECT value ->> 'why', value ->> 'count', value ->> 'task', value ->> '$.fence.store_epoch',
           value ->> '$.fence.attempt', value ->> 'at'
    FROM json_each(?1) WHERE true
    ON CONFLICT (why) DO UPDATE
    SET many = excluded.many, task = excluded.task, store_epoch = excluded.store_epoch, attempt = excluded.attempt,
        at = excluded.at";

/// Keeps these lines of a count; those of an earlier one go.
pub(super) fn put(tx: &Tx<'_>, node: NodeId, kept: &Counted) -> Result<()> {
    let count = json!({"count": kept.count, "node": node});
    tx.put(BEGIN, &count)?;
    tx.put(OF, &count)?;
    let line = |line: &Refused| {
        json!({
            "why": line.why, "count": line.count, "task": line.task, "at": line.at.as_micros(),
            "fence": line.fence.map(|fence| json!({"store_epoch": fence.store_epoch, "attempt": fence.attempt})),
        })
    };
    tx.put(PUT, &kept.refused.iter().map(line).collect::<Vec<_>>())
}
