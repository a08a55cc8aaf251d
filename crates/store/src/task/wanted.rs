//! Which nodes have something to fetch: found by going from one to the next, so that it costs as many looks into an index as
//! there are such nodes, however many tasks wait and however many nodes have nothing.

use hostler_db::{Result, Tx};
use hostler_model::NodeId;
use serde_json::json;
use uuid::Uuid;

/// The first node behind another that has something to fetch.
macro_rules! next {
    ($behind:literal) => {
        concat!(
            "(SELECT t.node
          FROM tasks t
         WHERE t.node > ",
            $behind,
            " AND t.state IN ('queued', 'aborting') AND t.lease_until IS NULL AND t.ripe = 1
         ORDER BY t.node
         LIMIT 1)"
        )
    };
}

const NODES: &str = concat!(
    "WITH RECURSIVE wanted (node, n) AS (
SELECT ",
    next!("?1->>'behind'"),
    ", 1
 UNION ALL
SELECT ",
    next!("wanted.node"),
    ", wanted.n + 1
  FROM wanted
 WHERE wanted.node IS NOT NULL AND wanted.n < CAST(?1->>'limit' AS BIGINT))
SELECT node
  FROM wanted
 WHERE node IS NOT NULL"
);

/// Nodes behind this one, in their order, that have something to fetch if their slots, their state and the tasks' turns
/// allow.
pub(crate) fn nodes(tx: &Tx<'_>, behind: Option<NodeId>, limit: usize) -> Result<Vec<NodeId>> {
    let behind = behind.unwrap_or(NodeId(Uuid::nil()));
    tx.query(NODES, &json!({"behind": behind, "limit": limit}), |row| row.parse(0))
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[NODES];

/// The index that it is to walk in its order.
#[cfg(test)]
pub(crate) const INDEXED: &[(&str, &str)] = &[(NODES, "tasks_leasable (node>?)")];
