//! Nodes: their rows, and the texts that read and write them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hostler_db::{Document, Result, Row, Tx};
use hostler_model::{
    NodeId, Resources, TaskId, Timestamp,
    book::Book,
    broker::Transport,
    id::EnrolmentId,
    name::Name,
    node::{Freshness, Node, NodeFacts, NodeState, Overcommit, OwnOvercommit},
    placement::Candidate,
    refused::Heard,
    unassigned::Orphan,
};
use serde::Serialize;
use serde_json::json;

use crate::tenant::{book, changed};

/// A node with what only steps see.
#[derive(Clone, Debug)]
pub(crate) struct NodeRow {
    pub(crate) node: Node,
    /// The create that waits for room and for which it is kept.
    pub(crate) set_aside: Option<TaskId>,
    pub(crate) lost_at: Option<Timestamp>,
    /// The log's head when the last heartbeat of this enrolment was received.
    pub(crate) beat_seq: Option<i64>,
    /// Machines reported there that are not ours.
    pub(crate) orphans: Vec<Orphan>,
    /// What its agent said that it refused.
    pub(crate) refused: Heard,
}

/// The columns of a node in the order in which [`read`] expects them.
macro_rules! columns {
    () => {
        "n.id, n.name, n.state, n.freshness, n.enrolment, n.facts, n.last_seen, n.lost_at, n.beat_seq, n.orphans,
         n.created_at, n.paused_at, COALESCE(b.held_vcpus, 0), COALESCE(b.held_memory_mib, 0), COALESCE(b.held_disk_gib, 0),
         COALESCE(b.held_vms, 0), COALESCE(b.held_running_vms, 0), COALESCE(b.held_snapshots, 0),
          COALESCE(b.used_vcpus, 0), COALESCE(b.used_memory_mib, 0), COALESCE(b.used_disk_gib, 0),
          COALESCE(b.used_vms, 0), COALESCE(b.used_running_vms, 0), COALESCE(b.used_snapshots, 0),
          n.transport, n.revoked_at, n.labels, n.overcommit, n.generation, n.state_since, n.set_aside, n.refused"
    };
}

const BY_IDS: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN nodes n ON n.id = wanted.value
  LEFT JOIN node_books b ON b.node = n.id"
);

/// Those that exist among the wanted; `usual`: how much may be promised on a node that says nothing else.
pub(crate) fn by_ids(tx: &Tx<'_>, ids: &[NodeId], usual: &Overcommit) -> Result<Vec<NodeRow>> {
    tx.query(BY_IDS, &ids, read(usual))
}

const BY_NAME: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM nodes n
  LEFT JOIN node_books b ON b.node = n.id
 WHERE n.name = ?1->>'name'"
);

/// The one of this name.
pub(crate) fn by_name(tx: &Tx<'_>, name: &Name, usual: &Overcommit) -> Result<Option<NodeRow>> {
    tx.query_one(BY_NAME, &json!({"name": name}), read(usual))
}

const ALL: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM nodes n
  LEFT JOIN node_books b ON b.node = n.id
 ORDER BY n.name"
);

/// Every node, by name.
pub(crate) fn all(tx: &Tx<'_>, usual: &Overcommit) -> Result<Vec<NodeRow>> {
    tx.query(ALL, &(), read(usual))
}

/// Every node as placement sees it.
pub(crate) fn candidates(tx: &Tx<'_>, usual: &Overcommit) -> Result<Vec<Candidate>> {
    let candidate = |NodeRow { node, set_aside, .. }| {
        let labels = node.all_labels();
        let Node { id, name, state, freshness, facts, book, schedulable, paused_at, revoked_at, .. } = node;
        let (paused, revoked) = (paused_at.is_some(), revoked_at.is_some());
        Candidate { id, name, state, freshness, revoked, paused, facts, labels, set_aside, book, schedulable }
    };
    Ok(all(tx, usual)?.into_iter().map(candidate).collect())
}

/// Who a node is, as far as a fetch or a report of it needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) enrolment: Option<EnrolmentId>,
    pub(crate) state: NodeState,
    pub(crate) paused: bool,
    pub(crate) transport: Transport,
    /// Whether it has said all that it has since the store's epoch began.
    pub(crate) compared: bool,
    /// The store's epoch.
    pub(crate) store_epoch: u32,
}

const IDENTITIES: &str = "
SELECT n.id, n.enrolment, n.state, n.paused_at IS NOT NULL, n.heard_epoch = h.store_epoch, h.store_epoch, n.transport
  FROM jsonb_each(?1) wanted
  JOIN nodes n ON n.id = wanted.value
  JOIN log_head h ON h.one = 1";

