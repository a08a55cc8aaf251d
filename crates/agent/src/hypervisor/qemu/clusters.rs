//! Which clusters of a disk a layer has: read from its tables, as they lie in its file.
//!
//! What QEMU says that it copied is believed when the file says so too ([`covers`]): QEMU keeps tables in memory and may be
//! killed, and the layer that was copied is removed on the strength of this. The same tables tell a layer that was cut or
//! overwritten ([`examine`]) before a machine is ended for it. What the clusters hold is not looked at: that would be to
//! read the whole disk, at every restore, for a damage that the host's own file system or disk is there to find.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::qcow2::{self, CLUSTER, damaged};

/// The most entries that a table of tables has: for 64 TiB.
const MOST_TABLES: u64 = 128 * 1024;

/// Where in an entry its offset is.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// That a cluster is all zero, whatever lies below.
const ZERO: u64 = 1;
/// That a cluster is packed. QEMU packs none of ours.
const PACKED: u64 = 1 << 62;

/// A layer's tables.
struct Tables<'a> {
    path: &'a Path,
    file: File,
    /// The file's length, in bytes.
    length: u64,
    l1: Vec<u64>,
}

impl Tables<'_> {
    fn open(path: &Path) -> io::Result<Tables<'_>> {
        let (at, entries) = qcow2::read_header(path)?.l1;
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if entries > MOST_TABLES || !at.is_multiple_of(CLUSTER) || at.saturating_add(entries * 8) > length {
            return Err(damaged(path, "its table of tables is not within the file"));
        }
        let l1 = read_entries(&file, at, entries)?;
        Ok(Tables { path, file, length, l1 })
    }

    /// The clusters of one table; none where the layer has nothing of that part of the disk.
    fn table(&self, index: usize) -> io::Result<Vec<u64>> {
        let at = self.l1.get(index).copied().unwrap_or_default() & OFFSET;
        if at == 0 {
            return Ok(Vec::new());
        }
        if !at.is_multiple_of(CLUSTER) || at.saturating_add(CLUSTER) > self.length {
            return Err(damaged(self.path, "a table of clusters is not within the file"));
        }
        read_entries(&self.file, at, CLUSTER / 8)
    }

    /// Whether an entry can be: its cluster begins within the file.
    fn is_sound(&self, entry: u64) -> bool {
        let at = entry & OFFSET;
        entry & PACKED == 0 && at.is_multiple_of(CLUSTER) && at < self.length
    }
}

fn read_entries(file: &File, at: u64, entries: u64) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; usize::try_from(entries * 8).unwrap_or_default()];
    file.read_exact_at(&mut bytes, at)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_be_bytes(*word)).collect())
}

fn has(entry: u64) -> bool {
    entry & (OFFSET | ZERO | PACKED) != 0
}

/// Whether a layer has everything that the one below it has: then nothing is ever read from that one.
///
/// # Errors
/// Of the file system, and for a layer that is damaged.
pub(super) fn covers(upper: &Path, lower: &Path) -> io::Result<bool> {
    Ok(lacks(upper, lower)? == 0)
}

/// How much of what the layer below has a layer lacks, in bytes.
///
/// # Errors
/// Of the file system, and for a layer that is damaged.
pub(super) fn lacks(upper: &Path, lower: &Path) -> io::Result<u64> {
    let (upper, lower) = (Tables::open(upper)?, Tables::open(lower)?);
    let mut clusters = 0;
    for index in 0..lower.l1.len() {
        let below = lower.table(index)?;
        if !below.iter().any(|entry| has(*entry)) {
            continue;
        }
        let above = upper.table(index)?;
        let lacks = |(at, entry): (usize, &u64)| has(*entry) && !above.get(at).is_some_and(|entry| has(*entry));
        clusters += below.iter().enumerate().filter(|entry| lacks(*entry)).count() as u64;
    }
    Ok(clusters * CLUSTER)
}

