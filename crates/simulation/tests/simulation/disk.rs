//! The disk below one database: full for a while; and what a power failure leaves on it, which is all where commits wait
//! for the disk, as SQLite sees to, and where they do not, what the host had written back by itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// SQLite's log of what is not in the file yet, and its index, which is made anew.
const LOG: &str = "-wal";
const INDEX: &str = "-shm";

/// The disk below one database.
pub struct Disk {
    file: PathBuf,
}

impl Disk {
    pub fn new(file: PathBuf) -> Disk {
        Disk { file }
    }

    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Whether what is committed is on the disk.
    fn syncs() -> bool {
        hostler_db::planted::syncs()
    }

    /// Writes back what there is.
    pub fn write_back(&self) {
        if !Self::syncs() && self.file.exists() {
            for ending in ["", LOG] {
                let (from, to) = (with(&self.file, ending), with(&self.kept(), ending));
                // A file that is not there leaves none.
                drop(fs::copy(&from, &to).or_else(|_| fs::remove_file(&to).map(|()| 0)));
            }
        }
    }

    /// The power fails: nobody has the file open any more.
    pub fn lose(&self) {
        if Self::syncs() || !self.kept().exists() {
            return;
        }
        for ending in ["", LOG, INDEX] {
            drop(fs::remove_file(with(&self.file, ending)));
            drop(fs::copy(with(&self.kept(), ending), with(&self.file, ending)));
        }
    }

    /// Whether what is committed from now on finds room.
    pub fn fill(&self, full: bool) {
        #[cfg(feature = "planted-bugs")]
        if full {
            hostler_db::planted::fill(&self.file);
        } else {
            hostler_db::planted::clear(&self.file);
        }
        #[cfg(not(feature = "planted-bugs"))]
        let _ = full;
    }

    fn kept(&self) -> PathBuf {
        with(&self.file, ".written")
    }
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
