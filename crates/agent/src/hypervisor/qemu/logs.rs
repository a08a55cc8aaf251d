//! Keeps a running machine's logs short: what a guest writes to its console, and QEMU to its stderr, must not fill the
//! node's disk.
//!
//! ```text
//! every few seconds: more than 8 MiB on disk ──► the older part is given back to the file system, the end stays
//! ```
//!
//! A hole is punched where the file system can do that: the file's length, and what appends to it, know nothing of it.
//! Never here: rotation, copies.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Weak,
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate};

use super::{blocking, machine::Live};
use crate::host::file::present;

/// How often one looks: an emulated serial port writes some 10 MB in this time.
const EVERY: Duration = Duration::from_secs(5);
/// A log that takes more than this is cut.
const MOST: u64 = 8 << 20;
/// What stays of it.
const KEPT: u64 = 1 << 20;
/// What `st_blocks` counts in, whatever the file system's own blocks are (stat(2)).
const BLOCK: u64 = 512;

/// Until nobody holds the machine any more: the next one who does looks after it again.
pub(super) async fn keep_short(live: Weak<Live>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(live) = live.upgrade() else { return };
        let (id, logs) = (live.folder.id(), [live.folder.console(), live.folder.log()]);
        drop(live);
        if let Err(error) = blocking(move || logs.iter().try_for_each(|log| cut(log))).await {
            tracing::warn!(vm.id = %id, %error, "a machine's log cannot be cut");
        }
    }
}

fn cut(log: &Path) -> io::Result<()> {
    let Some(file) = present(OpenOptions::new().write(true).open(log))? else { return Ok(()) };
    let metadata = file.metadata()?;
    // Not its length: what was punched out of it still counts there.
    if !metadata.is_file() || metadata.blocks() * BLOCK <= MOST {
        return Ok(());
    }
    punch(&file, metadata.len().saturating_sub(KEPT))
}

fn punch(file: &File, older: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, older) {
        // Both logs are appended to, so that this loses their end and nothing after it.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(0),
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    #[test]
    fn a_log_that_grows_for_ever_takes_a_bounded_part_of_the_disk_and_keeps_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut guest = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let taken = || fs::metadata(&path).unwrap().blocks() * BLOCK;
        for round in 0..3 {
            for _ in 0..9 {
                guest.write_all(&vec![b'x'; 1 << 20]).unwrap();
            }
            writeln!(guest, "\nthe end of round {round}").unwrap();
            guest.sync_all().unwrap();
            cut(&path).unwrap();
            assert!(taken() <= KEPT + (64 << 10), "{} bytes are taken", taken());
            assert_eq!(crate::host::file::tail(&path, 1, 4096), [format!("the end of round {round}")]);
        }
    }

    #[test]
    fn a_short_log_and_an_absent_one_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        cut(&path).unwrap();
        fs::write(&path, vec![b'x'; 4 << 20]).unwrap();
        cut(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), vec![b'x'; 4 << 20]);
    }
}
