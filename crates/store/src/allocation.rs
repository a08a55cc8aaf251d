//! Allocations: the rows of which both books are sums.

use hostler_db::{Error, Result, Row, Texts, Tx};
use hostler_model::{
    NodeId, ReservationId, SnapshotId, TaskId, TenantId, VmId,
    alloc::{Allocation, Hold, Owner},
    amounts::Amounts,
};
use serde::Serialize;
use serde_json::json;

const BY_OWNERS: &str = "
SELECT a.noun, a.id, a.tenant, a.node, a.vcpus, a.memory_mib, a.disk_gib, a.vms, a.running_vms, a.snapshots, a.hold
  FROM jsonb_each(?1) wanted
  JOIN allocations a ON a.noun = wanted.value->>'noun' AND a.id = wanted.value->>'id'";

/// Says that [`by_owners`] will be asked for these.
pub(crate) fn expect(tx: &Tx<'_>, owners: &[Owner]) -> Result<()> {
    tx.expect(BY_OWNERS, &owners)
}

/// Those that exist among the wanted.
pub(crate) fn by_owners(tx: &Tx<'_>, owners: &[Owner]) -> Result<Vec<Allocation>> {
    tx.query(BY_OWNERS, &owners, read)
}

const ALL: &str = "
SELECT noun, id, tenant, node, vcpus, memory_mib, disk_gib, vms, running_vms, snapshots, hold
  FROM allocations";

/// Every allocation: for `doctor`.
pub(crate) fn all(tx: &Tx<'_>) -> Result<Vec<Allocation>> {
    tx.query(ALL, &(), read)
}

const ON_NODE: &str = "
SELECT noun, id, tenant, node, vcpus, memory_mib, disk_gib, vms, running_vms, snapshots, hold
  FROM allocations
 WHERE node = ?1->>'node'";

/// Every allocation on a node.
pub(crate) fn on_node(tx: &Tx<'_>, node: NodeId) -> Result<Vec<Allocation>> {
    tx.query(ON_NODE, &json!({"node": node}), read)
}

const OF_TENANT: &str = "
SELECT noun, id, tenant, node, vcpus, memory_mib, disk_gib, vms, running_vms, snapshots, hold
  FROM allocations
 WHERE tenant = ?1->>'tenant'";

/// A tenant's allocations: to count its book anew.
pub(crate) fn of_tenant(tx: &Tx<'_>, tenant: TenantId) -> Result<Vec<Allocation>> {
    tx.query(OF_TENANT, &json!({"tenant": tenant}), read)
}

/// What is written over where there is one.
macro_rules! on_conflict {
    () => {
        "
    ON CONFLICT (noun, id) DO UPDATE
   SET node = excluded.node, vcpus = excluded.vcpus, memory_mib = excluded.memory_mib,
       disk_gib = excluded.disk_gib, vms = excluded.vms, running_vms = excluded.running_vms,
       snapshots = excluded.snapshots, hold = excluded.hold"
    };
}

const UPSERT: Texts = Texts {
    sqlite: concat!(
        "
INSERT INTO allocations (noun, id, tenant, node, vcpus, memory_mib, disk_gib, vms, running_vms, snapshots,
                         hold)
VALUES (:noun, :id, :tenant, :node, :vcpus, :memory_mib, :disk_gib, :vms, :running_vms, :snapshots, :hold)",
        on_conflict!()
    ),
    postgres: concat!(
        "
INSERT INTO allocations (noun, id, tenant, node, vcpus, memory_mib, disk_gib, vms, running_vms, snapshots,
                         hold)
SELECT *
  FROM rows(noun, id, tenant, node, vcpus bigint, memory_mib bigint, disk_gib bigint, vms bigint, running_vms bigint,
            snapshots bigint, hold)",
        on_conflict!()
    ),
};

#[derive(Serialize)]
struct Written {
    #[serde(flatten)]
    owner: Owner,
    tenant: TenantId,
    node: Option<NodeId>,
    #[serde(flatten)]
    amount: Amounts,
    hold: Hold,
}

/// Writes allocations as they are now.
pub(crate) fn upsert(tx: &Tx<'_>, allocations: impl Iterator<Item = Allocation>) -> Result<()> {
    let written = allocations.map(|Allocation { owner, tenant, node, amount, hold }| Written {
        owner,
        tenant,
        node,
        amount,
        hold,
    });
    tx.put_each(&UPSERT, &written.collect::<Vec<_>>())
}

const DELETE: Texts = Texts {
    sqlite: "
DELETE FROM allocations
 WHERE noun = :noun AND id = :id",
    postgres: "
DELETE FROM allocations
 USING rows(noun, id) c
 WHERE allocations.noun = c.noun AND allocations.id = c.id",
};

/// Removes allocations that are gone.
pub(crate) fn delete(tx: &Tx<'_>, owners: impl Iterator<Item = Owner>) -> Result<()> {
    tx.put_each(&DELETE, &owners.collect::<Vec<_>>())
}

const ORPHANED: &str = "
SELECT a.noun, a.id
  FROM allocations a
  LEFT JOIN tasks t ON a.noun = 'task' AND t.id = a.id
  LEFT JOIN vms v ON a.noun = 'vm' AND v.id = a.id
  LEFT JOIN snapshots s ON a.noun = 'snapshot' AND s.id = a.id
  LEFT JOIN reservations r ON a.noun = 'reservation' AND r.id = a.id
 WHERE CASE a.noun
         WHEN 'task' THEN t.id IS NULL OR t.state = 'succeeded'
         WHEN 'vm' THEN v.id IS NULL OR v.state = 'deleted'
         WHEN 'snapshot' THEN s.id IS NULL OR s.state = 'deleted'
         WHEN 'reservation' THEN r.id IS NULL
         ELSE true
       END
 LIMIT 20";

/// Allocations whose owner does not exist, or is gone and left nothing: there must be none.
pub(crate) fn orphaned(tx: &Tx<'_>) -> Result<Vec<(String, String)>> {
    tx.query(ORPHANED, &(), |row| Ok((row.get(0)?, row.get(1)?)))
}

fn read(row: &Row<'_>) -> Result<Allocation> {
    let noun: String = row.get(0)?;
    let owner = match noun.as_str() {
        "task" => Owner::Task(row.parse::<TaskId>(1)?),
        "vm" => Owner::Vm(row.parse::<VmId>(1)?),
        "snapshot" => Owner::Snapshot(row.parse::<SnapshotId>(1)?),
        "reservation" => Owner::Reservation(row.parse::<ReservationId>(1)?),
        other => return Err(Error::Decode { column: 0, detail: format!("{other} owns no allocation") }),
    };
    Ok(Allocation {
        owner,
        tenant: row.parse(2)?,
        node: row.parse_opt(3)?,
        amount: amounts(row, 4)?,
        hold: row.word(10)?,
    })
}

/// Six columns of amounts.
pub(crate) fn amounts(row: &Row<'_>, first: usize) -> Result<Amounts> {
    Ok(Amounts {
        vcpus: row.get(first)?,
        memory_mib: row.get(first + 1)?,
        disk_gib: row.get(first + 2)?,
        vms: row.get(first + 3)?,
        running_vms: row.get(first + 4)?,
        snapshots: row.get(first + 5)?,
    })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[BY_OWNERS, DELETE.sqlite, UPSERT.sqlite];

/// Those that are another text on a server.
#[cfg(test)]
pub(crate) const BOTH: &[&Texts] = &[&DELETE, &UPSERT];