/// Whether a layer has nothing: it says the same as the one that it stands on.
///
/// # Errors
/// Of the file system, and for a layer that is damaged.
pub(super) fn is_empty(layer: &Path) -> io::Result<bool> {
    let tables = Tables::open(layer)?;
    for index in 0..tables.l1.len() {
        if tables.table(index)?.into_iter().any(has) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Finds out whether a layer is damaged, as far as its header and its tables tell.
///
/// # Errors
/// Of the file system, and for one that is damaged.
pub(super) fn examine(layer: &Path) -> io::Result<()> {
    let tables = Tables::open(layer)?;
    for index in 0..tables.l1.len() {
        if !tables.table(index)?.into_iter().all(|entry| tables.is_sound(entry)) {
            return Err(damaged(layer, "a cluster is not within the file"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use hostler_model::image::DiskFormat;

    use super::*;

    fn write(layer: &Path, commands: &[&str]) {
        let lines = commands.iter().flat_map(|line| ["-c", line]);
        let output = Command::new("qemu-io").args(lines).arg(layer).output().expect("qemu-io is installed");
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn a_layer_covers_another_when_it_has_all_that_one_has_zeroes_too() {
        let dir = tempfile::tempdir().unwrap();
        let (base, lower, upper) = (dir.path().join("base"), dir.path().join("lower"), dir.path().join("upper"));
        File::create(&base).unwrap().set_len(64 << 20).unwrap();
        qcow2::create_overlay(&lower, &base, DiskFormat::Raw, 3 << 30).unwrap();
        qcow2::create_overlay(&upper, &lower, DiskFormat::Qcow2, 4 << 30).unwrap();
        assert!(covers(&upper, &lower).unwrap(), "an empty one is covered by anything");
        assert!(is_empty(&lower).unwrap());
        write(&lower, &["write 1M 64k", "write 2G 64k", "write -z 10M 64k"]);
        assert!(!covers(&upper, &lower).unwrap());
        assert_eq!(lacks(&upper, &lower).unwrap(), 3 * CLUSTER);
        assert!(!is_empty(&lower).unwrap() && is_empty(&upper).unwrap());
        write(&upper, &["write 1M 64k", "write 2G 64k"]);
        assert_eq!(lacks(&upper, &lower).unwrap(), CLUSTER);
        assert!(!covers(&upper, &lower).unwrap(), "zeroes hide what lies below");
        write(&upper, &["write -z 10M 64k"]);
        assert!(covers(&upper, &lower).unwrap());
        for layer in [&lower, &upper] {
            examine(layer).unwrap();
        }
    }

    #[test]
    fn one_that_was_cut_or_overwritten_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let (base, layer) = (dir.path().join("base"), dir.path().join("layer"));
        File::create(&base).unwrap().set_len(64 << 20).unwrap();
        qcow2::create_overlay(&layer, &base, DiskFormat::Raw, 1 << 30).unwrap();
        write(&layer, &["write 1M 1M", "write 900M 1M"]);
        let whole = fs::read(&layer).unwrap();
        let refuses = |bytes: &[u8]| {
            fs::write(&layer, bytes).unwrap();
            examine(&layer).unwrap_err().kind()
        };
        for cut in [10, 100_000, 250_000, whole.len() / 2] {
            let kind = refuses(&whole[..cut]);
            assert_eq!(kind, io::ErrorKind::InvalidData, "cut at {cut}");
        }
        // Its first table of clusters, overwritten with what is no table.
        let mut broken = whole.clone();
        let l1 = usize::try_from(3 * CLUSTER).unwrap();
        let table = u64::from_be_bytes(whole[l1..l1 + 8].try_into().unwrap()) & OFFSET;
        broken[usize::try_from(table).unwrap()..][..4096].fill(0xee);
        assert_eq!(refuses(&broken), io::ErrorKind::InvalidData);
    }
}
