//! Gauges for `/metrics`: what there is now, by state.

use hostler_model::{Resources, Timestamp};
use hostler_sqlite::{Result, Tx};
use serde_json::json;

use crate::{Gauges, allocation::resources, log};

const TASKS: &str = "
SELECT state, kind, COUNT(*)
  FROM (SELECT state, kind FROM tasks WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 1
        UNION ALL
        SELECT state, kind FROM tasks WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 0
        UNION ALL
        SELECT state, kind FROM tasks WHERE lease_until IS NOT NULL) live
 GROUP BY state, kind";

const OLDEST: &str = "
SELECT MIN(not_before)
  FROM (SELECT state, not_before FROM tasks
         WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 1
        UNION ALL
        SELECT state, not_before FROM tasks
         WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 0
           AND not_before <= CAST(?1->>'now' AS BIGINT)) live
 WHERE state = 'queued'";

const VMS: &str = "SELECT state, COUNT(*) FROM vms WHERE state <> 'deleted' GROUP BY state";

const NODES: &str = "SELECT state, freshness, COUNT(*) FROM nodes GROUP BY state, freshness";

const BOOKS: &str = "
SELECT COALESCE(SUM(held_vcpus), 0), COALESCE(SUM(held_memory_mib), 0), COALESCE(SUM(held_disk_gib), 0),
       COALESCE(SUM(held_vms), 0), COALESCE(SUM(used_vcpus), 0), COALESCE(SUM(used_memory_mib), 0),
       COALESCE(SUM(used_disk_gib), 0), COALESCE(SUM(used_vms), 0)
  FROM tenant_books";

/// All of them, of one state of the store.
pub(crate) fn read(tx: &Tx<'_>, now: Timestamp) -> Result<Gauges> {
    let oldest: Option<Option<i64>> = tx.query_one(OLDEST, &json!({"now": now.as_micros()}), |row| row.get(0))?;
    let waited = oldest.flatten().map(|since| now.since(Timestamp::from_micros(since)));
    let sums = tx.query_one(BOOKS, &(), |row| Ok((resources(row, 0)?, resources(row, 4)?)))?;
    let (held, used) = sums.unwrap_or((Resources::ZERO, Resources::ZERO));
    Ok(Gauges {
        tasks: tx.query(TASKS, &(), |row| Ok((row.word(0)?, row.parse(1)?, row.get(2)?)))?,
        oldest_queued_seconds: waited.map_or(0.0, |waited| waited.as_secs_f64()),
        vms: tx.query(VMS, &(), |row| Ok((row.word(0)?, row.get(1)?)))?,
        nodes: tx.query(NODES, &(), |row| Ok((row.word(0)?, row.word(1)?, row.get(2)?)))?,
        held,
        used,
        seq: log::head(tx)?.seq,
    })
}
