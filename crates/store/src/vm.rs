//! VMs: their rows, and the texts that read and write them.

use std::collections::BTreeSet;

use hostler_db::{Document, Result, Row, Tx};
use hostler_model::{
    ImageDigest, NodeId, TaskId, TenantId, Timestamp, VmId,
    name::Name,
    vm::{Vm, VmReason, VmSpec, VmState},
};
use serde::Serialize;
use serde_json::json;

use crate::VmFilter;

/// A VM with the number of the log entry with which it last changed.
#[derive(Clone, Debug)]
pub(crate) struct VmRow {
    pub(crate) seq: i64,
    pub(crate) vm: Vm,
    /// When a deletion for the end of its time was last filed.
    pub(crate) reaped_at: Option<Timestamp>,
    /// When it was started by itself, within the last hour at least.
    pub(crate) tries: Vec<Timestamp>,
}

/// The columns of a VM in the order in which [`read`] expects them.
macro_rules! columns {
    () => {
        "v.id, v.seq, v.tenant, v.name, v.state, v.ready, v.reason, v.detail, v.last_state, v.task, v.node, v.epoch,
         v.generation, v.spec, v.created_at, v.updated_at, v.observed_generation, v.protected, v.expires_at, v.reaped_at,
         v.restart_at, v.tries"
    };
}

const BY_IDS: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN vms v ON v.id = wanted.value"
);

/// Those that exist among the wanted, deleted ones too.
pub(crate) fn by_ids(tx: &Tx<'_>, ids: &[VmId]) -> Result<Vec<VmRow>> {
    tx.query(BY_IDS, &ids, read)
}

const BY_NAMES: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN vms v ON v.tenant = wanted.value->>'tenant' AND v.name = wanted.value->>'name' AND v.state <> 'deleted'"
);

/// Those that bear one of these names and are not deleted.
pub(crate) fn by_names(tx: &Tx<'_>, names: &[(TenantId, Name)]) -> Result<Vec<VmRow>> {
    let wanted: Vec<_> = names.iter().map(|(tenant, name)| json!({"tenant": tenant, "name": name})).collect();
    tx.query(BY_NAMES, &wanted, read)
}

/// A machine of a group no two of which share a node.
pub(crate) struct Apart {
    pub(crate) tenant: TenantId,
    pub(crate) group: Name,
    pub(crate) id: VmId,
    pub(crate) name: Name,
    pub(crate) node: NodeId,
}

const APART: &str = "
SELECT v.tenant, v.anti_affinity, v.id, v.name, v.node
  FROM jsonb_each(?1) wanted
  JOIN vms v ON v.tenant = wanted.value->>'tenant' AND v.anti_affinity = wanted.value->>'group'
   AND v.anti_affinity IS NOT NULL AND v.state <> 'deleted' AND v.node IS NOT NULL";

/// Those of these groups that are on a node, or are to be.
pub(crate) fn apart(tx: &Tx<'_>, groups: &BTreeSet<(TenantId, Name)>) -> Result<Vec<Apart>> {
    let wanted: Vec<_> = groups.iter().map(|(tenant, group)| json!({"tenant": tenant, "group": group})).collect();
    tx.query(APART, &wanted, |row| {
        let (tenant, group, id, name, node) =
            (row.parse(0)?, row.parse(1)?, row.parse(2)?, row.parse(3)?, row.parse(4)?);
        Ok(Apart { tenant, group, id, name, node })
    })
}

const ON_NODES: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN vms v ON v.node = wanted.value AND v.state <> 'deleted'"
);

/// Those that are on these nodes and not deleted.
pub(crate) fn on_nodes(tx: &Tx<'_>, nodes: &[NodeId]) -> Result<Vec<VmRow>> {
    tx.query(ON_NODES, &nodes, read)
}

/// Whether a VM's node would take a task that is filed now, or none is needed because it has no node yet. One that is paused
/// or not heard of would let it miss its time in the queue, and another one after it, for as long as that lasts.
macro_rules! node_listens {
    () => {
        "(v.node IS NULL
    OR EXISTS (SELECT 1 FROM nodes n WHERE n.id = v.node AND n.paused_at IS NULL AND n.freshness = 'fresh'))"
    };
}