/// Who these nodes are.
pub(crate) fn identities(tx: &Tx<'_>, ids: &[NodeId]) -> Result<BTreeMap<NodeId, Identity>> {
    let read = |row: &Row<'_>| {
        let (enrolment, state, paused, transport) = (row.parse_opt(1)?, row.word(2)?, row.get(3)?, row.word(6)?);
        let identity =
            Identity { enrolment, state, paused, transport, compared: row.get(4)?, store_epoch: row.get(5)? };
        Ok((row.parse(0)?, identity))
    };
    Ok(tx.query(IDENTITIES, &ids, read)?.into_iter().collect())
}

const REVOKED: &str = "
SELECT id FROM nodes WHERE revoked_at IS NOT NULL
 UNION ALL
SELECT id FROM removed_nodes";

const PAUSED: &str = "SELECT id FROM nodes WHERE paused_at IS NOT NULL";

/// The nodes whose certificates are good for nothing: those that were revoked, or removed.
pub(crate) fn revoked(tx: &Tx<'_>) -> Result<Vec<NodeId>> {
    tx.query(REVOKED, &(), |row| row.parse(0))
}

/// The nodes whose queues are paused.
pub(crate) fn paused(tx: &Tx<'_>) -> Result<BTreeSet<NodeId>> {
    Ok(tx.query(PAUSED, &(), |row| row.parse(0))?.into_iter().collect())
}

const DRAINING: &str = "SELECT id FROM nodes WHERE state = 'draining'";

/// The nodes that are being drained.
pub(crate) fn draining(tx: &Tx<'_>) -> Result<Vec<NodeId>> {
    tx.query(DRAINING, &(), |row| row.parse(0))
}

const SET_ASIDE: &str = "SELECT id, set_aside FROM nodes WHERE set_aside IS NOT NULL";

/// The nodes that are kept for creates that wait for room.
pub(crate) fn set_aside(tx: &Tx<'_>) -> Result<BTreeMap<NodeId, TaskId>> {
    Ok(tx.query(SET_ASIDE, &(), |row| Ok((row.parse(0)?, row.parse(1)?)))?.into_iter().collect())
}

const KEEP: &str = "
UPDATE nodes
   SET set_aside = c.value->>'task'
  FROM jsonb_each(?1) c
 WHERE nodes.id = c.value->>'node'";

/// Keeps nodes for creates, or for nobody any more.
pub(crate) fn keep(tx: &Tx<'_>, changes: &BTreeMap<NodeId, Option<TaskId>>) -> Result<()> {
    let batch: Vec<_> = changes.iter().map(|(node, task)| json!({"node": node, "task": task})).collect();
    if !batch.is_empty() {
        tx.put(KEEP, &batch)?;
    }
    Ok(())
}

const SILENT: &str = "
SELECT COUNT(*)
  FROM nodes n
  JOIN log_head h ON h.one = 1
 WHERE n.heard_epoch < h.store_epoch AND n.state <> 'pending'";

/// Whether every node that may have something has said all that it has since the store's epoch began.
pub(crate) fn all_compared(tx: &Tx<'_>) -> Result<bool> {
    let silent: Option<i64> = tx.query_one(SILENT, &(), |row| row.get(0))?;
    Ok(silent == Some(0))
}

const REMOVE: &str = "DELETE FROM nodes WHERE id IN (SELECT value FROM jsonb_each(?1))";
const REMOVE_BOOKS: &str = "DELETE FROM node_books WHERE node IN (SELECT value FROM jsonb_each(?1))";

const NOTE_REMOVED: &str = "
INSERT INTO removed_nodes (id, removed_at)
SELECT value, CAST(?1->>'now' AS BIGINT)
  FROM jsonb_each(?1, '$.ids')";
const FORGET_REMOVED: &str = "DELETE FROM removed_nodes WHERE removed_at < CAST(?1->>'before' AS BIGINT)";

/// How long a removed node is remembered: as long as one of its certificates may be shown (30 days after its end), where
/// certificates live no longer than 30 days themselves.
const REMEMBERED: Duration = Duration::from_secs(60 * 24 * 60 * 60);

/// Removes nodes, and their books with them.
pub(crate) fn remove(tx: &Tx<'_>, ids: &BTreeSet<NodeId>, now: Timestamp) -> Result<()> {
    if !ids.is_empty() {
        tx.put(REMOVE_BOOKS, ids)?;
        tx.put(REMOVE, ids)?;
        let remembered = i64::try_from(REMEMBERED.as_micros()).unwrap_or(i64::MAX);
        tx.put(FORGET_REMOVED, &json!({"before": now.as_micros().saturating_sub(remembered)}))?;
        tx.put(NOTE_REMOVED, &json!({"ids": ids, "now": now.as_micros()}))?;
    }
    Ok(())
}

