//! VMDK: only the forms of a single file (`monolithicSparse`, `streamOptimized`). Every other form is a text that names
//! files of the host.

use std::io::{Read, Seek};

use super::{
    Result, Unfit,
    bytes::{Bytes, le16, le32, le64},
};

const SECTOR: u64 = 512;
const MAGIC: &[u8] = b"KDMV";
/// The descriptor begins in the second sector: QEMU looks for the parent there, whatever the header says.
const DESCRIPTOR_AT: u64 = 1;
/// QEMU reads 20 sectors for the parent's name, and common descriptors have 20; 1 MiB is more than any.
const DESCRIPTOR: std::ops::RangeInclusive<u64> = 1..=2048;
const QEMU_READS: u64 = 20;
/// Entries of a grain table: 512 in all programs.
const TABLE_LIMIT: u32 = 512;
/// Grains of 4 KiB to 64 MiB, in sectors.
const GRAIN: std::ops::RangeInclusive<u64> = 8..=131_072;
/// The grain directory lies at the end of the file, and so does a second header.
const AT_END: u64 = u64::MAX;
/// Where that header is, counted from the end: before the marker of the end.
const FOOTER: u64 = 2 * SECTOR;

pub(super) fn virtual_size(file: &mut Bytes<'_, impl Read + Seek>) -> Result<u64> {
    // QEMU rounds the length up before it looks for the footer, and would find another one than is looked at here. Every
    // program writes whole sectors.
    if !file.length().is_multiple_of(SECTOR) {
        let why = format!("its {} bytes are no whole number of sectors; it was cut short or added to", file.length());
        return Err(Unfit::because(why));
    }
    let header = file.exactly(0, SECTOR as usize, "header")?;
    let capacity = sparse(&header)?;
    if le64(&header, 56) == AT_END {
        let at = file.length().checked_sub(FOOTER).ok_or_else(|| Unfit::because("the file has no footer"))?;
        let footer = file.exactly(at, SECTOR as usize, "footer")?;
        if sparse(&footer)? != capacity {
            return Err(Unfit::because("its header and its footer say different sizes"));
        }
    }
    let (at, sectors) = (le64(&header, 28), le64(&header, 36));
    if at != DESCRIPTOR_AT || !DESCRIPTOR.contains(&sectors) {
        return Err(Unfit::because("its descriptor is not within the file's second sector and those after it"));
    }
    let bytes = file.up_to(SECTOR, (sectors.max(QEMU_READS) * SECTOR) as usize)?;
    descriptor(&bytes, (sectors * SECTOR) as usize)?;
    capacity.checked_mul(SECTOR).ok_or_else(|| Unfit::because("the disk's size makes no sense"))
}

/// A header or a footer; gives the capacity in sectors. One of zero would make QEMU read the descriptor's extents.
fn sparse(header: &[u8]) -> Result<u64> {
    if !header.starts_with(MAGIC) {
        let why =
            "this is no VMDK in one file (monolithicSparse or streamOptimized); convert it with `qemu-img convert`";
        return Err(Unfit::because(why));
    }
    let (version, capacity, grain) = (le32(header, 4), le64(header, 12), le64(header, 20));
    if !(1..=3).contains(&version) {
        return Err(Unfit::because(format!("VMDK version {version} is not known")));
    }
    if capacity == 0 || capacity > super::LARGEST / SECTOR {
        return Err(Unfit::because(format!("the disk would have {capacity} sectors")));
    }
    if !grain.is_power_of_two() || !GRAIN.contains(&grain) || le32(header, 44) > TABLE_LIMIT || le32(header, 44) == 0 {
        return Err(Unfit::because("its grains or grain tables have sizes that make no sense"));
    }
    if le16(header, 77) > 1 {
        return Err(Unfit::because("it is compressed in a way that is not known"));
    }
    Ok(capacity)
}

/// The descriptor's text: what kind it is, whether it has a parent, and that its one extent is this file.
fn descriptor(bytes: &[u8], length: usize) -> Result<()> {
    let all = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    if all.contains("parentfilenamehint") {
        return Err(Unfit::because("it is a difference to a parent disk; flatten it with `qemu-img convert`"));
    }
    let text = bytes.get(..length).unwrap_or(bytes);
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().trim_matches('"'))
    };
    match value("createtype") {
        Some("monolithicsparse" | "streamoptimized") => {}
        Some(_) | None => return Err(Unfit::because("its descriptor says that its data lies in other files")),
    }
    if value("parentcid").is_some_and(|parent| parent != "ffffffff") {
        return Err(Unfit::because("it is a difference to a parent disk; flatten it with `qemu-img convert`"));
    }
    let extents = text.lines().filter(|line| ["rw ", "rdonly ", "noaccess "].iter().any(|kind| line.starts_with(kind)));
    let extents: Vec<&str> = extents.collect();
    match extents[..] {
        [one] if one.split_ascii_whitespace().nth(2) == Some("sparse") => Ok(()),
        _ => Err(Unfit::because("its descriptor names extents in other files")),
    }
}
