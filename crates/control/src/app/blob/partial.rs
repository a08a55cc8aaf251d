//! A file that is not whole yet, locked while its writer lives.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_model::{Refusal, image::Sha256Hex};

use super::is_older;
use crate::app::room::Charge;

/// A partial file this young may be one that its writer is about to lock.
const NEW: Duration = Duration::from_secs(10);

/// How often a file is tried that somebody else holds, and the pause between: a sweep looks at it for a moment, and a
/// sender whose connection broke holds it a little longer than that.
const TRIES: usize = 25;
const PAUSE: Duration = Duration::from_millis(20);

/// A file on its way. Dropped, it is removed, unless it rests; after the rename there is nothing left to remove.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: fs::File,
    charge: Charge,
    /// Of an upload that may go on: what its bytes will be.
    rests: Option<Sha256Hex>,
}

impl Partial {
    /// A new one, which is nobody else's.
    pub(super) fn make(path: PathBuf, charge: Charge) -> io::Result<Partial> {
        let file = fs::File::options().create_new(true).write(true).open(&path)?;
        let partial = Partial { path, file, charge, rests: None };
        partial.file.lock()?;
        Ok(partial)
    }

    /// One that may be there already, and stays when it is dropped; none while somebody else writes it.
    pub(super) fn take(path: PathBuf, charge: Charge, sha256: Sha256Hex) -> io::Result<Option<Partial>> {
        for _ in 0..TRIES {
            let file = fs::File::options().create(true).truncate(false).write(true).open(&path)?;
            match file.try_lock() {
                // Its writer before may have ended it between our opening and our lock.
                Ok(()) if is_at(&file, &path)? => {
                    charge.wake(&sha256);
                    return Ok(Some(Partial { path, file, charge, rests: Some(sha256) }));
                }
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is.
    pub(super) fn length(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    /// A handle to write with. The lock is held until this one is gone too.
    pub(super) fn writer(&self) -> io::Result<fs::File> {
        self.file.try_clone()
    }

    pub(super) fn charge(&self) -> &Charge {
        &self.charge
    }

    /// From now on it is removed when it is dropped.
    pub(super) fn give_up(&mut self) {
        self.rests = None;
    }

    /// From now on it is called this, and is removed when it is dropped.
    pub(super) fn become_one(&mut self, path: PathBuf) -> io::Result<()> {
        fs::rename(&self.path, &path)?;
        (self.path, self.rests) = (path, None);
        Ok(())
    }

    /// Accounts for what a program has written into it by now.
    ///
    /// # Errors
    /// When that is more than the tenant may have.
    pub fn account(&self) -> Result<(), Refusal> {
        let length = fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        self.charge.grow_to(length)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // One that has nothing is nothing to go on with.
        match self.rests.take().filter(|_| !self.length().is_ok_and(|length| length == 0)) {
            Some(sha256) => self.charge.keep(sha256),
            None => drop(fs::remove_file(&self.path)),
        }
    }
}

fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata()?;
    Ok(fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
}

/// Whether a partial file's writer is gone.
pub(super) fn is_abandoned(path: &Path) -> bool {
    is_older(path, NEW) && is_free(path)
}

/// Whether nobody writes a file.
pub(super) fn is_free(path: &Path) -> bool {
    fs::File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}