const ADD: &str = "
INSERT INTO node_books (node, held_vcpus, held_memory_mib, held_disk_gib, held_vms, held_running_vms, held_snapshots,
                          used_vcpus, used_memory_mib, used_disk_gib, used_vms, used_running_vms, used_snapshots)
SELECT value->>'id', CAST(value->'held'->>'vcpus' AS BIGINT), CAST(value->'held'->>'memory_mib' AS BIGINT),
       CAST(value->'held'->>'disk_gib' AS BIGINT), CAST(value->'held'->>'vms' AS BIGINT),
       CAST(value->'held'->>'running_vms' AS BIGINT), CAST(value->'held'->>'snapshots' AS BIGINT),
       CAST(value->'used'->>'vcpus' AS BIGINT), CAST(value->'used'->>'memory_mib' AS BIGINT),
       CAST(value->'used'->>'disk_gib' AS BIGINT), CAST(value->'used'->>'vms' AS BIGINT),
       CAST(value->'used'->>'running_vms' AS BIGINT), CAST(value->'used'->>'snapshots' AS BIGINT)
  FROM jsonb_each(?1)
 WHERE true
    ON CONFLICT (node) DO UPDATE
   SET held_vcpus = node_books.held_vcpus + excluded.held_vcpus,
       held_memory_mib = node_books.held_memory_mib + excluded.held_memory_mib,
       held_disk_gib = node_books.held_disk_gib + excluded.held_disk_gib,
       held_vms = node_books.held_vms + excluded.held_vms,
       held_running_vms = node_books.held_running_vms + excluded.held_running_vms,
       held_snapshots = node_books.held_snapshots + excluded.held_snapshots,
       used_vcpus = node_books.used_vcpus + excluded.used_vcpus,
       used_memory_mib = node_books.used_memory_mib + excluded.used_memory_mib,
       used_disk_gib = node_books.used_disk_gib + excluded.used_disk_gib,
       used_vms = node_books.used_vms + excluded.used_vms,
       used_running_vms = node_books.used_running_vms + excluded.used_running_vms,
       used_snapshots = node_books.used_snapshots + excluded.used_snapshots";

/// Adds a batch's changes to the books, one row for each node.
pub(crate) fn write_books(tx: &Tx<'_>, changes: &BTreeMap<NodeId, Book>) -> Result<()> {
    let batch = changed(changes);
    if !batch.is_empty() {
        tx.put(ADD, &batch)?;
    }
    Ok(())
}

const BOOKS: &str = "
SELECT node, held_vcpus, held_memory_mib, held_disk_gib, held_vms, held_running_vms, held_snapshots, used_vcpus,
       used_memory_mib, used_disk_gib, used_vms, used_running_vms, used_snapshots
  FROM node_books";

/// Every node's book.
pub(crate) fn books(tx: &Tx<'_>) -> Result<BTreeMap<NodeId, Book>> {
    Ok(tx.query(BOOKS, &(), |row| Ok((row.parse(0)?, book(row, 1)?)))?.into_iter().collect())
}

const PUT: &str = "
INSERT INTO nodes (id, name, state, freshness, transport, enrolment, facts, last_seen, lost_at, beat_seq, orphans,
                   paused_at, revoked_at, created_at, heard_epoch, labels, overcommit, generation, state_since,
                   refused)
SELECT value->>'id', value->>'name', value->>'state', value->>'freshness', value->>'transport', value->>'enrolment',
       value->>'facts',
       CAST(value->>'last_seen' AS BIGINT), CAST(value->>'lost_at' AS BIGINT), CAST(value->>'beat_seq' AS BIGINT),
       value->>'orphans', CAST(value->>'paused_at' AS BIGINT), CAST(value->>'revoked_at' AS BIGINT),
       CAST(value->>'created_at' AS BIGINT),
       (SELECT CASE WHEN store_epoch > 1 THEN store_epoch - 1 ELSE store_epoch END FROM log_head WHERE one = 1),
       value->>'labels', value->>'overcommit', CAST(value->>'generation' AS BIGINT),
       CAST(value->>'state_since' AS BIGINT), value->>'refused'
  FROM jsonb_each(?1)
 WHERE true
    ON CONFLICT (id) DO UPDATE
   SET state = excluded.state, freshness = excluded.freshness, transport = excluded.transport,
       enrolment = excluded.enrolment,
       facts = excluded.facts, last_seen = excluded.last_seen, lost_at = excluded.lost_at,
       beat_seq = excluded.beat_seq, orphans = excluded.orphans, paused_at = excluded.paused_at,
       revoked_at = excluded.revoked_at, labels = excluded.labels, overcommit = excluded.overcommit,
       generation = excluded.generation, state_since = excluded.state_since, refused = excluded.refused";