const OVER: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM vms v
 WHERE v.expires_at <= CAST(?1->>'now' AS BIGINT) AND v.protected = 0 AND v.state <> 'deleted'
   AND (v.reaped_at IS NULL OR v.reaped_at <= CAST(?1->>'again' AS BIGINT))
   AND ",
    node_listens!(),
    "
 ORDER BY v.expires_at
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

/// Those whose time is over, whose deletion was not filed after `again`, and whose node listens; the longest over first.
pub(crate) fn over(tx: &Tx<'_>, now: Timestamp, again: Timestamp, limit: usize) -> Result<Vec<VmRow>> {
    tx.query(OVER, &json!({"now": now.as_micros(), "again": again.as_micros(), "limit": limit}), read)
}

const RESTARTABLE: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM vms v
 WHERE v.restart_at <= CAST(?1->>'now' AS BIGINT) AND v.task IS NULL AND v.state <> 'deleted'
   AND ",
    node_listens!(),
    "
 ORDER BY v.restart_at
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

/// Those that are to be started by themselves by now, that no task is changing, and whose node listens; the longest due
/// first.
pub(crate) fn restartable(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<Vec<VmRow>> {
    tx.query(RESTARTABLE, &json!({"now": now.as_micros(), "limit": limit}), read)
}

const BEYOND: &str = "
UPDATE vms
   SET restart_at = CAST(?1->>'now' AS BIGINT)
 WHERE restart_at > CAST(?1->>'latest' AS BIGINT) AND task IS NULL AND state <> 'deleted'";

/// No start is due later than this: one that is was planned before the clock stepped back, and is due now.
pub(crate) fn bound_restarts(tx: &Tx<'_>, now: Timestamp, latest: Timestamp) -> Result<()> {
    tx.put(BEYOND, &json!({"now": now.as_micros(), "latest": latest.as_micros()}))?;
    Ok(())
}

/// What every list of VMs filters by beside its own index. An id has no letter above `f`.
macro_rules! filters {
    () => {
        "   AND v.id < COALESCE(?1->>'before', 'g')
   AND (?1->>'tenant' IS NULL OR v.tenant = ?1->>'tenant')
   AND (?1->>'state' IS NULL OR v.state = ?1->>'state')
   AND (?1->>'node' IS NULL OR v.node = ?1->>'node')
 ORDER BY v.id DESC
 LIMIT CAST(?1->>'limit' AS BIGINT)"
    };
}

/// A list of those of which this is so.
macro_rules! list {
    ($so:literal) => {
        concat!("\nSELECT ", columns!(), "\n  FROM vms v\n WHERE ", $so, "\n", filters!())
    };
}

const ALL: &str = list!("v.state <> 'deleted'");
const OF_TENANT: &str = list!("v.state <> 'deleted' AND v.tenant = ?1->>'tenant'");
const OF_NODE: &str = list!("v.state <> 'deleted' AND v.node = ?1->>'node'");
const DELETED: &str = list!("v.state = 'deleted'");
const DELETED_OF_TENANT: &str = list!("v.state = 'deleted' AND v.tenant = ?1->>'tenant'");

/// A page of VMs, newest first.
pub(crate) fn list(tx: &Tx<'_>, filter: &VmFilter, before: Option<VmId>, limit: usize) -> Result<Vec<Vm>> {
    let sql = match filter {
        VmFilter { state: Some(VmState::Deleted), tenant: Some(_), .. } => DELETED_OF_TENANT,
        VmFilter { state: Some(VmState::Deleted), .. } => DELETED,
        VmFilter { node: Some(_), .. } => OF_NODE,
        VmFilter { tenant: Some(_), .. } => OF_TENANT,
        VmFilter { .. } => ALL,
    };
    let wanted = json!({
        "tenant": filter.tenant, "state": filter.state, "node": filter.node, "before": before, "limit": limit,
    });
    tx.query(sql, &wanted, |row| Ok(read(row)?.vm))
}

const INSERT: &str = "
INSERT INTO vms (id, seq, tenant, name, state, ready, reason, detail, last_state, task, node, epoch, generation, spec,
                 created_at, updated_at, observed_generation, protected, expires_at, reaped_at,
                 restart_at, tries, image_digest, anti_affinity)
SELECT value->>'id', CAST(value->>'seq' AS BIGINT), value->>'tenant', value->>'name', value->>'state',
       CAST(value->>'ready' AS BIGINT), value->>'reason', value->>'detail', value->>'last_state', value->>'task',
       value->>'node', CAST(value->>'epoch' AS BIGINT), CAST(value->>'generation' AS BIGINT), value->>'spec',
       CAST(value->>'created_at' AS BIGINT), CAST(value->>'updated_at' AS BIGINT),
       CAST(value->>'observed_generation' AS BIGINT), CAST(value->>'protected' AS BIGINT),
       CAST(value->>'expires_at' AS BIGINT), CAST(value->>'reaped_at' AS BIGINT),
       CAST(value->>'restart_at' AS BIGINT), value->>'tries', value->>'image_digest', value->>'anti_affinity'
  FROM jsonb_each(?1)
 WHERE true";

const UPDATE: &str = "
UPDATE vms
   SET seq = CAST(c.value->>'seq' AS BIGINT), state = c.value->>'state', ready = CAST(c.value->>'ready' AS BIGINT),
       reason = c.value->>'reason', detail = c.value->>'detail', last_state = c.value->>'last_state',
       task = c.value->>'task', node = c.value->>'node', epoch = CAST(c.value->>'epoch' AS BIGINT),
       generation = CAST(c.value->>'generation' AS BIGINT), spec = c.value->>'spec',
       updated_at = CAST(c.value->>'updated_at' AS BIGINT),
       observed_generation = CAST(c.value->>'observed_generation' AS BIGINT),
       protected = CAST(c.value->>'protected' AS BIGINT), expires_at = CAST(c.value->>'expires_at' AS BIGINT),
       reaped_at = CAST(c.value->>'reaped_at' AS BIGINT), restart_at = CAST(c.value->>'restart_at' AS BIGINT),
       tries = c.value->>'tries'
  FROM jsonb_each(?1) c
 WHERE vms.id = c.value->>'id'";

/// No name has a slash.
const PARK: &str = "UPDATE vms SET name = '/' || id WHERE id IN (SELECT value FROM jsonb_each(?1))";

/// Takes VMs' names from them until [`rename`]: each may be another's in the same batch, whichever row is written first.
pub(crate) fn park(tx: &Tx<'_>, ids: &BTreeSet<VmId>) -> Result<()> {
    if !ids.is_empty() {
        tx.put(PARK, ids)?;
    }
    Ok(())
}

const RENAME: &str = "
UPDATE vms
   SET name = c.value->>'name'
  FROM jsonb_each(?1) c
 WHERE vms.id = c.value->>'id'";

/// Gives VMs the names that they have now.
pub(crate) fn rename<'a>(tx: &Tx<'_>, rows: impl Iterator<Item = &'a VmRow>) -> Result<()> {
    let batch: Vec<_> = rows.map(|row| json!({"id": row.vm.id, "name": row.vm.name})).collect();
    if !batch.is_empty() {
        tx.put(RENAME, &batch)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Written<'a> {
    id: VmId,
    seq: i64,
    tenant: TenantId,
    name: &'a Name,
    state: VmState,
    ready: u8,
    reason: Option<VmReason>,
    detail: Option<Document<&'a str>>,
    last_state: Option<VmState>,
    task: Option<TaskId>,
    node: Option<NodeId>,
    epoch: u32,
    generation: u32,
    spec: Document<&'a VmSpec>,
    /// The spec's, for texts that look for it.
    image_digest: &'a ImageDigest,
    /// Likewise.
    anti_affinity: Option<&'a Name>,
    created_at: i64,
    updated_at: i64,
    observed_generation: u32,
    protected: u8,
    expires_at: Option<i64>,
    reaped_at: Option<i64>,
    restart_at: Option<i64>,
    tries: Document<&'a [Timestamp]>,
}

/// Writes new VMs.
pub(crate) fn insert<'a>(tx: &Tx<'_>, rows: impl Iterator<Item = &'a VmRow>) -> Result<()> {
    write(tx, INSERT, rows)
}

