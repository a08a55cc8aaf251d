//! Tenants: their limits and their books.

use std::collections::BTreeMap;

use hostler_db::{Result, Row, Tx};
use hostler_model::{
    TenantId, Timestamp,
    book::Book,
    name::Name,
    tenant::{Limits, Remains, Tenant},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::allocation::amounts;

macro_rules! select {
    () => {
        "
SELECT t.id, t.name, t.limit_vcpus, t.limit_memory_mib, t.limit_disk_gib, t.limit_vms, t.limit_running_vms,
       t.limit_snapshots, t.limit_images_gib,
       t.generation, t.created_at, t.updated_at,
       COALESCE(b.held_vcpus, 0), COALESCE(b.held_memory_mib, 0), COALESCE(b.held_disk_gib, 0),
       COALESCE(b.held_vms, 0), COALESCE(b.held_running_vms, 0), COALESCE(b.held_snapshots, 0),
       COALESCE(b.used_vcpus, 0), COALESCE(b.used_memory_mib, 0), COALESCE(b.used_disk_gib, 0),
       COALESCE(b.used_vms, 0), COALESCE(b.used_running_vms, 0), COALESCE(b.used_snapshots, 0)"
    };
}

const BY_IDS: &str = concat!(
    select!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN tenants t ON t.id = wanted.value
  LEFT JOIN tenant_books b ON b.tenant = t.id"
);

/// Those that exist among the wanted.
pub(crate) fn by_ids(tx: &Tx<'_>, ids: &[TenantId]) -> Result<Vec<Tenant>> {
    tx.query(BY_IDS, &ids, read)
}

const LIST: &str = concat!(
    select!(),
    "
  FROM tenants t
  LEFT JOIN tenant_books b ON b.tenant = t.id
 WHERE t.id < COALESCE(?1->>'before', 'g')
 ORDER BY t.id DESC
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

/// Newest first; `before` is the last id of the page before.
pub(crate) fn list(tx: &Tx<'_>, before: Option<TenantId>, limit: usize) -> Result<Vec<Tenant>> {
    tx.query(LIST, &json!({"before": before, "limit": limit}), read)
}

fn read(row: &Row<'_>) -> Result<Tenant> {
    Ok(Tenant {
        id: row.parse(0)?,
        name: row.parse(1)?,
        limits: Limits {
            vcpus: row.get(2)?,
            memory_mib: row.get(3)?,
            disk_gib: row.get(4)?,
            vms: row.get(5)?,
            running_vms: row.get(6)?,
            snapshots: row.get(7)?,
            images_gib: row.get(8)?,
        },
        generation: row.get(9)?,
        created_at: Timestamp::from_micros(row.get(10)?),
        updated_at: Timestamp::from_micros(row.get(11)?),
        book: book(row, 12)?,
    })
}

fn written(tenant: &Tenant) -> Value {
    let Tenant { id, name, limits, generation, created_at, updated_at, book: _ } = tenant;
    json!({
        "id": id, "name": name, "limits": limits, "generation": generation, "created_at": created_at.as_micros(),
        "updated_at": updated_at.as_micros(),
    })
}

const INSERT: &str = "
INSERT INTO tenants (id, name, limit_vcpus, limit_memory_mib, limit_disk_gib, limit_vms, limit_running_vms,
                     limit_snapshots, limit_images_gib, generation, created_at, updated_at)
VALUES (?1->>'id', ?1->>'name', CAST(?1->'limits'->>'vcpus' AS BIGINT), CAST(?1->'limits'->>'memory_mib' AS BIGINT),
        CAST(?1->'limits'->>'disk_gib' AS BIGINT), CAST(?1->'limits'->>'vms' AS BIGINT),
        CAST(?1->'limits'->>'running_vms' AS BIGINT), CAST(?1->'limits'->>'snapshots' AS BIGINT),
        CAST(?1->'limits'->>'images_gib' AS BIGINT), CAST(?1->>'generation' AS BIGINT),
        CAST(?1->>'created_at' AS BIGINT), CAST(?1->>'updated_at' AS BIGINT))";

/// Writes a new tenant down.
pub(crate) fn insert(tx: &Tx<'_>, tenant: &Tenant) -> Result<()> {
    tx.put(INSERT, &written(tenant))
}

const UPDATE: &str = "
UPDATE tenants
   SET name = ?1->>'name', limit_vcpus = CAST(?1->'limits'->>'vcpus' AS BIGINT),
       limit_memory_mib = CAST(?1->'limits'->>'memory_mib' AS BIGINT),
       limit_disk_gib = CAST(?1->'limits'->>'disk_gib' AS BIGINT), limit_vms = CAST(?1->'limits'->>'vms' AS BIGINT),
       limit_running_vms = CAST(?1->'limits'->>'running_vms' AS BIGINT),
       limit_snapshots = CAST(?1->'limits'->>'snapshots' AS BIGINT),
       limit_images_gib = CAST(?1->'limits'->>'images_gib' AS BIGINT),
       generation = CAST(?1->>'generation' AS BIGINT), updated_at = CAST(?1->>'updated_at' AS BIGINT)
 WHERE id = ?1->>'id'";

/// Writes a tenant's name and limits.
pub(crate) fn update(tx: &Tx<'_>, tenant: &Tenant) -> Result<()> {
    tx.put(UPDATE, &written(tenant))
}

const DELETE: &str = "DELETE FROM tenants WHERE id = ?1->>'id'";

const DELETE_BOOK: &str = "DELETE FROM tenant_books WHERE tenant = ?1->>'id'";

/// Removes a tenant that has nothing. What it did stays in the history.
pub(crate) fn delete(tx: &Tx<'_>, id: TenantId) -> Result<()> {
    tx.put(DELETE, &json!({"id": id}))?;
    tx.put(DELETE_BOOK, &json!({"id": id}))
}

const REMAINS: &str = "
SELECT 'vms', COUNT(*) FROM vms WHERE tenant = ?1->>'id' AND state <> 'deleted'
 UNION ALL
SELECT 'snapshots', COUNT(*) FROM snapshots WHERE tenant = ?1->>'id' AND state <> 'deleted'
 UNION ALL
SELECT 'images', COUNT(*) FROM images WHERE tenant = ?1->>'id'
 UNION ALL
SELECT 'imports', COUNT(*) FROM imports WHERE tenant = ?1->>'id' AND state = 'running'
 UNION ALL
SELECT 'open_tasks', COUNT(*) FROM tasks WHERE tenant = ?1->>'id' AND state IN ('queued', 'running', 'aborting')
 UNION ALL
SELECT 'reservations', COUNT(*) FROM reservations WHERE tenant = ?1->>'id'
 UNION ALL
SELECT 'allocations', COUNT(*) FROM allocations WHERE tenant = ?1->>'id'
 UNION ALL
SELECT 'service_accounts', COUNT(*) FROM service_accounts WHERE tenant = ?1->>'id' AND deleted_at IS NULL
 UNION ALL
SELECT 'tokens', COUNT(*)
  FROM api_tokens
 WHERE tenant = ?1->>'id' AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > CAST(?1->>'now' AS BIGINT))";

/// What a tenant has.
pub(crate) fn remains(tx: &Tx<'_>, id: TenantId, now: Timestamp) -> Result<Remains> {
    let counts = tx.query(REMAINS, &json!({"id": id, "now": now.as_micros()}), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(counts.into_iter().collect())
}

const NAMED: &str = "SELECT id FROM tenants WHERE name = ?1->>'name'";

/// Whose name this is.
pub(crate) fn named(tx: &Tx<'_>, name: &Name) -> Result<Option<TenantId>> {
    tx.query_one(NAMED, &json!({"name": name}), |row| row.parse(0))
}

const ADD: &str = "
INSERT INTO tenant_books (tenant, held_vcpus, held_memory_mib, held_disk_gib, held_vms, held_running_vms, held_snapshots,
                          used_vcpus, used_memory_mib, used_disk_gib, used_vms, used_running_vms, used_snapshots)
SELECT value->>'id', CAST(value->'held'->>'vcpus' AS BIGINT), CAST(value->'held'->>'memory_mib' AS BIGINT),
       CAST(value->'held'->>'disk_gib' AS BIGINT), CAST(value->'held'->>'vms' AS BIGINT),
       CAST(value->'held'->>'running_vms' AS BIGINT), CAST(value->'held'->>'snapshots' AS BIGINT),
       CAST(value->'used'->>'vcpus' AS BIGINT), CAST(value->'used'->>'memory_mib' AS BIGINT),
       CAST(value->'used'->>'disk_gib' AS BIGINT), CAST(value->'used'->>'vms' AS BIGINT),
       CAST(value->'used'->>'running_vms' AS BIGINT), CAST(value->'used'->>'snapshots' AS BIGINT)
  FROM jsonb_each(?1)
 WHERE true
    ON CONFLICT (tenant) DO UPDATE
   SET held_vcpus = tenant_books.held_vcpus + excluded.held_vcpus,
       held_memory_mib = tenant_books.held_memory_mib + excluded.held_memory_mib,
       held_disk_gib = tenant_books.held_disk_gib + excluded.held_disk_gib,
       held_vms = tenant_books.held_vms + excluded.held_vms,
       held_running_vms = tenant_books.held_running_vms + excluded.held_running_vms,
       held_snapshots = tenant_books.held_snapshots + excluded.held_snapshots,
       used_vcpus = tenant_books.used_vcpus + excluded.used_vcpus,
       used_memory_mib = tenant_books.used_memory_mib + excluded.used_memory_mib,
       used_disk_gib = tenant_books.used_disk_gib + excluded.used_disk_gib,
       used_vms = tenant_books.used_vms + excluded.used_vms,
       used_running_vms = tenant_books.used_running_vms + excluded.used_running_vms,
       used_snapshots = tenant_books.used_snapshots + excluded.used_snapshots";

/// Adds a batch's changes to the books, one row for each tenant.
pub(crate) fn write_books(tx: &Tx<'_>, changes: &BTreeMap<TenantId, Book>) -> Result<()> {
    let batch: Vec<Change<'_, TenantId>> = changed(changes);
    if !batch.is_empty() {
        tx.put(ADD, &batch)?;
    }
    Ok(())
}

/// A change of one book.
#[derive(Serialize)]
pub(crate) struct Change<'a, K> {
    id: &'a K,
    #[serde(flatten)]
    book: &'a Book,
}

/// Changes that change something.
pub(crate) fn changed<K: Serialize>(changes: &BTreeMap<K, Book>) -> Vec<Change<'_, K>> {
    changes.iter().filter(|(_, book)| **book != Book::default()).map(|(id, book)| Change { id, book }).collect()
}

const BOOKS: &str = "
SELECT tenant, held_vcpus, held_memory_mib, held_disk_gib, held_vms, held_running_vms, held_snapshots, used_vcpus,
       used_memory_mib, used_disk_gib, used_vms, used_running_vms, used_snapshots
  FROM tenant_books";

/// Every tenant's book.
pub(crate) fn books(tx: &Tx<'_>) -> Result<BTreeMap<TenantId, Book>> {
    Ok(tx.query(BOOKS, &(), |row| Ok((row.parse(0)?, book(row, 1)?)))?.into_iter().collect())
}

/// Twelve columns of a book.
pub(crate) fn book(row: &Row<'_>, first: usize) -> Result<Book> {
    Ok(Book { held: amounts(row, first)?, used: amounts(row, first + 6)? })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[BY_IDS, LIST, NAMED, INSERT, UPDATE, DELETE, DELETE_BOOK, ADD];
