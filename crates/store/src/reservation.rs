//! Reservations: what is held for tenants by hand. How much each holds stands in its allocation, and nowhere else.

use hostler_db::{Result, Row, Tx};
use hostler_model::{ReservationId, TenantId, Timestamp, reservation::Reservation};
use serde_json::json;

use crate::allocation::amounts;

const INSERT: &str = "
INSERT INTO reservations (id, tenant, reason, created_by, created_at, expires_at)
VALUES (?1->>'id', ?1->>'tenant', ?1->>'reason', ?1->>'created_by', CAST(?1->>'created_at' AS BIGINT),
        CAST(?1->>'expires_at' AS BIGINT))";

/// Writes one down, beside its allocation.
pub(crate) fn insert(tx: &Tx<'_>, reservation: &Reservation) -> Result<()> {
    let Reservation { id, tenant, amount: _, reason, created_by, created_at, expires_at } = reservation;
    let row = json!({
        "id": id, "tenant": tenant, "reason": reason, "created_by": created_by, "created_at": created_at.as_micros(),
        "expires_at": expires_at.as_micros(),
    });
    tx.put(INSERT, &row)
}

macro_rules! select {
    ($($rest:literal),*) => {
        concat!(
            "
SELECT r.id, r.tenant, r.reason, r.created_by, r.created_at, r.expires_at, COALESCE(a.vcpus, 0),
       COALESCE(a.memory_mib, 0), COALESCE(a.disk_gib, 0), COALESCE(a.vms, 0), COALESCE(a.running_vms, 0),
       COALESCE(a.snapshots, 0)
  FROM reservations r
  LEFT JOIN allocations a ON a.noun = 'reservation' AND a.id = r.id",
            $($rest),*
        )
    };
}

const ONE: &str = select!("\n WHERE r.id = ?1->>'id'");

/// One of them.
pub(crate) fn one(tx: &Tx<'_>, id: ReservationId) -> Result<Option<Reservation>> {
    tx.query_one(ONE, &json!({"id": id}), read)
}

const OF_TENANT: &str = select!(
    "
 WHERE r.tenant = ?1->>'tenant' AND r.id < COALESCE(?1->>'before', 'g')
 ORDER BY r.id DESC
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

/// A tenant's, newest first; `before` is the last id of the page before.
pub(crate) fn of_tenant(
    tx: &Tx<'_>,
    tenant: TenantId,
    before: Option<ReservationId>,
    limit: usize,
) -> Result<Vec<Reservation>> {
    tx.query(OF_TENANT, &json!({"tenant": tenant, "before": before, "limit": limit}), read)
}

const OVER: &str = select!(
    "
 WHERE r.expires_at <= CAST(?1->>'now' AS BIGINT)
 ORDER BY r.expires_at
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

/// Those whose time is up.
pub(crate) fn over(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<Vec<Reservation>> {
    tx.query(OVER, &json!({"now": now.as_micros(), "limit": limit}), read)
}

const DELETE: &str = "DELETE FROM reservations WHERE id = ?1->>'id'";

/// Removes one.
pub(crate) fn delete(tx: &Tx<'_>, id: ReservationId) -> Result<()> {
    tx.put(DELETE, &json!({"id": id}))
}

fn read(row: &Row<'_>) -> Result<Reservation> {
    Ok(Reservation {
        id: row.parse(0)?,
        tenant: row.parse(1)?,
        reason: row.get(2)?,
        created_by: row.parse(3)?,
        created_at: Timestamp::from_micros(row.get(4)?),
        expires_at: Timestamp::from_micros(row.get(5)?),
        amount: amounts(row, 6)?,
    })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[INSERT, ONE, OF_TENANT, OVER, DELETE];
