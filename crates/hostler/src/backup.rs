//! `hostler backup` and `hostler restore`: the server's database, copied while it is in use, and put back.
//!
//! ```text
//! backup:  database ─► a folder: backup.json · hostler.db | hostler.dump      servers go on
//! restore: the folder ─► database ─► a new epoch                             no server runs, nor starts in between
//! ```
//!
//! The folder has what the store knows, and nothing else: images' bytes, the certificate authority and what lies on hosts
//! are files that are copied as files. What was done after the backup is not known afterwards, so a restored store begins
//! a new epoch: nodes say what they have before they get a task, and nothing is deleted by itself.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use hostler_model::{Clock, Ids, Timestamp, placement::Policy};
use hostler_store::{Config, Now, Store, Timing};
use serde::{Deserialize, Serialize};

use crate::{
    cli::Globals,
    exit::{Exit, Failure},
    folder::{Folder, Stay},
    output,
    settings::{FileArgs, Server, ServerFlags, layers},
};

const BACKUP: &str = "\
Examples:
  hostler backup /srv/backup/monday                          of the server that /etc/hostler/hostler.toml speaks of
  hostler --data ~/.local/share/hostler backup ./monday      of a `hostler dev`

Beside it copy the folders `ca` and `blobs` of the data folder: what matters in them never changes. Keep a copy of `master.key`
somewhere else: without it no secret in the backup can be read, and with it all can.";

const RESTORE: &str = "\
Examples:
  hostler restore /srv/backup/monday                         while no server runs over the database
  hostler restore --already                                  it was put back by other means; only begin a new epoch

What was there before is kept beside it, where it is a file. What was revoked since the backup was taken (tokens, nodes, keys) must
be revoked again: the backup does not know of it.";

/// What a backup says of itself.
const NOTE: &str = "backup.json";
/// A copy of an SQLite file.
const FILE: &str = "hostler.db";
/// What `pg_dump` wrote.
const DUMP: &str = "hostler.dump";

/// Which database.
#[derive(clap::Args, Debug)]
pub struct Which {
    #[command(flatten)]
    file: FileArgs,

    /// A PostgreSQL database, where it is not that of the configuration
    #[arg(long, env = "HOSTLER_SERVER_DATABASE", value_name = "URL", hide_env_values = true)]
    database: Option<String>,
}

/// The flags of `backup`.
#[derive(clap::Args, Debug)]
#[command(after_help = BACKUP)]
pub struct BackupArgs {
    #[command(flatten)]
    which: Which,

    /// A folder that is made for it
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
}

/// The flags of `restore`.
#[derive(clap::Args, Debug)]
#[command(after_help = RESTORE)]
pub struct RestoreArgs {
    #[command(flatten)]
    which: Which,

    /// The database was put back by other means: only begin a new epoch
    #[arg(long)]
    already: bool,

    /// The folder of the certificate authority, where it is not that of the configuration: beside its key stands what was
    /// last signed of the log, which is forgotten
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,

    /// A folder that `hostler backup` made
    #[arg(value_name = "FOLDER", required_unless_present = "already", conflicts_with = "already")]
    from: Option<PathBuf>,
}

/// What a backup says of itself, for people and for `restore`.
#[derive(Serialize, Deserialize)]
struct Note {
    /// `sqlite` or `postgres`.
    engine: Engine,
    /// By this clock.
    taken_at: Timestamp,
    /// The program that took it.
    version: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Sqlite,
    Postgres,
}

/// Where the store is.
enum Place {
    /// In this file.
    File(PathBuf),
    /// At this address.
    Server(String),
}

impl Place {
    fn engine(&self) -> Engine {
        match self {
            Place::File(_) => Engine::Sqlite,
            Place::Server(_) => Engine::Postgres,
        }
    }
}

fn place(which: &Which, globals: &Globals) -> Result<Place, Failure> {
    // What is said here, of whichever of the two, is meant before what the file says.
    if let Some(url) = which.database.clone().filter(|url| !url.is_empty()) {
        return Ok(Place::Server(url));
    }
    if let Some(data) = &globals.server.data {
        return Ok(Place::File(data.join(FILE)));
    }
    let settings: Server = layers::merged(&ServerFlags::default(), &layers::File::read(&which.file)?)?;
    Ok(match settings.database {
        url if url.is_empty() => Place::File(settings.data.join(FILE)),
        url => Place::Server(url),
    })
}