#[derive(Serialize)]
struct Written<'a> {
    id: NodeId,
    name: &'a Name,
    state: NodeState,
    freshness: Freshness,
    transport: Transport,
    enrolment: Option<EnrolmentId>,
    facts: Document<&'a NodeFacts>,
    last_seen: Option<i64>,
    lost_at: Option<i64>,
    beat_seq: Option<i64>,
    orphans: Document<&'a [Orphan]>,
    paused_at: Option<i64>,
    revoked_at: Option<i64>,
    created_at: i64,
    labels: Document<&'a BTreeMap<String, String>>,
    overcommit: Document<&'a OwnOvercommit>,
    generation: u32,
    state_since: Option<i64>,
    refused: Document<&'a Heard>,
}

/// Writes nodes whole: those that joined, or that changed in more than when they were heard.
pub(crate) fn put(tx: &Tx<'_>, rows: &[&NodeRow]) -> Result<()> {
    let batch: Vec<Written<'_>> = rows.iter().map(|row| written(row)).collect();
    if !batch.is_empty() {
        tx.put(PUT, &batch)?;
    }
    Ok(())
}

fn written(row: &NodeRow) -> Written<'_> {
    let node = &row.node;
    Written {
        id: node.id,
        name: &node.name,
        state: node.state,
        freshness: node.freshness,
        transport: node.transport,
        enrolment: node.enrolment,
        facts: Document(&node.facts),
        last_seen: node.last_seen.map(Timestamp::as_micros),
        lost_at: row.lost_at.map(Timestamp::as_micros),
        beat_seq: row.beat_seq,
        orphans: Document(&row.orphans),
        paused_at: node.paused_at.map(Timestamp::as_micros),
        revoked_at: node.revoked_at.map(Timestamp::as_micros),
        created_at: node.created_at.as_micros(),
        labels: Document(&node.labels),
        overcommit: Document(&node.overcommit),
        generation: node.generation,
        state_since: node.state_since.map(Timestamp::as_micros),
        refused: Document(&row.refused),
    }
}

const HEARD: &str = "
UPDATE nodes
   SET last_seen = CAST(?1->>'now' AS BIGINT), beat_seq = CAST(?1->>'seq' AS BIGINT)
 WHERE id IN (SELECT value FROM jsonb_each(?1, '$.ids'))";

const COMPARED: &str = "
UPDATE nodes
   SET heard_epoch = (SELECT store_epoch FROM log_head WHERE one = 1)
 WHERE id IN (SELECT value FROM jsonb_each(?1))
   AND heard_epoch < (SELECT store_epoch FROM log_head WHERE one = 1)";

/// Nodes have said all that they have: they get tasks again.
pub(crate) fn compared(tx: &Tx<'_>, ids: &[NodeId]) -> Result<()> {
    tx.put(COMPARED, &ids)
}

/// Notes when nodes were heard.
pub(crate) fn heard(tx: &Tx<'_>, ids: &[NodeId], now: Timestamp, seq: i64) -> Result<()> {
    if !ids.is_empty() {
        tx.put(HEARD, &json!({"ids": ids, "now": now.as_micros(), "seq": seq}))?;
    }
    Ok(())
}

fn read(usual: &Overcommit) -> impl Fn(&Row<'_>) -> Result<NodeRow> {
    move |row| {
        let moment = |column: usize| Ok(row.get::<Option<i64>>(column)?.map(Timestamp::from_micros));
        let mut node = Node {
            id: row.parse(0)?,
            name: row.parse(1)?,
            state: row.word(2)?,
            state_since: moment(29)?,
            drain: None,
            freshness: row.word(3)?,
            transport: row.word(24)?,
            enrolment: row.parse_opt(4)?,
            generation: row.get(28)?,
            labels: row.json(26)?,
            overcommit: row.json(27)?,
            facts: row.json(5)?,
            book: book(row, 12)?,
            schedulable: Resources::ZERO,
            paused_at: moment(11)?,
            revoked_at: moment(25)?,
            last_seen: moment(6)?,
            created_at: Timestamp::from_micros(row.get(10)?),
        };
        node.promise(usual);
        Ok(NodeRow {
            node,
            set_aside: row.parse_opt(30)?,
            lost_at: moment(7)?,
            beat_seq: row.get(8)?,
            orphans: row.json(9)?,
            refused: row.json_opt(31)?.unwrap_or_default(),
        })
    }
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[
    BY_IDS,
    BY_NAME,
    IDENTITIES,
    HEARD,
    COMPARED,
    PAUSED,
    DRAINING,
    SET_ASIDE,
    KEEP,
    REMOVE,
    REMOVE_BOOKS,
    NOTE_REMOVED,
    REVOKED,
    ADD,
    PUT,
];
