//! What we do with qcow2 ourselves: begin an empty overlay, and read back what an overlay of ours stands on. (What it has
//! of a disk: [`super::clusters`]. Reading an image that comes from outside is the model's, `disk.rs`.)
//!
//! `qemu-img create` does it too, in a process of its own that costs more than all else before QEMU's start; an
//! empty overlay is but a header and two empty tables. Source: docs/interop/qcow2.txt of QEMU.
//!
//! ```text
//! cluster 0: header, extensions, backing file's name   1: refcount table   2: refcount block   3 …: L1 table, all zero
//! ```

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use hostler_model::image::DiskFormat;

const MAGIC: u32 = 0x5146_49fb;
const HEADER_BYTES: usize = 104;

/// 64 KiB clusters, QEMU's default.
const CLUSTER_BITS: u32 = 16;
pub(super) const CLUSTER: u64 = 1 << CLUSTER_BITS;

/// An L2 table is one cluster of 8-byte entries: what one L1 entry covers, 512 MiB.
const BYTES_PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;

/// The header extension that names the backing file's format.
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;

/// The longest backing file name that the format allows, in bytes.
const NAME_LIMIT: usize = 1023;

/// What an overlay says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// What it stands on.
    pub(super) backing: Option<PathBuf>,
    /// The disk's size, in bytes.
    pub(super) size: u64,
    /// Where its table of tables lies, and how many entries that has.
    pub(super) l1: (u64, u64),
}

/// That a file is not what a layer of ours looks like.
pub(super) fn damaged(path: &Path, why: &str) -> io::Error {
    let detail = format!("{} is not a layer of a disk, or is damaged: {why}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, detail)
}

/// Reads what an overlay of ours, which QEMU may have written since, says of itself.
///
/// # Errors
/// Of the file system, and for what is no qcow2.
pub(super) fn read_header(path: &Path) -> io::Result<Header> {
    let mut bytes = Vec::new();
    File::open(path)?.take(CLUSTER).read_to_end(&mut bytes)?;
    let damaged = || damaged(path, "its header is not one of ours");
    let word = |at: usize, length: usize| -> Option<u64> {
        Some(bytes.get(at..at + length)?.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    };
    if word(0, 4) != Some(u64::from(MAGIC)) {
        return Err(damaged());
    }
    let number = |at, length| word(at, length).ok_or_else(damaged);
    let (offset, length) = (number(8, 8)? as usize, number(16, 4)? as usize);
    let name = bytes.get(offset..offset.saturating_add(length.min(NAME_LIMIT))).ok_or_else(damaged)?;
    let backing = (offset > 0).then(|| PathBuf::from(std::ffi::OsString::from_vec(name.to_vec())));
    if number(20, 4)? != u64::from(CLUSTER_BITS) {
        return Err(damaged());
    }
    Ok(Header { backing, size: number(24, 8)?, l1: (number(40, 8)?, number(36, 4)?) })
}

/// Writes an empty overlay of `size` bytes above `base`. The file is there whole or not at all.
///
/// # Errors
/// Of the file system, or a base whose path is too long.
pub(super) fn create_overlay(path: &Path, base: &Path, format: DiskFormat, size: u64) -> io::Result<()> {
    let bytes = overlay(base, format, size)?;
    let part = path.with_extension("part");
    let written =
        File::create(&part).and_then(|mut file| file.write_all(&bytes)).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

fn overlay(base: &Path, format: DiskFormat, size: u64) -> io::Result<Vec<u8>> {
    let l1_entries = size.div_ceil(BYTES_PER_L1_ENTRY);
    let clusters = 3 + (l1_entries * 8).div_ceil(CLUSTER);
    // One refcount block counts 32,768 clusters: an L1 table far beyond any disk.
    let mut bytes = header(base, format, size, l1_entries)?;
    bytes.resize((CLUSTER * clusters) as usize, 0);
    bytes[CLUSTER as usize..][..8].copy_from_slice(&(2 * CLUSTER).to_be_bytes());
    for cluster in 0..clusters as usize {
        bytes[2 * CLUSTER as usize + 2 * cluster..][..2].copy_from_slice(&1u16.to_be_bytes());
    }
    Ok(bytes)
}

fn header(base: &Path, format: DiskFormat, size: u64, l1_entries: u64) -> io::Result<Vec<u8>> {
    let name = base.as_os_str().as_bytes();
    if name.len() > NAME_LIMIT {
        let detail = format!(
            "the path of the image {} is longer than the {NAME_LIMIT} bytes that qcow2 can hold",
            base.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, detail));
    }
    let format = format.as_str().as_bytes();
    let mut extension =
        [&EXTENSION_BACKING_FORMAT.to_be_bytes()[..], &(format.len() as u32).to_be_bytes(), format].concat();
    extension.resize(extension.len().next_multiple_of(8) + 8, 0); // and the extension that ends them
    let name_offset = (HEADER_BYTES + extension.len()) as u64;
    let (l1_offset, refcount_offset) = (3 * CLUSTER, CLUSTER);
    let mut out = Vec::with_capacity(CLUSTER as usize * 4);
    out.extend(MAGIC.to_be_bytes());
    out.extend(3u32.to_be_bytes()); // version
    out.extend(name_offset.to_be_bytes());
    out.extend((name.len() as u32).to_be_bytes());
    out.extend(CLUSTER_BITS.to_be_bytes());
    out.extend(size.to_be_bytes());
    out.extend(0u32.to_be_bytes()); // no encryption
    out.extend((l1_entries as u32).to_be_bytes());
    out.extend(l1_offset.to_be_bytes());
    out.extend(refcount_offset.to_be_bytes());
    out.extend(1u32.to_be_bytes()); // clusters of the refcount table
    out.extend([0; 4 + 8 + 3 * 8]); // no internal snapshots; no incompatible, compatible, autoclear features
    out.extend(4u32.to_be_bytes()); // refcounts of 16 bits
    out.extend((HEADER_BYTES as u32).to_be_bytes());
    out.extend(extension);
    out.extend(name);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn qemu_img(arguments: &[&str]) -> String {
        let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn qemu_finds_nothing_wrong_with_our_overlays() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        File::create(&base).unwrap().set_len(64 << 20).unwrap();
        for gib in [1u64, 3, 5000] {
            let path = dir.path().join("disk.qcow2");
            create_overlay(&path, &base, DiskFormat::Raw, gib << 30).unwrap();
            let path = path.to_str().unwrap();
            assert!(qemu_img(&["check", path]).contains("No errors"));
            let info: serde_json::Value = serde_json::from_str(&qemu_img(&["info", "--output=json", path])).unwrap();
            assert_eq!(info["virtual-size"], gib << 30);
            assert_eq!(info["backing-filename"], base.to_str().unwrap());
            assert_eq!(info["backing-filename-format"], "raw");
        }
    }
}
