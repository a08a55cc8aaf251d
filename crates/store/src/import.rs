//! Imports: how far they are, for people. The bytes are the server's.

use std::time::Duration;

use hostler_db::{Document, Result, Row, Tx};
use hostler_model::{
    ImageDigest, PrincipalId, TenantId, Timestamp,
    id::ImportId,
    import::{Import, ImportProgress, ImportState},
    task::TaskError,
};
use serde_json::json;

/// An import whose server has not said for so long that it lives has lost it. It says so every ten
/// seconds at least.
const SILENCE: Duration = Duration::from_secs(30);
/// How many imports of a tenant are kept, once they are over; the log of events and the audit know the others.
const KEPT: usize = 200;
/// How many lost imports one pass ends.
pub(crate) const PIECE: usize = 256;

const INSERT: &str = "
INSERT INTO imports (id, tenant, name, source, state, progress, cancel, created_by, created_at, beat_at)
VALUES (?1->>'id', ?1->>'tenant', ?1->>'name', ?1->>'source', 'running', ?1->>'progress', 0, ?1->>'created_by',
        CAST(?1->>'now' AS BIGINT), CAST(?1->>'now' AS BIGINT))";

pub(crate) fn insert(tx: &Tx<'_>, import: &Import) -> Result<()> {
    let Import { id, tenant, name, source, progress, created_by, .. } = import;
    let row = json!({
        "id": id, "tenant": tenant, "name": name, "source": source, "progress": Document(progress), "created_by": created_by,
        "now": import.created_at.as_micros(),
    });
    tx.put(INSERT, &row)
}

macro_rules! columns {
    () => {
        "id, tenant, name, source, state, progress, image, error, created_by, created_at, finished_at"
    };
}

const ONE: &str = concat!("SELECT ", columns!(), " FROM imports WHERE id = ?1->>'id'");

pub(crate) fn one(tx: &Tx<'_>, id: ImportId) -> Result<Option<Import>> {
    tx.query_one(ONE, &json!({"id": id}), read)
}

const OF_TENANT: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM imports
 WHERE tenant = ?1->>'tenant' AND id < COALESCE(?1->>'before', 'g')
 ORDER BY id DESC
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

pub(crate) fn of_tenant(tx: &Tx<'_>, tenant: TenantId, before: Option<ImportId>, limit: usize) -> Result<Vec<Import>> {
    tx.query(OF_TENANT, &json!({"tenant": tenant, "before": before, "limit": limit}), read)
}

const RUNNING: &str = "SELECT COUNT(*) FROM imports WHERE tenant = ?1->>'tenant' AND state = 'running'";

/// How many of a tenant's are under way.
pub(crate) fn running(tx: &Tx<'_>, tenant: TenantId) -> Result<i64> {
    Ok(tx.query_one(RUNNING, &json!({"tenant": tenant}), |row| row.get(0))?.unwrap_or(0))
}

const PRUNE: &str = "
DELETE FROM imports
 WHERE tenant = ?1->>'tenant' AND state <> 'running'
   AND id < (SELECT id
               FROM imports
              WHERE tenant = ?1->>'tenant'
              ORDER BY id DESC
              LIMIT 1 OFFSET CAST(?1->>'kept' AS BIGINT))";

/// Removes a tenant's oldest that are over.
pub(crate) fn prune(tx: &Tx<'_>, tenant: TenantId) -> Result<()> {
    tx.put(PRUNE, &json!({"tenant": tenant, "kept": KEPT}))?;
    Ok(())
}

const BEAT: &str = "
UPDATE imports
   SET progress = ?1->>'progress', beat_at = CAST(?1->>'now' AS BIGINT)
 WHERE id = ?1->>'id' AND state = 'running' AND cancel = 0";

/// Whether it is to go on.
pub(crate) fn beat(tx: &Tx<'_>, id: ImportId, progress: &ImportProgress, now: Timestamp) -> Result<bool> {
    Ok(tx.execute(BEAT, &json!({"id": id, "progress": Document(progress), "now": now.as_micros()}))? > 0)
}

const GOING_ON: &str = "
SELECT tenant
  FROM imports
 WHERE id = ?1->>'id' AND state = 'running' AND cancel = 0";

/// Whose an import is that is to go on.
pub(crate) fn going_on(tx: &Tx<'_>, id: ImportId) -> Result<Option<TenantId>> {
    tx.query_one(GOING_ON, &json!({"id": id}), |row| row.parse(0))
}

const CANCEL: &str = "UPDATE imports SET cancel = 1 WHERE id = ?1->>'id' AND state = 'running'";

pub(crate) fn cancel(tx: &Tx<'_>, id: ImportId) -> Result<()> {
    tx.put(CANCEL, &json!({"id": id}))?;
    Ok(())
}

const END: &str = "
UPDATE imports
   SET state = ?1->>'state', image = ?1->>'image', error = ?1->>'error', finished_at = CAST(?1->>'now' AS BIGINT)
 WHERE id = ?1->>'id' AND state = 'running'";

pub(crate) fn end(
    tx: &Tx<'_>,
    id: ImportId,
    state: ImportState,
    end: &std::result::Result<ImageDigest, TaskError>,
    now: Timestamp,
) -> Result<()> {
    let (image, error) = (end.as_ref().ok(), end.as_ref().err().map(Document));
    tx.put(END, &json!({"id": id, "state": state, "image": image, "error": error, "now": now.as_micros()}))?;
    Ok(())
}

const SILENT: &str = "
SELECT id FROM imports
 WHERE state = 'running' AND beat_at < CAST(?1->>'before' AS BIGINT)
 ORDER BY beat_at
 LIMIT CAST(?1->>'limit' AS BIGINT)";

/// An import whose server spoke last before this has lost it.
pub(crate) fn too_long_ago(now: Timestamp) -> Timestamp {
    Timestamp::from_micros(now.as_micros() - SILENCE.as_micros() as i64)
}

/// Those of which no server has said anything since then, at most a piece of them.
pub(crate) fn silent(tx: &Tx<'_>, before: Timestamp) -> Result<Vec<ImportId>> {
    tx.query(SILENT, &json!({"before": before.as_micros(), "limit": PIECE}), |row| row.parse(0))
}

fn read(row: &Row<'_>) -> Result<Import> {
    Ok(Import {
        id: row.parse(0)?,
        tenant: row.parse(1)?,
        name: row.get(2)?,
        source: row.get(3)?,
        state: row.word(4)?,
        progress: row.json(5)?,
        image: row.get::<Option<String>>(6)?.map(ImageDigest),
        error: row.json_opt(7)?,
        created_by: PrincipalId(row.parse(8)?),
        created_at: Timestamp::from_micros(row.get(9)?),
        finished_at: row.get::<Option<i64>>(10)?.map(Timestamp::from_micros),
    })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[ONE, OF_TENANT, RUNNING, PRUNE, BEAT, SILENT, INSERT, GOING_ON, CANCEL, END];
