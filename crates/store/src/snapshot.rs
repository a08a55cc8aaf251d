//! Snapshots: their rows, and the texts that read and write them.

use hostler_db::{Document, Result, Row, Tx};
use hostler_model::{
    NodeId, SnapshotId, TaskId, TenantId, Timestamp, VmId,
    name::Name,
    snapshot::{Snapshot, SnapshotState, Written as Size},
    vm::VmSpec,
};
use serde::Serialize;
use serde_json::json;

use crate::SnapshotFilter;

/// A snapshot with the number of the log entry with which it last changed.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotRow {
    pub(crate) seq: i64,
    pub(crate) snapshot: Snapshot,
}

/// The columns of a snapshot in the order in which [`read`] expects them.
macro_rules! columns {
    () => {
        "s.id, s.seq, s.tenant, s.vm, s.name, s.state, s.detail, s.memory, s.quiesced, s.disk_bytes, s.memory_bytes,
         s.task, s.node, s.spec, s.created_at, s.updated_at"
    };
}

const BY_IDS: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN snapshots s ON s.id = wanted.value"
);

/// Those that exist among the wanted, deleted ones too.
pub(crate) fn by_ids(tx: &Tx<'_>, ids: &[SnapshotId]) -> Result<Vec<SnapshotRow>> {
    tx.query(BY_IDS, &ids, read)
}

const BY_NAME: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM snapshots s
 WHERE s.vm = ?1->>'vm' AND s.name = ?1->>'name' AND s.state <> 'deleted'"
);

/// The machine's snapshot of this name that is not deleted.
pub(crate) fn by_name(tx: &Tx<'_>, vm: VmId, name: &Name) -> Result<Option<Snapshot>> {
    tx.query_one(BY_NAME, &json!({"vm": vm, "name": name}), |row| Ok(read(row)?.snapshot))
}

const ON_VMS: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN snapshots s ON s.vm = wanted.value AND s.state <> 'deleted'"
);

/// Those of these machines that are not deleted.
pub(crate) fn on_vms(tx: &Tx<'_>, vms: &[VmId]) -> Result<Vec<SnapshotRow>> {
    tx.query(ON_VMS, &vms, read)
}

const ON_NODES: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN snapshots s ON s.node = wanted.value AND s.state <> 'deleted'"
);

/// Those on these nodes that are not deleted.
pub(crate) fn on_nodes(tx: &Tx<'_>, nodes: &[NodeId]) -> Result<Vec<SnapshotRow>> {
    tx.query(ON_NODES, &nodes, read)
}

/// What every list of snapshots filters by beside its own index. An id has no letter above `f`.
macro_rules! filters {
    () => {
        "   AND s.id < COALESCE(?1->>'before', 'g')
   AND (?1->>'tenant' IS NULL OR s.tenant = ?1->>'tenant')
   AND (?1->>'vm' IS NULL OR s.vm = ?1->>'vm')
   AND (?1->>'state' IS NULL OR s.state = ?1->>'state')
 ORDER BY s.id DESC
 LIMIT CAST(?1->>'limit' AS BIGINT)"
    };
}

/// A list of those of which this is so.
macro_rules! list {
    ($so:literal) => {
        concat!("\nSELECT ", columns!(), "\n  FROM snapshots s\n WHERE ", $so, "\n", filters!())
    };
}

const ALL: &str = list!("s.state <> 'deleted'");
const OF_TENANT: &str = list!("s.state <> 'deleted' AND s.tenant = ?1->>'tenant'");
const OF_VM: &str = list!("s.state <> 'deleted' AND s.vm = ?1->>'vm'");
const DELETED: &str = list!("s.state = 'deleted'");

/// A page of snapshots, newest first.
pub(crate) fn list(
    tx: &Tx<'_>,
    filter: &SnapshotFilter,
    before: Option<SnapshotId>,
    limit: usize,
) -> Result<Vec<Snapshot>> {
    let sql = match filter {
        SnapshotFilter { state: Some(SnapshotState::Deleted), .. } => DELETED,
        SnapshotFilter { vm: Some(_), .. } => OF_VM,
        SnapshotFilter { tenant: Some(_), .. } => OF_TENANT,
        SnapshotFilter { .. } => ALL,
    };
    let wanted = json!({
        "tenant": filter.tenant, "vm": filter.vm, "state": filter.state, "before": before, "limit": limit,
    });
    tx.query(sql, &wanted, |row| Ok(read(row)?.snapshot))
}

const INSERT: &str = "
INSERT INTO snapshots (id, seq, tenant, vm, name, state, detail, memory, quiesced, disk_bytes, memory_bytes, task, node,
                       spec, created_at, updated_at)
