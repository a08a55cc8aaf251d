//! Copies of a database while it is in use, and how they come back.

use std::{
    fs::File,
    path::{Path, PathBuf},
    thread,
};

use ::postgres::{Client, config::Host, error::SqlState};
use rusqlite::{Connection, OpenFlags};

use crate::{Error, Result, postgres::Server, sqlite};

/// Writes a copy of an SQLite file as it is now; whoever writes to it goes on. The copy is on the disk when this returns.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let wrap = |error| sqlite::wrap(from, error);
    let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(wrap)?;
    connection.busy_timeout(std::time::Duration::from_secs(60)).map_err(wrap)?;
    let name = to.to_str().ok_or_else(|| Error::Aborted(format!("{} is no name for a copy", to.display())))?;
    connection.execute("VACUUM INTO ?1", [name]).map_err(wrap)?;
    let synced = File::open(to).and_then(|file| file.sync_all());
    synced.map_err(|e| Error::Aborted(format!("{} cannot be written to the disk: {e}", to.display())))
}

/// Whether every page of an SQLite file is what it should be.
pub fn check(file: &Path) -> Result<()> {
    let wrap = |error| sqlite::wrap(file, error);
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(wrap)?;
    let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(wrap)?;
    if said == "ok" { Ok(()) } else { Err(Error::Aborted(format!("{} is damaged: {said}", file.display()))) }
}

/// Puts all of an SQLite database into its one file, on the disk.
pub fn settle(file: &Path) -> Result<()> {
    let wrap = |error| sqlite::wrap(file, error);
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(wrap)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(wrap)?;
    drop(connection);
    File::open(file)
        .and_then(|file| file.sync_all())
        .map_err(|e| Error::Aborted(format!("{} cannot be written to the disk: {e}", file.display())))
}

/// The files of an SQLite database: it is all of them.
pub fn files(database: &Path) -> Vec<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = database.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    [beside(""), beside("-wal"), beside("-shm")].into_iter().filter(|file| file.exists()).collect()
}

/// How many connections programs of ours have to a database.
pub fn in_use(url: &str) -> Result<i64> {
    on_a_server(url, |client| client.query_one(IN_USE, &[&ASIDE])?.try_get(0))
}

/// What connections of this module are called: a server may still be ending one that is closed.
const ASIDE: &str = "hostler aside";

const IN_USE: &str = "
SELECT COUNT(*)
  FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'hostler%' AND application_name <> $1";

/// A table that is there while a restore is under way, and is in no copy.
pub const MARK: &str = "hostler_restore";

/// Notes that a database is being put back, and is not to be used before [`end_restore`]. `false`: another restore was
/// begun, and has not come to its end.
pub fn begin_restore(url: &str) -> Result<bool> {
    on_a_server(url, |client| match client.batch_execute(&format!("CREATE TABLE {MARK} ()")) {
        Err(error) if error.code() == Some(&SqlState::DUPLICATE_TABLE) => Ok(false),
        made => made.map(|()| true),
    })
}

/// Whether a restore was begun and has not come to its end.
pub fn is_being_restored(url: &str) -> Result<bool> {
    on_a_server(url, |client| client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&MARK])?.try_get(0))
}

/// The database is whole, and has its new epoch.
pub fn end_restore(url: &str) -> Result<()> {
    on_a_server(url, |client| client.batch_execute(&format!("DROP TABLE IF EXISTS {MARK}")))
}

fn on_a_server<T: Send>(
    url: &str,
    ask: impl FnOnce(&mut Client) -> std::result::Result<T, ::postgres::Error> + Send,
) -> Result<T> {
    let server = Server::parse(url)?.named(ASIDE);
    let ask = || ask(&mut server.connect()?).map_err(|error| server.wrap(&error));
    // Its client has a runtime of its own, and the caller may be in another.
    thread::scope(|scope| scope.spawn(ask).join().unwrap_or(Err(Error::Closed)))
}

/// The variables by which PostgreSQL's own programs reach a database: what an address says, none of it in a command line,
/// which everybody on the host may read.
pub fn variables(url: &str) -> Result<Vec<(&'static str, String)>> {
    let server = Server::parse(url)?;
    let (config, tls) = (server.config(), server.tls());
    let path = |path: Option<&PathBuf>| path.map(|path| path.display().to_string());
    let host = config.get_hosts().first().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let said = [
        ("PGHOST", host),
        ("PGHOSTADDR", config.get_hostaddrs().first().map(ToString::to_string)),
        ("PGPORT", config.get_ports().first().map(u16::to_string)),
        ("PGUSER", config.get_user().map(str::to_owned)),
        ("PGPASSWORD", config.get_password().map(|word| String::from_utf8_lossy(word).into_owned())),
        ("PGDATABASE", config.get_dbname().or(config.get_user()).map(str::to_owned)),
        ("PGSSLMODE", Some(tls.mode.word().to_owned())),
        ("PGSSLROOTCERT", path(tls.authorities.as_ref())),
        ("PGSSLCERT", path(tls.identity.as_ref().map(|(certificate, _)| certificate))),
        ("PGSSLKEY", path(tls.identity.as_ref().map(|(_, key)| key))),
    ];
    Ok(said.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}
