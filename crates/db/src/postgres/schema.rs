//! Migrations on a server: several programs may start at once.

use ::postgres::Client;

use super::server::Server;
use crate::{
    Error, Result,
    migration::{self, Migrations},
};

/// Any two numbers will do, as long as every hostler locks the same: `hstl` in ASCII, and which lock.
pub(super) const FAMILY: i32 = 0x6873_746c;
const MIGRATING: i32 = 1;
pub(super) const WRITING: i32 = 2;

const RECORD: &str = "
CREATE TABLE IF NOT EXISTS hostler_schema (
    one     BIGINT PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL,
    mark    BIGINT NOT NULL
)";

const HAVE: &str = "SELECT version, mark FROM hostler_schema WHERE one = 1";

const NOTE: &str = "
INSERT INTO hostler_schema (one, version, mark)
VALUES (1, $1, $2)
    ON CONFLICT (one) DO UPDATE
   SET version = excluded.version, mark = excluded.mark";

/// Brings the tables up to date, all or nothing: in PostgreSQL changes of tables are part of their transaction.
pub(super) fn migrate(server: &Server, client: &mut Client, migrations: Migrations) -> Result<()> {
    let fail = |e| server.wrap(&e);
    let mut tx = client.transaction().map_err(fail)?;
    tx.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").map_err(fail)?;
    // Those who start, and then those who write.
    for lock in [MIGRATING, WRITING] {
        tx.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&FAMILY, &lock]).map_err(fail)?;
    }
    tx.batch_execute(RECORD).map_err(fail)?;
    let found = tx.query_opt(HAVE, &[]).map_err(fail)?;
    let (have, marked) = found.map_or((0, 0), |row| (row.get::<_, i64>(0), row.get::<_, i64>(1)));
    let have = usize::try_from(have).unwrap_or(0);
    migration::check(server, migrations, have, i32::try_from(marked).unwrap_or_default())?;
    for sql in &migrations[have..] {
        tx.batch_execute(sql).map_err(fail)?;
    }
    if have < migrations.len() {
        let version = i64::try_from(migrations.len()).map_err(|e| Error::Aborted(e.to_string()))?;
        tx.execute(NOTE, &[&version, &i64::from(migration::mark(migrations))]).map_err(fail)?;
    }
    tx.commit().map_err(fail)
}