fn failed(what: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, what)
}

/// Takes a backup.
pub fn backup(args: &BackupArgs, globals: &Globals) -> Result<Exit, Failure> {
    let place = place(&args.which, globals)?;
    let to = &args.to;
    hostler_trust::file::create_private_dir(to).map_err(|e| failed(e).help("name another folder"))?;
    let used = fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some());
    if used {
        return Err(
            Failure::usage(format!("{} is not empty", to.display())).help("name a new folder: one for each backup")
        );
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let taken_at = Clock::system().now();
    let copied = match &place {
        Place::File(file) => {
            if !file.is_file() {
                let help = "--data names the server's data folder, --database a PostgreSQL database";
                return Err(Failure::usage(format!("there is no {}", file.display())).help(help));
            }
            hostler_db::backup::copy(file, &to.join(FILE)).map(|()| to.join(FILE)).map_err(failed)
        }
        Place::Server(url) => {
            let file = to.join(DUMP);
            let mark = format!("--exclude-table={}", hostler_db::backup::MARK);
            let words = ["--format=custom", "--no-owner", &mark, "--file"];
            program("pg_dump", url, |dump| dump.args(words).arg(&file)).map(|()| file)
        }
    };
    let file = copied.inspect_err(|_| drop(fs::remove_dir_all(to)))?;
    let note = Note { engine: place.engine(), taken_at, version: env!("CARGO_PKG_VERSION").to_owned() };
    // Last: a folder with it is a whole backup.
    let text = serde_json::to_vec_pretty(&note).map_err(failed)?;
    hostler_trust::file::write_private(&to.join(NOTE), &text).map_err(failed)?;
    let size = fs::metadata(&file).map_or(0, |meta| meta.len());
    output::text(&output::fields([("backup", to.display().to_string()), ("size", output::bytes(size))]))
        .map_err(failed)?;
    Ok(Exit::Done)
}

/// Puts a backup back, and begins a new epoch.
pub async fn restore(args: &RestoreArgs, globals: &Globals) -> Result<Exit, Failure> {
    #[cfg(feature = "crash-points")]
    crate::crash::arm();
    let (place, ca) = (place(&args.which, globals)?, authority(args, globals)?);
    // Whoever has the folder is alone with the file.
    let folder = match &place {
        Place::File(file) => {
            let data = file.parent().unwrap_or(Path::new(".")).to_owned();
            Some(Folder::take(data, Stay::Stays)?)
        }
        Place::Server(_) => None,
    };
    let epoch = match (&args.from, &place) {
        (Some(from), Place::File(file)) => put_file(&whole(from, &place)?.join(FILE), file).await?,
        (None, Place::File(file)) => begin_anew(Store::open(file, config())).await?,
        (from, Place::Server(url)) => {
            if let Some(from) = from {
                put_dump(&whole(from, &place)?.join(DUMP), url)?;
            }
            #[cfg(feature = "crash-points")]
            fail::eval("restore.before_epoch", |_| ());
            let epoch = begin_anew(Store::connect(url, Now::Database, config())).await?;
            hostler_db::backup::end_restore(url).map_err(failed)?;
            epoch
        }
    };
    let log = forget_signed(&ca)?;
    drop(folder);
    let again = "what was revoked since the backup, tokens, nodes and keys: the backup does not know of it".to_owned();
    let next = "start the server: each node gets tasks again once it has said what it has".to_owned();
    let said = [("store epoch", epoch.to_string()), ("log", log), ("revoke again", again), ("next", next)];
    output::text(&output::fields(said)).map_err(failed)?;
    Ok(Exit::Done)
}

/// The folder of the certificate authority of the servers over the database.
fn authority(args: &RestoreArgs, globals: &Globals) -> Result<PathBuf, Failure> {
    if let Some(ca) = args.ca.clone().or_else(|| Some(globals.server.data.as_ref()?.join("ca"))) {
        return Ok(ca);
    }
    let settings: Server = layers::merged(&ServerFlags::default(), &layers::File::read(&args.which.file)?)?;
    Ok(if settings.ca.as_os_str().is_empty() { settings.data.join("ca") } else { settings.ca })
}

