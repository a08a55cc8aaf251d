//! Private files: written whole or not at all, readable by their owner only.
//!
//! A file is written beside its place under a name of its own, made durable, renamed, and the folder made durable. A
//! kill at any instruction leaves the old file or the new one, at worst with a leftover that is ignored and that the
//! next write removes. Never here: what the files mean.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A private file that could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path has no file name.
    #[error("{} is not the path of a file", .0.display())]
    NotAFile(PathBuf),
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than the owner can read or write it.
    #[error("{} holds a secret and others can open it (mode {mode:04o}); run `chmod 600` on it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not text.
    #[error("{} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { doing, path: path.to_owned(), source }
}

/// Writes a file of mode 0600 atomically and durably; its folder is made (mode 0700) when it is missing. Blocks on
/// the disk.
///
/// # Errors
/// When the path has no file name or the operating system refuses. The file is then as it was before.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let name = path.file_name().ok_or_else(|| FileError::NotAFile(path.to_owned()))?.to_string_lossy().into_owned();
    let dir = folder_of(path);
    create_private_dir(dir)?;
    remove_leftovers(dir, &name);
    let unfinished = Unfinished(dir.join(unfinished_name(&name)));
    write_new(&unfinished.0, bytes).map_err(failed("write", &unfinished.0))?;
    fs::rename(&unfinished.0, path).map_err(failed("write", path))?;
    sync_dir(dir)
}

/// Reads a private file; `None` when there is none. Blocks on the disk.
///
/// # Errors
/// When others than the owner can open it, when it is not UTF-8, or when the operating system refuses.
pub fn read_private(path: &Path) -> Result<Option<String>, FileError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mode = file.metadata().map_err(failed("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes).map_err(failed("read", path))?;
    String::from_utf8(bytes).map(Some).map_err(|_| FileError::NotText(path.to_owned()))
}

/// Removes a private file, where there is one. Blocks on the disk.
///
/// # Errors
/// When the operating system refuses.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a folder of mode 0700, its parents too; one that exists is left as it is.
///
/// # Errors
/// When the operating system refuses.
pub fn create_private_dir(dir: &Path) -> Result<(), FileError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make the folder", dir))?;
    sync_dir(folder_of(dir))
}

/// A lock on a file that holds nothing else, and is made (mode 0600) where it is missing; `None` while another has it. It ends
/// when the answer is dropped, or with the process. Others on the host see it, and over file systems that share locks.
///
/// # Errors
/// When the operating system refuses.
pub fn try_lock(path: &Path) -> Result<Option<File>, FileError> {
    let file = open_lock(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed("lock", path)(error)),
    }
}

/// The same; waits until no other has it.
///
/// # Errors
/// When the operating system refuses.
pub fn lock(path: &Path) -> Result<File, FileError> {
    let file = open_lock(path)?;
    file.lock().map_err(failed("lock", path))?;
    Ok(file)
}

fn open_lock(path: &Path) -> Result<File, FileError> {
    create_private_dir(folder_of(path))?;
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map_err(failed("open", path))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("make durable", dir))
}

/// A file on its way. Dropped, it is removed; after the rename there is nothing left to remove.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `.<name>.<pid>-<n>.tmp`: no two writers share one, so none can rename another's half.
fn unfinished_name(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(".{name}.{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes what killed writers of this file left behind; best effort, for leftovers are never read.
fn remove_leftovers(dir: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let writer = entry.file_name().to_str().and_then(|file| writer_of(file, name));
        if writer.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn writer_of(file: &str, name: &str) -> Option<u32> {
    let middle = file.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".tmp")?;
    middle.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_written_file_is_private_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/key");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(read_private(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(names(path.parent().unwrap()), ["key"]);
    }

    #[test]
    fn a_dead_writers_leftover_is_ignored_and_then_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        // A pid above the kernel's highest cannot be alive.
        fs::write(dir.path().join(".key.4194305-0.tmp"), "half").unwrap();
        assert_eq!(read_private(&path).unwrap(), None);
        write_private(&path, b"whole").unwrap();
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn a_live_writers_file_and_a_strangers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mine = format!(".key.{}-99999.tmp", std::process::id());
        fs::write(dir.path().join(&mine), "half").unwrap();
        fs::write(dir.path().join(".keys.4194305-0.tmp"), "other").unwrap();
        write_private(&dir.path().join("key"), b"whole").unwrap();
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, [mine, ".keys.4194305-0.tmp".to_owned(), "key".to_owned()]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::create_dir(&path).unwrap();
        write_private(&path, b"a folder is in the way").unwrap_err();
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn a_secret_that_others_can_open_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_private(&path).unwrap_err().to_string().contains("mode 0640"));
    }

    #[test]
    fn writers_at_the_same_time_leave_one_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let texts: Vec<String> = (0..8).map(|n| n.to_string().repeat(10_000)).collect();
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| write_private(&path, text.as_bytes()).unwrap());
            }
        });
        assert!(texts.contains(&read_private(&path).unwrap().unwrap()));
        assert_eq!(names(dir.path()), ["key"]);
    }
}
