//! The folder of `hostler dev`: one hostler at a time, and a short runtime folder for sockets that goes with it.

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
    /// Where sockets lie: short, for a unix socket's path has at most 107 bytes.
    pub run: PathBuf,
    _lock: fs::File,
}

impl Folder {
    /// Takes it, making it if need be. An ephemeral one must be new: it will be removed.
    pub fn take(data: PathBuf, ephemeral: bool) -> Result<Folder, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::Failed, format!("the data folder {} cannot be used: {error}", data.display()))
                .help("--data names another")
        };
        create_private_dir(&data).map_err(|e| failed(&e))?;
        let data = data.canonicalize().map_err(|e| failed(&e))?;
        if ephemeral && fs::read_dir(&data).map_err(|e| failed(&e))?.next().is_some() {
            return Err(Failure::usage(format!("{} is not empty, and --ephemeral would remove it", data.display()))
                .help("name a new folder with --data, or leave --ephemeral out"));
        }
        let lock = lock(&data)?;
        ClientFile::remove(&data);
        let run = remembered(&data, runtime_folder(&data)).map_err(|e| failed(&e))?;
        for dir in [run.parent(), Some(&run)].into_iter().flatten() {
            create_private_dir(dir).and(ours(dir)).map_err(|e| failed(&e))?;
        }
        Ok(Folder { data, run, _lock: lock })
    }

    /// Removes it and all that is in it.
    pub fn remove(&self) {
        for folder in [&self.data, &self.run] {
            if let Err(error) = fs::remove_dir_all(folder) {
                tracing::warn!(folder = %folder.display(), %error, "a folder cannot be removed");
            }
        }
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

/// Machines outlive us, and their sockets stay where they were made: another environment must not make us look elsewhere.
fn remembered(data: &Path, first: PathBuf) -> Result<PathBuf, FileError> {
    let file = data.join("runtime-folder");
    if let Some(known) = read_private(&file)? {
        return Ok(PathBuf::from(known.trim()));
    }
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
