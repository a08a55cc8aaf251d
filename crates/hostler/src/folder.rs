//! A data folder: one hostler at a time. And the short folder for the sockets of its machines, which goes with it.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use hostler_trust::file::{FileError, create_private_dir, read_private, write_private};

use crate::{
    context::ClientFile,
    exit::{Exit, Failure},
};

/// A folder that is ours while this lives.
pub struct Folder {
    /// Where everything lies.
    pub data: PathBuf,
    _lock: fs::File,
}

/// Whether a folder is only for this run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stay {
    /// It stays.
    Stays,
    /// It goes at the end, so it must be empty at the beginning.
    Ephemeral,
}

impl Folder {
    /// Takes it, making it if need be.
    pub fn take(data: PathBuf, stay: Stay) -> Result<Folder, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::Failed, format!("the data folder {} cannot be used: {error}", data.display()))
                .help("--data names another")
        };
        create_private_dir(&data).map_err(|e| failed(&e))?;
        let data = data.canonicalize().map_err(|e| failed(&e))?;
        if stay == Stay::Ephemeral && fs::read_dir(&data).map_err(|e| failed(&e))?.next().is_some() {
            return Err(Failure::usage(format!("{} is not empty, and --ephemeral would remove it", data.display()))
                .help("name a new folder with --data, or leave --ephemeral out"));
        }
        let lock = lock(&data)?;
        ClientFile::remove(&data);
        Ok(Folder { data, _lock: lock })
    }

    /// Removes it and all that is in it.
    pub fn remove(&self) {
        remove(&self.data);
    }
}

/// Where the sockets of a data folder's machines lie: short, for a unix socket's path has at most 107 bytes.
pub struct Sockets {
    /// The folder.
    pub run: PathBuf,
}

impl Sockets {
    /// The folder that was asked for, else the one that goes with the data folder. Machines outlive us, and their sockets
    /// stay where they were made: once there is a folder, another is refused, and another environment does not matter.
    pub fn of(folder: &Folder, asked: Option<&Path>) -> Result<Sockets, Failure> {
        let data = &folder.data;
        let failed = |error: FileError| {
            Failure::new(Exit::Failed, format!("there is no place for sockets: {error}"))
                .help("name a folder that only this user can write, such as /run/hostler")
        };
        let first = || asked.map_or_else(|| runtime_folder(data), Path::to_owned);
        let run = remembered(data, first).map_err(failed)?;
        if let Some(asked) = asked.filter(|asked| **asked != *run) {
            let (asked, run) = (asked.display(), run.display());
            return Err(Failure::usage(format!("the sockets of {} are in {run}, not in {asked}", data.display()))
                .help(format!("go on with {run}; or end the machines and remove {}", remembered_in(data).display())));
        }
        // A folder that we chose lies in one of ours; one that was asked for may lie anywhere.
        let parent = if asked.is_none() { run.parent() } else { None };
        for dir in [parent, Some(&run)].into_iter().flatten() {
            create_private_dir(dir).and_then(|()| ours(dir)).map_err(failed)?;
        }
        Ok(Sockets { run })
    }

    /// Removes it and all that is in it.
    pub fn remove(&self) {
        remove(&self.run);
    }
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "a folder cannot be removed");
    }
}

fn lock(data: &Path) -> Result<fs::File, Failure> {
    let path = data.join("lock");
    let open = fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(Failure::new(Exit::Failed, format!("the data folder {} is in use by another hostler", data.display()))
                .help("end that one first, or name another folder with --data"))
        }
        Err(fs::TryLockError::Error(error)) => Err(Failure::new(Exit::Failed, format!("{}: {error}", path.display()))),
    }
}

fn remembered_in(data: &Path) -> PathBuf {
    data.join("runtime-folder")
}

fn remembered(data: &Path, first: impl FnOnce() -> PathBuf) -> Result<PathBuf, FileError> {
    let file = remembered_in(data);
    if let Some(known) = read_private(&file)? {
        return Ok(PathBuf::from(known.trim()));
    }
    let first = first();
    write_private(&file, first.as_os_str().as_encoded_bytes())?;
    Ok(first)
}

/// Refuses a folder for sockets that somebody else made, or can write to: who owns it could put up his own.
fn ours(dir: &Path) -> Result<(), FileError> {
    let refuse = |why: &str| FileError::Io {
        doing: "use",
        path: dir.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::PermissionDenied, why.to_owned()),
    };
    let meta =
        fs::symlink_metadata(dir).map_err(|source| FileError::Io { doing: "look at", path: dir.to_owned(), source })?;
    if !meta.is_dir() {
        return Err(refuse("it is not a folder"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(refuse("another user owns it"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(refuse("others can write to it"));
    }
    Ok(())
}

/// `$XDG_RUNTIME_DIR`, else `/run` for root, else `/tmp`; below it one folder for each data folder.
fn runtime_folder(data: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let own = format!("{:08x}", hasher.finish() as u32);
    let user = rustix::process::geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir()) {
        Some(base) => base.join("hostler").join(own),
        None if user.is_root() => PathBuf::from("/run/hostler").join(own),
        None => PathBuf::from(format!("/tmp/hostler-{}", user.as_raw())).join(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_stay_where_the_first_ones_were_made() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(dir.path().join("data"), Stay::Stays).unwrap();
        let (one, other) = (dir.path().join("run"), dir.path().join("other"));
        assert_eq!(Sockets::of(&folder, Some(&one)).unwrap().run, one);
        assert_eq!(Sockets::of(&folder, None).unwrap().run, one);
        let failure = Sockets::of(&folder, Some(&other)).err().unwrap();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(!other.exists());
    }

    #[test]
    fn a_folder_has_one_owner_and_an_ephemeral_one_begins_empty() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(dir.path().to_owned(), Stay::Ephemeral).unwrap();
        assert!(Folder::take(dir.path().to_owned(), Stay::Stays).is_err());
        drop(folder);
        assert!(Folder::take(dir.path().to_owned(), Stay::Ephemeral).is_err(), "the lock is in it");
    }
}
