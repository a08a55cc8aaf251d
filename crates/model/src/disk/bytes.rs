//! Numbers at places of a file, none of which may lie outside it.

use std::io::{Read, Seek, SeekFrom};

use super::{Result, Unfit};

/// The most that is read at once: no header, table or descriptor that is looked at is longer.
const MOST: usize = 2 << 20;

/// A file, by places.
pub(super) struct Bytes<'a, F> {
    file: &'a mut F,
    length: u64,
}

impl<'a, F: Read + Seek> Bytes<'a, F> {
    pub(super) fn of(file: &'a mut F) -> Result<Self> {
        let length = file.seek(SeekFrom::End(0))?;
        Ok(Bytes { file, length })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Exactly so many bytes.
    pub(super) fn exactly(&mut self, at: u64, count: usize, what: &str) -> Result<Vec<u8>> {
        let bytes = self.up_to(at, count)?;
        if bytes.len() < count {
            return Err(Unfit::because(format!("the file ends before the end of its {what}; it was cut short")));
        }
        Ok(bytes)
    }

    /// So many bytes, or fewer where the file ends.
    pub(super) fn up_to(&mut self, at: u64, count: usize) -> Result<Vec<u8>> {
        if at >= self.length {
            return Ok(Vec::new());
        }
        let there = usize::try_from(self.length - at).unwrap_or(usize::MAX).min(count).min(MOST);
        let mut bytes = vec![0; there];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Refuses a table that does not lie within the file.
    pub(super) fn within(&self, at: u64, length: u64, what: &str) -> Result<()> {
        match at.checked_add(length) {
            Some(end) if end <= self.length => Ok(()),
            Some(_) | None => {
                Err(Unfit::because(format!("its {what} lies outside the file; it is damaged or made up")))
            }
        }
    }
}

/// Big-endian, from a header that was read whole.
pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    array::<4>(bytes, at).map_or(0, u32::from_be_bytes)
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    array::<8>(bytes, at).map_or(0, u64::from_be_bytes)
}

/// Little-endian, likewise.
pub(super) fn le16(bytes: &[u8], at: usize) -> u16 {
    array::<2>(bytes, at).map_or(0, u16::from_le_bytes)
}

pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    array::<4>(bytes, at).map_or(0, u32::from_le_bytes)
}

pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    array::<8>(bytes, at).map_or(0, u64::from_le_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