/// Writes what may change of VMs, but their names.
pub(crate) fn update<'a>(tx: &Tx<'_>, rows: impl Iterator<Item = &'a VmRow>) -> Result<()> {
    write(tx, UPDATE, rows)
}

fn write<'a>(tx: &Tx<'_>, sql: &'static str, rows: impl Iterator<Item = &'a VmRow>) -> Result<()> {
    let batch: Vec<Written<'_>> = rows.map(written).collect();
    if !batch.is_empty() {
        tx.put(sql, &batch)?;
    }
    Ok(())
}

fn written(row: &VmRow) -> Written<'_> {
    let vm = &row.vm;
    Written {
        id: vm.id,
        seq: row.seq,
        tenant: vm.tenant,
        name: &vm.name,
        state: vm.state,
        ready: u8::from(vm.ready),
        reason: vm.reason,
        detail: vm.detail.as_deref().map(Document),
        last_state: vm.last_state,
        task: vm.task,
        node: vm.node,
        epoch: vm.epoch,
        generation: vm.generation,
        spec: Document(&vm.spec),
        image_digest: &vm.spec.image_digest,
        anti_affinity: vm.spec.placement.anti_affinity.as_ref(),
        created_at: vm.created_at.as_micros(),
        updated_at: vm.updated_at.as_micros(),
        observed_generation: vm.observed_generation,
        protected: u8::from(vm.protected),
        expires_at: vm.expires_at.map(Timestamp::as_micros),
        reaped_at: row.reaped_at.map(Timestamp::as_micros),
        restart_at: vm.restart_at.map(Timestamp::as_micros),
        tries: Document(&row.tries),
    }
}