SELECT value->>'id', CAST(value->>'seq' AS BIGINT), value->>'tenant', value->>'vm', value->>'name', value->>'state',
       value->>'detail', CAST(value->>'memory' AS BIGINT), CAST(value->>'quiesced' AS BIGINT),
       CAST(value->>'disk_bytes' AS BIGINT), CAST(value->>'memory_bytes' AS BIGINT), value->>'task', value->>'node',
       value->>'spec', CAST(value->>'created_at' AS BIGINT), CAST(value->>'updated_at' AS BIGINT)
  FROM jsonb_each(?1)
 WHERE true";

const UPDATE: &str = "
UPDATE snapshots
   SET seq = CAST(c.value->>'seq' AS BIGINT), state = c.value->>'state', detail = c.value->>'detail',
       quiesced = CAST(c.value->>'quiesced' AS BIGINT), disk_bytes = CAST(c.value->>'disk_bytes' AS BIGINT),
       memory_bytes = CAST(c.value->>'memory_bytes' AS BIGINT), task = c.value->>'task', node = c.value->>'node',
       spec = c.value->>'spec', updated_at = CAST(c.value->>'updated_at' AS BIGINT)
  FROM jsonb_each(?1) c
 WHERE snapshots.id = c.value->>'id'";

#[derive(Serialize)]
struct Written<'a> {
    id: SnapshotId,
    seq: i64,
    tenant: TenantId,
    vm: VmId,
    name: &'a Name,
    state: SnapshotState,
    detail: Option<Document<&'a str>>,
    memory: u8,
    quiesced: Option<u8>,
    disk_bytes: Option<i64>,
    memory_bytes: Option<i64>,
    task: Option<TaskId>,
    node: Option<NodeId>,
    spec: Document<&'a VmSpec>,
    created_at: i64,
    updated_at: i64,
}

/// Writes new snapshots.
pub(crate) fn insert<'a>(tx: &Tx<'_>, rows: impl Iterator<Item = &'a SnapshotRow>) -> Result<()> {
    write(tx, INSERT, rows)
}

/// Writes what may change of snapshots.
pub(crate) fn update<'a>(tx: &Tx<'_>, rows: impl Iterator<Item = &'a SnapshotRow>) -> Result<()> {
    write(tx, UPDATE, rows)
}

fn write<'a>(tx: &Tx<'_>, sql: &'static str, rows: impl Iterator<Item = &'a SnapshotRow>) -> Result<()> {
    let batch: Vec<Written<'_>> = rows.map(written).collect();
    if !batch.is_empty() {
        tx.put(sql, &batch)?;
    }
    Ok(())
}

fn written(row: &SnapshotRow) -> Written<'_> {
    let snapshot = &row.snapshot;
    Written {
        id: snapshot.id,
        seq: row.seq,
        tenant: snapshot.tenant,
        vm: snapshot.vm,
        name: &snapshot.name,
        state: snapshot.state,
        detail: snapshot.detail.as_deref().map(Document),
        memory: u8::from(snapshot.memory),
        quiesced: snapshot.quiesced.map(u8::from),
        disk_bytes: snapshot.written.map(|size| size.disk_bytes),
        memory_bytes: snapshot.written.map(|size| size.memory_bytes),
        task: snapshot.task,
        node: snapshot.node,
        spec: Document(&snapshot.spec),
        created_at: snapshot.created_at.as_micros(),
        updated_at: snapshot.updated_at.as_micros(),
    }
}

fn read(row: &Row<'_>) -> Result<SnapshotRow> {
    let sizes: (Option<i64>, Option<i64>) = (row.get(9)?, row.get(10)?);
    let snapshot = Snapshot {
        id: row.parse(0)?,
        tenant: row.parse(2)?,
        vm: row.parse(3)?,
        name: row.parse(4)?,
        state: row.word(5)?,
        detail: row.json_opt(6)?,
        memory: row.get(7)?,
        quiesced: row.get(8)?,
        written: sizes.0.zip(sizes.1).map(|(disk_bytes, memory_bytes)| Size { disk_bytes, memory_bytes }),
        task: row.parse_opt(11)?,
        node: row.parse_opt(12)?,
        spec: row.json(13)?,
        created_at: Timestamp::from_micros(row.get(14)?),
        updated_at: Timestamp::from_micros(row.get(15)?),
    };
    Ok(SnapshotRow { seq: row.get(1)?, snapshot })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[BY_IDS, BY_NAME, ON_VMS, ON_NODES, UPDATE, ALL, OF_TENANT, OF_VM, DELETED, INSERT];

/// Lists, and the index that each is to walk.
#[cfg(test)]
pub(crate) const INDEXED: &[(&str, &str)] = &[
    (OF_TENANT, "snapshots_by_tenant (tenant=? AND id<?)"),
    (OF_VM, "snapshots_on_vm (vm=? AND id<?)"),
    (DELETED, "snapshots_deleted (id<?)"),
];
