//! Finds a machine's QEMU: by our record, by the pid that QEMU wrote, by its command line.
//!
//! An agent can die at any instant, so each source may be missing or stale; what all have in common is that a process is
//! only ever taken for a machine's when its start time or its command line proves it. QEMU itself guards the rest: it
//! locks its pidfile and its disk, so that a second one for the same machine ends before it has done anything.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::folder::Folder;
use crate::host::{Process, boot_id, process::search};

/// The living QEMUs of this host by the pidfiles on their command lines: the last resort, because it looks at every
/// process there is.
#[derive(Debug)]
pub(super) struct Census(BTreeMap<PathBuf, Process>);

impl Census {
    pub(super) fn take() -> io::Result<Census> {
        let processes = search(|arguments| pidfile(arguments).is_some())?;
        let mut named = BTreeMap::new();
        for process in processes {
            named.extend(pidfile(&process.arguments()?).map(|pidfile| (pidfile.to_owned(), process)));
        }
        Ok(Census(named))
    }

    /// Every pidfile that a living process names.
    pub(super) fn pidfiles(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }
}

/// The pidfile that a command line names.
fn pidfile(arguments: &[Vec<u8>]) -> Option<&Path> {
    let mut pairs = arguments.windows(2);
    pairs.find(|pair| pair[0] == b"-pidfile").map(|pair| Path::new(OsStr::from_bytes(&pair[1])))
}

/// The machine's living QEMU, if there is one.
pub(super) fn seek(folder: &Folder) -> io::Result<Option<Process>> {
    match quickly(folder)? {
        Some(process) => Ok(Some(process)),
        None => Ok(seek_in(folder, &Census::take()?)?),
    }
}

/// The same, with a census taken before.
pub(super) fn seek_in(folder: &Folder, census: &Census) -> io::Result<Option<Process>> {
    if let Some(process) = quickly(folder)? {
        return Ok(Some(process));
    }
    census.0.get(&folder.pidfile()).copied().map_or(Ok(None), living)
}

fn quickly(folder: &Folder) -> io::Result<Option<Process>> {
    if let Some(process) = recorded(folder)? {
        return Ok(Some(process));
    }
    let Some(process) = folder.pid()?.map_or(Ok(None), Process::of)? else { return Ok(None) };
    Ok((pidfile(&process.arguments()?) == Some(&folder.pidfile())).then_some(process))
}

fn living(process: Process) -> io::Result<Option<Process>> {
    Ok(process.alive()?.then_some(process))
}

/// The process we recorded, if it is of this run of the host and lives.
fn recorded(folder: &Folder) -> io::Result<Option<Process>> {
    let record = match folder.process() {
        // A record that says nothing is as good as none: the pidfile and the census remain.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
        record => record?,
    };
    let Some(record) = record else { return Ok(None) };
    if record.boot_id == boot_id()? { living(record.process) } else { Ok(None) }
}
