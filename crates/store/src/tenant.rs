//! Tenants: their limits and their books.

use std::collections::BTreeMap;

use hostler_db::{Result, Row, Tx};
use hostler_model::{Resources, TenantId, book::Book, name::Name};
use serde::Serialize;
use serde_json::json;

use crate::allocation::resources;

/// A tenant's limits and book.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TenantRow {
    pub(crate) limits: Resources,
    pub(crate) book: Book,
}

const BY_IDS: &str = "
SELECT t.id, t.limit_vcpus, t.limit_memory_mib, t.limit_disk_gib, t.limit_vms,
       COALESCE(b.held_vcpus, 0), COALESCE(b.held_memory_mib, 0), COALESCE(b.held_disk_gib, 0),
       COALESCE(b.held_vms, 0), COALESCE(b.used_vcpus, 0), COALESCE(b.used_memory_mib, 0),
       COALESCE(b.used_disk_gib, 0), COALESCE(b.used_vms, 0)
  FROM jsonb_each(?1) wanted
  JOIN tenants t ON t.id = wanted.value
  LEFT JOIN tenant_books b ON b.tenant = t.id";

/// Those that exist among the wanted.
pub(crate) fn by_ids(tx: &Tx<'_>, ids: &[TenantId]) -> Result<Vec<(TenantId, TenantRow)>> {
    tx.query(BY_IDS, &ids, |row| Ok((row.parse(0)?, TenantRow { limits: resources(row, 1)?, book: book(row, 5)? })))
}

const PUT: &str = "
INSERT INTO tenants (id, name, limit_vcpus, limit_memory_mib, limit_disk_gib, limit_vms)
VALUES (?1->>'id', ?1->>'name', CAST(?1->'limits'->>'vcpus' AS BIGINT), CAST(?1->'limits'->>'memory_mib' AS BIGINT),
        CAST(?1->'limits'->>'disk_gib' AS BIGINT), CAST(?1->'limits'->>'vms' AS BIGINT))
    ON CONFLICT (id) DO UPDATE
   SET name = excluded.name, limit_vcpus = excluded.limit_vcpus, limit_memory_mib = excluded.limit_memory_mib,
       limit_disk_gib = excluded.limit_disk_gib, limit_vms = excluded.limit_vms";

/// Makes a tenant, or changes its name and limits.
pub(crate) fn put(tx: &Tx<'_>, id: TenantId, name: &Name, limits: &Resources) -> Result<()> {
    tx.put(PUT, &json!({"id": id, "name": name, "limits": limits}))?;
    Ok(())
}

const NAMED: &str = "SELECT id FROM tenants WHERE name = ?1->>'name'";

/// Whose name this is.
pub(crate) fn named(tx: &Tx<'_>, name: &Name) -> Result<Option<TenantId>> {
    tx.query_one(NAMED, &json!({"name": name}), |row| row.parse(0))
}

const ADD: &str = "
INSERT INTO tenant_books (tenant, held_vcpus, held_memory_mib, held_disk_gib, held_vms,
                          used_vcpus, used_memory_mib, used_disk_gib, used_vms)
SELECT value->>'id', CAST(value->'held'->>'vcpus' AS BIGINT), CAST(value->'held'->>'memory_mib' AS BIGINT),
       CAST(value->'held'->>'disk_gib' AS BIGINT), CAST(value->'held'->>'vms' AS BIGINT),
       CAST(value->'used'->>'vcpus' AS BIGINT), CAST(value->'used'->>'memory_mib' AS BIGINT),
       CAST(value->'used'->>'disk_gib' AS BIGINT), CAST(value->'used'->>'vms' AS BIGINT)
  FROM jsonb_each(?1)
 WHERE true
    ON CONFLICT (tenant) DO UPDATE
   SET held_vcpus = tenant_books.held_vcpus + excluded.held_vcpus,
       held_memory_mib = tenant_books.held_memory_mib + excluded.held_memory_mib,
       held_disk_gib = tenant_books.held_disk_gib + excluded.held_disk_gib,
       held_vms = tenant_books.held_vms + excluded.held_vms,
       used_vcpus = tenant_books.used_vcpus + excluded.used_vcpus,
       used_memory_mib = tenant_books.used_memory_mib + excluded.used_memory_mib,
       used_disk_gib = tenant_books.used_disk_gib + excluded.used_disk_gib,
       used_vms = tenant_books.used_vms + excluded.used_vms";

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
SELECT tenant, held_vcpus, held_memory_mib, held_disk_gib, held_vms, used_vcpus, used_memory_mib, used_disk_gib,
       used_vms
  FROM tenant_books";

/// Every tenant's book.
pub(crate) fn books(tx: &Tx<'_>) -> Result<BTreeMap<TenantId, Book>> {
    Ok(tx.query(BOOKS, &(), |row| Ok((row.parse(0)?, book(row, 1)?)))?.into_iter().collect())
}

/// Eight columns of a book.
pub(crate) fn book(row: &Row<'_>, first: usize) -> Result<Book> {
    Ok(Book { held: resources(row, first)?, used: resources(row, first + 4)? })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[BY_IDS, NAMED, PUT, ADD];
