//! Service accounts: for whom programs' tokens stand.

use hostler_db::{Result, Row, Tx};
use hostler_model::{PrincipalId, TenantId, Timestamp, name::Name, token::ServiceAccount};
use serde_json::json;

/// How many a tenant may have.
pub(crate) const MOST: usize = 500;

const INSERT: &str = "
INSERT INTO service_accounts (id, tenant, name, role, created_at, created_by)
VALUES (?1->>'id', ?1->>'tenant', ?1->>'name', ?1->>'role', CAST(?1->>'created_at' AS BIGINT), ?1->>'created_by')";

/// Writes one down.
pub(crate) fn insert(tx: &Tx<'_>, account: &ServiceAccount) -> Result<()> {
    let ServiceAccount { id, tenant, name, role, created_at, created_by } = account;
    let row = json!({
        "id": id, "tenant": tenant, "name": name, "role": role.as_str(), "created_at": created_at.as_micros(),
        "created_by": created_by,
    });
    tx.put(INSERT, &row)
}

macro_rules! select {
    ($($rest:literal),*) => {
        concat!("SELECT id, tenant, name, role, created_at, created_by FROM service_accounts", $($rest),*)
    };
}

const NAMED: &str = select!(" WHERE tenant = ?1->>'tenant' AND name = ?1->>'name' AND deleted_at IS NULL");

/// The one of this name that is not deleted.
pub(crate) fn named(tx: &Tx<'_>, tenant: TenantId, name: &Name) -> Result<Option<ServiceAccount>> {
    tx.query_one(NAMED, &json!({"tenant": tenant, "name": name}), read)
}

const ONE: &str = select!(" WHERE id = ?1->>'id' AND deleted_at IS NULL");

/// The one of this id that is not deleted.
pub(crate) fn one(tx: &Tx<'_>, id: PrincipalId) -> Result<Option<ServiceAccount>> {
    tx.query_one(ONE, &json!({"id": id}), read)
}

const OF_TENANT: &str =
    select!(" WHERE tenant = ?1->>'tenant' AND deleted_at IS NULL ORDER BY name LIMIT CAST(?1->>'limit' AS BIGINT)");

/// A tenant's, by name.
pub(crate) fn of_tenant(tx: &Tx<'_>, tenant: TenantId) -> Result<Vec<ServiceAccount>> {
    tx.query(OF_TENANT, &json!({"tenant": tenant, "limit": MOST}), read)
}

const DELETE: &str = "
UPDATE service_accounts
   SET deleted_at = CAST(?1->>'now' AS BIGINT)
 WHERE id = ?1->>'id' AND deleted_at IS NULL";

/// Takes one away; its name is free, and what it did keeps its name in the lists.
pub(crate) fn delete(tx: &Tx<'_>, id: PrincipalId, now: Timestamp) -> Result<()> {
    tx.put(DELETE, &json!({"id": id, "now": now.as_micros()}))
}

fn read(row: &Row<'_>) -> Result<ServiceAccount> {
    Ok(ServiceAccount {
        id: row.parse(0)?,
        tenant: row.parse(1)?,
        name: row.parse(2)?,
        role: row.parse(3)?,
        created_at: Timestamp::from_micros(row.get(4)?),
        created_by: row.parse(5)?,
    })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[INSERT, NAMED, ONE, OF_TENANT, DELETE];
