//! Changes of a VM that are to be made later: until their time they take no turn, so nobody waits for them.

use hostler_db::{Result, Tx};
use hostler_model::Timestamp;
use serde_json::json;

use super::{TaskRow, read};

const DUE: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM tasks t
 WHERE t.state IN ('queued', 'aborting') AND t.lease_until IS NULL AND t.ripe = 0
   AND t.not_before <= CAST(?1->>'now' AS BIGINT) AND t.turn = 'later'
 ORDER BY t.not_before
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

/// Those whose time has come, the longest due first.
pub(crate) fn due(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<Vec<TaskRow>> {
    tx.query(DUE, &json!({"now": now.as_micros(), "limit": limit}), read)
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[DUE];

/// The index that it is to walk in its order.
#[cfg(test)]
pub(crate) const INDEXED: &[(&str, &str)] = &[(DUE, "tasks_later (not_before<?)")];
