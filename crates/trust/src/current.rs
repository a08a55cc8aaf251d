//! What somebody keeps in files, as it is now: taken up again when the files change. What cannot be read, or does not go with
//! what is there, takes nothing's place, and is complained of once. Never here: what the files hold, and when to look.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

/// What a file was when it was read: a renewal changes one of these.
type Mark = (u64, u64, Option<SystemTime>);

/// A value that files hold.
#[derive(Debug)]
pub struct Current<T> {
    files: Vec<PathBuf>,
    held: RwLock<(Arc<T>, Vec<Option<Mark>>)>,
}

impl<T> Current<T> {
    /// What these files hold; without files it stays as it is.
    pub fn of(files: Vec<PathBuf>, value: T) -> Current<T> {
        let marks = marks(&files);
        Current { files, held: RwLock::new((Arc::new(value), marks)) }
    }

    /// What these files hold, read from there.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn open<E>(files: Vec<PathBuf>, read: impl FnOnce() -> Result<T, E>) -> Result<Current<T>, E> {
        // Before it is read: what changes meanwhile is read once more.
        let marks = marks(&files);
        Ok(Current { files, held: RwLock::new((Arc::new(read()?), marks)) })
    }

    /// As it is now.
    pub fn get(&self) -> Arc<T> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// This process has written the files: that is what they hold.
    pub fn put(&self, value: T) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(value), marks(&self.files));
    }

    /// Reads the files again if they changed; whether they did. Blocks on the disk.
    ///
    /// # Errors
    /// Those of `read`; then what was there stays, and the files are read again when they change once more.
    pub fn reload<E>(&self, read: impl FnOnce(&T) -> Result<T, E>) -> Result<bool, E> {
        let marks = marks(&self.files);
        let before = self.get();
        if self.held.read().unwrap_or_else(PoisonError::into_inner).1 == marks {
            return Ok(false);
        }
        let new = read(&before);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.1 = marks;
        held.0 = Arc::new(new?);
        Ok(true)
    }
}

fn marks(files: &[PathBuf]) -> Vec<Option<Mark>> {
    files.iter().map(|path| mark(path)).collect()
}

fn mark(path: &Path) -> Option<Mark> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.modified().ok()))
}
