//! VHDX: the region table, the metadata it leads to, and in those whether the disk has a parent.

use std::io::{Read, Seek};

use super::{
    Result, Unfit,
    bytes::{Bytes, le16, le32, le64},
};

const MAGIC: &[u8] = b"vhdxfile";
/// The two copies of the region table, and their length, in bytes.
const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
const TABLE: usize = 64 << 10;
/// At most this many entries, in either table ([MS-VHDX] 2.2.3.1, 2.6.1.1).
const ENTRIES: usize = 2047;
const ENTRY: usize = 32;
/// The region of metadata begins with its table of 64 KiB and has at most 1 MiB for the items.
const METADATA_LIMIT: u32 = 64 << 20;

/// GUIDs as they lie in the file.
const METADATA: [u8; 16] =
    [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e];
const FILE_PARAMETERS: [u8; 16] =
    [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b];
const DISK_SIZE: [u8; 16] =
    [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8];
const PARENT_LOCATOR: [u8; 16] =
    [0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c];

const HAS_PARENT: u32 = 1 << 1;

pub(super) fn virtual_size(file: &mut Bytes<'_, impl Read + Seek>) -> Result<u64> {
    if file.exactly(0, MAGIC.len(), "signature")? != MAGIC {
        return Err(Unfit::because("this is no VHDX"));
    }
    // Whichever copy QEMU takes, it has been looked at.
    let mut sizes = Vec::new();
    for at in REGION_TABLES {
        let table = file.up_to(at, TABLE)?;
        if table.starts_with(b"regi") {
            let region = metadata_region(file, &table)?;
            sizes.push(metadata(file, region)?);
        }
    }
    match sizes[..] {
        [size] => Ok(size),
        [first, second] if first == second => Ok(first),
        [] => Err(Unfit::because("it has no region table; it is damaged")),
        _ => Err(Unfit::because("its two region tables say different sizes")),
    }
}

fn metadata_region(file: &Bytes<'_, impl Read + Seek>, table: &[u8]) -> Result<u64> {
    let count = le32(table, 8) as usize;
    if count > ENTRIES {
        return Err(Unfit::because(format!("its region table has {count} entries")));
    }
    let mut entries = table.get(16..).unwrap_or_default().chunks_exact(ENTRY).take(count);
    let entry = entries.find(|entry| entry.starts_with(&METADATA));
    let entry = entry.ok_or_else(|| Unfit::because("it has no metadata; it is damaged"))?;
    let (at, length) = (le64(entry, 16), le32(entry, 24));
    if length > METADATA_LIMIT {
        return Err(Unfit::because(format!("its metadata have {length} bytes")));
    }
    file.within(at, u64::from(length), "metadata")?;
    Ok(at)
}

fn metadata(file: &mut Bytes<'_, impl Read + Seek>, region: u64) -> Result<u64> {
    let table = file.exactly(region, TABLE, "metadata table")?;
    let count = usize::from(le16(&table, 10));
    if !table.starts_with(b"metadata") || count > ENTRIES {
        return Err(Unfit::because("its metadata table cannot be read"));
    }
    let (mut parameters, mut size) = (None, None);
    for entry in table[ENTRY..].chunks_exact(ENTRY).take(count) {
        let at = region.saturating_add(u64::from(le32(entry, 16)));
        let kind = &entry[..16];
        if kind == PARENT_LOCATOR {
            return Err(differencing());
        } else if kind == FILE_PARAMETERS {
            let bits = le32(&file.exactly(at, 8, "file parameters")?, 4);
            parameters = Some(parameters.unwrap_or(0) | bits);
        } else if kind == DISK_SIZE {
            size = Some(le64(&file.exactly(at, 8, "disk size")?, 0));
        }
    }
    match (parameters, size) {
        (Some(bits), _) if bits & HAS_PARENT != 0 => Err(differencing()),
        (Some(_), Some(size)) => Ok(size),
        (None, _) | (_, None) => Err(Unfit::because("its metadata lack the file parameters or the disk's size")),
    }
}

fn differencing() -> Unfit {
    Unfit::because("it is a difference to a parent disk; merge it with its parent first")
}
