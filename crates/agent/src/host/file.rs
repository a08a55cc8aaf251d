//! Files that are there whole or not at all, also after a power cut, and bounded reading of files that grow.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

/// Writes a file durably: a temporary name, fsync, rename, fsync of the folder. The old content or the new one is there
/// at every moment.
///
/// # Errors
/// Whatever the file system says, `StorageFull` among it; the temporary file is removed then.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (folder, part) = (folder_of(path)?, path.with_extension("part"));
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written?;
    sync_folder(folder)
}

/// Makes renames and removals in a folder durable.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn folder_of(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no folder"))
}

/// What an operation gave, with `None` for a file that is not there.
///
/// # Errors
/// Every other error.
pub fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last `lines` lines of a text file, of which at most `bytes` bytes are read; without control characters and
/// terminal escapes. Empty when the file cannot be read.
pub fn tail(path: &Path, lines: usize, bytes: u64) -> Vec<String> {
    let text = read_end(path, bytes).unwrap_or_default();
    let clean: Vec<String> = text.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
    clean[clean.len().saturating_sub(lines)..].to_vec()
}

fn read_end(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// A line without terminal escapes (`ESC [ … letter`, `ESC` and a letter) and control characters.
pub fn printable(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                if rest.next() == Some('[') {
                    let _ = rest.find(|c| ('\u{40}'..='\u{7e}').contains(c));
                }
            }
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_bounded_and_free_of_control_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        fs::write(&path, "first\r\n\u{1b}[2J\u{1b}[1;31msecond\u{1b}[0m\u{7}\r\n\r\nthird \u{fffd}\n").unwrap();
        assert_eq!(tail(&path, 2, 1024), ["second", "third \u{fffd}"]);
        assert_eq!(tail(&path, 9, 4), ["\u{fffd}"], "no more than the last four bytes are read");
        assert!(tail(&dir.path().join("absent"), 5, 10).is_empty());
    }

    #[test]
    fn a_durable_write_replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spec.json");
        write_durably(&path, b"one").unwrap();
        write_durably(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_durably(&dir.path().join("no/such"), b"x").is_err());
    }
}