fn read(row: &Row<'_>) -> Result<VmRow> {
    let vm = Vm {
        id: row.parse(0)?,
        tenant: row.parse(2)?,
        name: row.parse(3)?,
        state: row.word(4)?,
        ready: row.get(5)?,
        reason: row.word_opt(6)?,
        detail: row.json_opt(7)?,
        last_state: row.word_opt(8)?,
        task: row.parse_opt(9)?,
        node: row.parse_opt(10)?,
        epoch: row.get(11)?,
        generation: row.get(12)?,
        spec: row.json(13)?,
        created_at: Timestamp::from_micros(row.get(14)?),
        updated_at: Timestamp::from_micros(row.get(15)?),
        observed_generation: row.get(16)?,
        protected: row.get(17)?,
        expires_at: row.get::<Option<i64>>(18)?.map(Timestamp::from_micros),
        restart_at: row.get::<Option<i64>>(20)?.map(Timestamp::from_micros),
    };
    let reaped_at = row.get::<Option<i64>>(19)?.map(Timestamp::from_micros);
    Ok(VmRow { seq: row.get(1)?, vm, reaped_at, tries: row.json(21)? })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[
    BY_IDS,
    BY_NAMES,
    APART,
    ON_NODES,
    OVER,
    RESTARTABLE,
    BEYOND,
    UPDATE,
    PARK,
    RENAME,
    ALL,
    OF_TENANT,
    OF_NODE,
    DELETED,
    DELETED_OF_TENANT,
    INSERT,
];

/// Lists, and the index that each is to walk.
#[cfg(test)]
pub(crate) const INDEXED: &[(&str, &str)] = &[
    (OVER, "vms_by_expiry (expires_at<?)"),
    (RESTARTABLE, "vms_by_restart (restart_at<?)"),
    (OF_TENANT, "vms_by_tenant (tenant=? AND id<?)"),
    (OF_NODE, "vms_on_node (node=? AND id<?)"),
    (DELETED, "vms_deleted (id<?)"),
    (DELETED_OF_TENANT, "vms_deleted_by_tenant (tenant=? AND id<?)"),
];