/// The log is another one from here on, by an operator's word; servers would not sign it otherwise.
fn forget_signed(ca: &Path) -> Result<String, Failure> {
    let signed = ca.join(hostler_trust::last_signed::FILE).display().to_string();
    Ok(match hostler_trust::last_signed::forget(ca).map_err(failed)? {
        true => format!("signed anew from what is there now: {signed} is removed"),
        false => {
            format!("there is no {signed}; where servers have their certificate authority elsewhere, remove it there")
        }
    })
}

fn config() -> Config {
    Config {
        mode: hostler_db::Mode::Inline,
        clock: Clock::system(),
        ids: Ids::system(),
        timing: Timing::default(),
        placement: Policy::default(),
    }
}

async fn begin_anew(store: hostler_store::Result<Store>) -> Result<u32, Failure> {
    store.map_err(failed)?.restored().await.map_err(failed)
}

/// The folder, if it is a whole backup of such a database.
fn whole<'a>(from: &'a Path, place: &Place) -> Result<&'a Path, Failure> {
    let text = fs::read(from.join(NOTE)).map_err(|error| {
        Failure::usage(format!("{} is no whole backup: {NOTE}: {error}", from.display()))
            .help("name a folder that `hostler backup` made")
    })?;
    let note: Note =
        serde_json::from_slice(&text).map_err(|error| failed(format!("{}: {error}", from.join(NOTE).display())))?;
    if note.engine != place.engine() {
        let (theirs, ours) = (note.engine, place.engine());
        return Err(Failure::usage(format!("the backup is of {theirs:?}, and the database is {ours:?}"))
            .help("--database names a PostgreSQL database, --data a folder with a file"));
    }
    Ok(from)
}

fn put_dump(dump: &Path, url: &str) -> Result<(), Failure> {
    // Before anybody is counted: no server that starts later begins on half of it.
    let is_first = hostler_db::backup::begin_restore(url).map_err(failed)?;
    if hostler_db::backup::in_use(url).map_err(failed)? > 0 {
        // One that was broken off before stays what it is.
        if is_first {
            hostler_db::backup::end_restore(url).map_err(failed)?;
        }
        return Err(failed("servers run over the database").help("stop all of them, then restore"));
    }
    // An empty name is that of the variables.
    let words = ["--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error", "--dbname", ""];
    program("pg_restore", url, |restore| restore.args(words).arg(dump)).map_err(|failure| {
        failure.help("run it again; no server starts before, or `hostler restore --already` goes on with what is there")
    })
}

/// The copy is looked at, and its new epoch begins, before it takes the place of what is there, in one step.
async fn put_file(from: &Path, to: &Path) -> Result<u32, Failure> {
    hostler_db::backup::check(from).map_err(failed)?;
    let new = to.with_extension("db.new");
    for rest in hostler_db::backup::files(&new) {
        fs::remove_file(&rest).map_err(|error| failed(format!("{} cannot be removed: {error}", rest.display())))?;
    }
    let written = fs::copy(from, &new).and_then(|_| fs::set_permissions(&new, fs::Permissions::from_mode(0o600)));
    written.map_err(|error| failed(format!("{} cannot be written: {error}", new.display())))?;
    let epoch = Store::open(&new, config()).map_err(failed)?.restored().await.map_err(failed)?;
    hostler_db::backup::settle(&new).map_err(failed)?;
    if to.exists() {
        let kept = to.with_extension(format!("db.before-{}", Clock::system().now().as_micros() / 1_000_000));
        hostler_db::backup::settle(to).map_err(failed)?;
        fs::hard_link(to, &kept).map_err(|error| failed(format!("{} cannot be kept: {error}", to.display())))?;
    }
    fs::rename(&new, to).map_err(|error| failed(format!("{} cannot be put in its place: {error}", new.display())))?;
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(epoch)
}

/// Runs one of PostgreSQL's own programs.
fn program(name: &str, url: &str, with: impl FnOnce(&mut Command) -> &mut Command) -> Result<(), Failure> {
    let mut command = Command::new(name);
    command.envs(hostler_db::backup::variables(url).map_err(failed)?);
    let output = with(&mut command).output().map_err(|error| {
        failed(format!("{name} cannot be run: {error}"))
            .help("install the client programs of PostgreSQL, as new as the server")
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
