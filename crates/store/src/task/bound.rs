//! How long leases and pauses are, whatever the clock did: what one that stepped back left in the future is no longer than
//! it can have been made. And leases that nobody renews, because their task was sent in plain form.

use hostler_db::{Result, Tx};
use hostler_model::{Timestamp, kind::KindName};
use serde_json::{Value, json};

const LEASES: &str = "
UPDATE tasks
   SET lease_until = CAST(?1->>'until' AS BIGINT)
 WHERE lease_until > CAST(?1->>'until' AS BIGINT)";

/// No lease reaches beyond this: one that does is of before the clock stepped back.
pub(crate) fn leases(tx: &Tx<'_>, until: Timestamp) -> Result<()> {
    tx.put(LEASES, &json!({"until": until.as_micros()}))?;
    Ok(())
}

const BACKOFFS: &str = "
UPDATE tasks
   SET not_before = CAST(?1->>'now' AS BIGINT)
                  + 1000000 * CAST(COALESCE(json(tasks.retry)->>'most_seconds', c.value->>'most') AS BIGINT)
  FROM jsonb_each(?1, '$.most') c
 WHERE tasks.state IN ('queued', 'aborting') AND tasks.lease_until IS NULL AND tasks.ripe = 0 AND tasks.attempt > 0
   AND tasks.kind = c.value->>'kind'
   AND tasks.not_before > CAST(?1->>'now' AS BIGINT)
                        + 1000000 * CAST(COALESCE(json(tasks.retry)->>'most_seconds', c.value->>'most') AS BIGINT)";

/// No pause before another attempt is longer than its policy's longest: one that is began before the clock stepped back.
pub(crate) fn backoffs(tx: &Tx<'_>, now: Timestamp) -> Result<()> {
    let most: Vec<Value> =
        KindName::ALL.iter().map(|kind| json!({"kind": kind, "most": kind.spec().retry.most_seconds})).collect();
    tx.put(BACKOFFS, &json!({"now": now.as_micros(), "most": most}))?;
    Ok(())
}

// The words about `poll` name the index that has the nodes which a broker serves, if any.
const PLAIN: &str = "
UPDATE tasks
   SET lease_until = CAST(?1->>'until' AS BIGINT)
 WHERE lease_until IS NOT NULL AND lease_until < CAST(?1->>'until' AS BIGINT)
   AND EXISTS (SELECT 1 FROM nodes n WHERE n.id = tasks.node AND n.transport = 'plain' AND n.transport <> 'poll')";

/// What was sent in plain form has one attempt, of which nobody says that it goes on: it is over when its end is told.
pub(crate) fn plain(tx: &Tx<'_>, until: Timestamp) -> Result<()> {
    tx.put(PLAIN, &json!({"until": until.as_micros()}))?;
    Ok(())
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[LEASES, BACKOFFS, PLAIN];
