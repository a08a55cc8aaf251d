//! Gauges for `/metrics`: what there is now, by state.

use hostler_db::{Result, Tx};
use hostler_model::{Timestamp, amounts::Amounts, stats::TaskStats};

use crate::{
    Gauges,
    allocation::amounts,
    log,
    task::{outbox, stats},
};

const VMS: &str = "SELECT state, COUNT(*) FROM vms WHERE state <> 'deleted' GROUP BY state";

const NODES: &str = "SELECT state, freshness, COUNT(*) FROM nodes GROUP BY state, freshness";

const BOOKS: &str = "
SELECT CAST(COALESCE(SUM(held_vcpus), 0) AS BIGINT), CAST(COALESCE(SUM(held_memory_mib), 0) AS BIGINT),
       CAST(COALESCE(SUM(held_disk_gib), 0) AS BIGINT), CAST(COALESCE(SUM(held_vms), 0) AS BIGINT),
       CAST(COALESCE(SUM(held_running_vms), 0) AS BIGINT), CAST(COALESCE(SUM(held_snapshots), 0) AS BIGINT),
       CAST(COALESCE(SUM(used_vcpus), 0) AS BIGINT), CAST(COALESCE(SUM(used_memory_mib), 0) AS BIGINT),
       CAST(COALESCE(SUM(used_disk_gib), 0) AS BIGINT), CAST(COALESCE(SUM(used_vms), 0) AS BIGINT),
       CAST(COALESCE(SUM(used_running_vms), 0) AS BIGINT), CAST(COALESCE(SUM(used_snapshots), 0) AS BIGINT)
  FROM tenant_books";

/// All of them, of one state of the store.
pub(crate) fn read(tx: &Tx<'_>, now: Timestamp) -> Result<Gauges> {
    let mut tasks = stats::live(tx, None, now)?;
    tasks.extend(stats::dead(tx, None)?);
    let sums = tx.query_one(BOOKS, &(), |row| Ok((amounts(row, 0)?, amounts(row, 6)?)))?;
    let (held, used) = sums.unwrap_or((Amounts::ZERO, Amounts::ZERO));
    Ok(Gauges {
        tasks: TaskStats::of(now, &tasks),
        counters: stats::totals(tx)?,
        vms: tx.query(VMS, &(), |row| Ok((row.word(0)?, row.get(1)?)))?,
        nodes: tx.query(NODES, &(), |row| Ok((row.word(0)?, row.word(1)?, row.get(2)?)))?,
        held,
        used,
        outbox: outbox::length(tx)?,
        seq: log::head(tx)?.seq,
    })
}
