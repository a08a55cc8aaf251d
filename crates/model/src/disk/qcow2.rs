//! qcow2, versions 2 and 3: the header, its extensions, and where its tables lie.

use std::io::{Read, Seek};

use super::{
    Result, Unfit,
    bytes::{Bytes, be32, be64},
};

const MAGIC: u32 = 0x5146_49fb;
/// The header of version 2, in bytes; that of version 3 says its length.
const HEADER_2: usize = 72;
const HEADER_3: usize = 104;
/// Clusters of 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// QEMU's own limits, in bytes: block/qcow2.h, `QCOW_MAX_L1_SIZE` and `QCOW_MAX_REFTABLE_SIZE`.
const L1_LIMIT: u64 = 32 << 20;
const REFCOUNT_TABLE_LIMIT: u64 = 8 << 20;
/// How many extensions are looked at; QEMU writes four at the most.
const EXTENSIONS: usize = 64;

/// What a bit among the incompatible features means, and what to do about it; `None` for those that are harmless.
fn feature(bit: u32) -> Option<&'static str> {
    match bit {
        0 => Some("was not closed cleanly; `qemu-img check -r all` mends it"),
        1 => Some("is marked as corrupt; `qemu-img check -r all` may mend it"),
        2 => Some("keeps its data in another file; flatten it with `qemu-img convert`"),
        // How clusters are compressed, and clusters of several pieces.
        3 | 4 => None,
        _ => Some("needs a feature that is not known here; convert it with `qemu-img convert`"),
    }
}

/// What an extension means that is not taken.
fn extension(kind: u32) -> Option<&'static str> {
    match kind {
        0xe279_2aca => Some("names the format of a backing file"),
        0x4441_5441 => Some("names an external data file"),
        0x0537_be77 => Some("is encrypted"),
        0x2385_2875 => Some("has dirty bitmaps"),
        // The names of features; what QEMU does not know it ignores too.
        _ => None,
    }
}

pub(super) fn virtual_size(file: &mut Bytes<'_, impl Read + Seek>) -> Result<u64> {
    let header = file.exactly(0, HEADER_2, "header")?;
    let version = be32(&header, 4);
    if be32(&header, 0) != MAGIC || !(2..=3).contains(&version) {
        return Err(Unfit::because("this is no qcow2 image of version 2 or 3"));
    }
    let header_length = if version == 3 { features(file)? } else { HEADER_2 as u64 };
    references(&header)?;
    let cluster_bits = be32(&header, 20);
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Err(Unfit::because(format!("its clusters have 2^{cluster_bits} bytes; 2^9 to 2^21 make sense")));
    }
    let size = be64(&header, 24);
    tables(file, &header, cluster_bits, size)?;
    extensions(file, header_length, 1 << cluster_bits)?;
    Ok(size)
}

/// What only version 3 has; gives the header's length.
fn features(file: &mut Bytes<'_, impl Read + Seek>) -> Result<u64> {
    let header = file.exactly(0, HEADER_3, "header")?;
    let incompatible = be64(&header, 72);
    for bit in (0..64).filter(|bit| incompatible >> bit & 1 == 1) {
        if let Some(why) = feature(bit) {
            return Err(Unfit::because(format!("the image {why}")));
        }
    }
    let (order, length) = (be32(&header, 96), be32(&header, 100));
    if order > 6 {
        return Err(Unfit::because(format!("its reference counts have 2^{order} bits; 2^6 is the most")));
    }
    if (length as usize) < HEADER_3 || !length.is_multiple_of(8) || length > 1 << 16 {
        return Err(Unfit::because(format!("its header says that it has {length} bytes")));
    }
    Ok(u64::from(length))
}

/// Whatever would make QEMU open something else, or ask for a key.
fn references(header: &[u8]) -> Result<()> {
    if be64(header, 8) != 0 || be32(header, 16) != 0 {
        return Err(Unfit::because("the image has a backing file; flatten it with `qemu-img convert`"));
    }
    if be32(header, 32) != 0 {
        return Err(Unfit::because("the image is encrypted; decrypt it with `qemu-img convert`"));
    }
    if be32(header, 60) != 0 {
        return Err(Unfit::because("the image has internal snapshots; `qemu-img convert` leaves them out"));
    }
    Ok(())
}

/// The tables: as large as the disk needs, within the file, and no larger than QEMU takes.
fn tables(file: &Bytes<'_, impl Read + Seek>, header: &[u8], cluster_bits: u32, size: u64) -> Result<()> {
    let cluster = 1u64 << cluster_bits;
    let (l1_entries, l1_at) = (u64::from(be32(header, 36)), be64(header, 40));
    let (refcounts_at, refcount_clusters) = (be64(header, 48), u64::from(be32(header, 56)));
    if size > super::LARGEST {
        return Err(Unfit::because(format!("the disk would have {size} bytes; {} is the most", super::LARGEST)));
    }
    // An L2 table is a cluster of entries of 8 bytes, or of 16 where clusters have pieces.
    let least = size.div_ceil(cluster * (cluster / 8));
    if l1_entries * 8 > L1_LIMIT || l1_entries < least {
        return Err(Unfit::because(format!("its L1 table has {l1_entries} entries; the disk needs {least}")));
    }
    if refcount_clusters == 0 || refcount_clusters * cluster > REFCOUNT_TABLE_LIMIT {
        return Err(Unfit::because(format!("its refcount table has {refcount_clusters} clusters")));
    }
    if !l1_at.is_multiple_of(cluster) || !refcounts_at.is_multiple_of(cluster) {
        return Err(Unfit::because("its tables do not begin where clusters do"));
    }
    file.within(l1_at, l1_entries * 8, "L1 table")?;
    file.within(refcounts_at, refcount_clusters * cluster, "refcount table")
}

/// Header extensions: a kind, a length, that many bytes, padded to eight; a kind of zero ends them.
fn extensions(file: &mut Bytes<'_, impl Read + Seek>, mut at: u64, cluster: u64) -> Result<()> {
    for _ in 0..EXTENSIONS {
        if at + 8 > cluster {
            return Ok(());
        }
        let head = file.exactly(at, 8, "header extensions")?;
        let (kind, length) = (be32(&head, 0), u64::from(be32(&head, 4)));
        if kind == 0 {
            return Ok(());
        }
        if let Some(why) = extension(kind) {
            return Err(Unfit::because(format!("the image {why}; convert it with `qemu-img convert`")));
        }
        at += 8 + length.next_multiple_of(8);
        if at > cluster {
            return Err(Unfit::because("a header extension is longer than its cluster"));
        }
    }
    Err(Unfit::because(format!("it has more than {EXTENSIONS} header extensions")))
}
