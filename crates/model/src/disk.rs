//! A disk's file as it came from outside: what it says it is, read before QEMU or qemu-img opens it.
//!
//! A header is somebody else's program for whoever opens the file: it can name files of the host, or sizes that no
//! memory holds. What is not understood, and what refers to anything but the file itself, is refused with its reason.
//! A format is never guessed by QEMU: it is what was said, or what the first bytes say here, and then said to QEMU.
//!
//! Sources: docs/interop/qcow2.txt of QEMU; VMware's "Virtual Disk Format 5.0"; Microsoft's \[MS-VHDX\].
//! Nothing here opens a file: bytes come from whoever calls.

mod bytes;
mod qcow2;
mod vhdx;
mod vmdk;

use std::io::{self, Read, Seek};

use serde::{Deserialize, Serialize};

use self::bytes::Bytes;
use crate::{
    error::{Code, Refusal},
    image::DiskFormat,
};

/// The largest disk that a guest may see, in bytes: 65,536 GiB, the largest that a machine may ask for.
pub const LARGEST: u64 = 65_536 << 30;

/// How many first bytes [`SourceFormat::detect`] looks at.
pub const HEAD: usize = 8;

/// A format in which a disk may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceFormat {
    /// Bytes as they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// VMware's, in one file.
    Vmdk,
    /// Hyper-V's.
    Vhdx,
    /// Raw bytes in gzip.
    RawGz,
    /// Raw bytes in xz.
    RawXz,
    /// Raw bytes in zstd.
    RawZst,
}

impl SourceFormat {
    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            SourceFormat::Raw => "raw",
            SourceFormat::Qcow2 => "qcow2",
            SourceFormat::Vmdk => "vmdk",
            SourceFormat::Vhdx => "vhdx",
            SourceFormat::RawGz => "raw_gz",
            SourceFormat::RawXz => "raw_xz",
            SourceFormat::RawZst => "raw_zst",
        }
    }

    /// What it is packed in.
    pub const fn packing(self) -> Option<Packing> {
        match self {
            SourceFormat::Raw | SourceFormat::Qcow2 | SourceFormat::Vmdk | SourceFormat::Vhdx => None,
            SourceFormat::RawGz => Some(Packing::Gzip),
            SourceFormat::RawXz => Some(Packing::Xz),
            SourceFormat::RawZst => Some(Packing::Zstd),
        }
    }

    /// What the first [`HEAD`] bytes say. Raw says nothing: `None` is that, or a format that is not taken. Of a packed file
    /// they say what it is packed in.
    pub fn detect(head: &[u8]) -> Option<SourceFormat> {
        match head {
            [b'Q', b'F', b'I', 0xfb, ..] => Some(SourceFormat::Qcow2),
            [b'K', b'D', b'M', b'V', ..] | [b'C', b'O', b'W', b'D', ..] | [b'#', b' ', b'D', b'i', b's', b'k', ..] => {
                Some(SourceFormat::Vmdk)
            }
            [b'v', b'h', b'd', b'x', b'f', b'i', b'l', b'e', ..] => Some(SourceFormat::Vhdx),
            [0x1f, 0x8b, 8, ..] => Some(SourceFormat::RawGz),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(SourceFormat::RawXz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(SourceFormat::RawZst),
            _ => None,
        }
    }

    /// The format to read a file in: what its sender says, if the file's first bytes do not say otherwise. Of a packed file
    /// the sender may have said what is in it: see [`Packing::inside`].
    ///
    /// # Errors
    /// When nobody says it, or the two disagree.
    pub fn settle(said: Option<SourceFormat>, head: &[u8]) -> Result<SourceFormat, Refusal> {
        match (said, SourceFormat::detect(head)) {
            (Some(said), found) if found.unwrap_or(SourceFormat::Raw) == said => Ok(said),
            (Some(said), Some(found)) if said.packing().is_none() && found.packing().is_some() => Ok(found),
            (None, Some(found)) => Ok(found),
            (None, None) => {
                let detail = "the file's first bytes are those of no qcow2, vmdk, vhdx, gzip, xz or zstd; say `raw` if it \
                              is a raw disk";
                Err(Refusal::field("format", detail))
            }
            (Some(said), found) => Err(disagree(said, found)),
        }
    }
}

fn disagree(said: SourceFormat, found: Option<SourceFormat>) -> Refusal {
    let found = found.map_or("no known format", SourceFormat::as_str);
    let detail = format!("{} is said, and the file's first bytes are those of {found}", said.as_str());
    Refusal::field("format", detail).with("found", found)
}

/// What a file may be packed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// By gzip.
    Gzip,
    /// By xz.
    Xz,
    /// By zstd.
    Zstd,
}

impl Packing {
    /// As people call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Xz => "xz",
            Packing::Zstd => "zstd",
        }
    }

    /// The format of what was packed: what was said, if its first bytes do not say otherwise; where nothing was said, what
    /// they say, or raw.
    ///
    /// # Errors
    /// When the two disagree, or it is packed once more.
    pub fn inside(self, said: Option<SourceFormat>, head: &[u8]) -> Result<SourceFormat, Refusal> {
        let found = SourceFormat::detect(head);
        if found.is_some_and(|found| found.packing().is_some()) {
            return Err(Refusal::field("format", "what was packed is packed once more; unpack it once beforehand"));
        }
        match said {
            None => Ok(found.unwrap_or(SourceFormat::Raw)),
            Some(said) if said.packing().is_some() => SourceFormat::settle(Some(SourceFormat::Raw), head),
            Some(said) => SourceFormat::settle(Some(said), head),
        }
    }
}

impl From<DiskFormat> for SourceFormat {
    fn from(format: DiskFormat) -> SourceFormat {
        match format {
            DiskFormat::Raw => SourceFormat::Raw,
            DiskFormat::Qcow2 => SourceFormat::Qcow2,
        }
    }
}

/// Why a file was not found good.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It could not be read.
    #[error("the file cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It must not be opened; why, and what to do about it.
    #[error("{0}")]
    Refused(String),
}

impl Unfit {
    fn because(why: impl Into<String>) -> Unfit {
        Unfit::Refused(why.into())
    }

    /// For whoever sent the file.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(Code::ImageUnsafe, self.to_string())
    }
}

/// Shorthand.
pub type Result<T, E = Unfit> = std::result::Result<T, E>;

/// Reads what a disk's file says of itself, and gives the size that a guest would see, in bytes.
///
/// # Errors
/// When the file refers to other files, has sizes that make no sense, or has what is not understood. What is
/// packed is refused: it is to be unpacked first.
pub fn inspect(format: SourceFormat, file: &mut (impl Read + Seek)) -> Result<u64> {
    let mut file = Bytes::of(file)?;
    let size = match format {
        SourceFormat::Raw => raw(&mut file)?,
        SourceFormat::Qcow2 => qcow2::virtual_size(&mut file)?,
        SourceFormat::Vmdk => vmdk::virtual_size(&mut file)?,
        SourceFormat::Vhdx => vhdx::virtual_size(&mut file)?,
        SourceFormat::RawGz | SourceFormat::RawXz | SourceFormat::RawZst => {
            return Err(Unfit::because("it is packed; unpack it first"));
        }
    };
    if size == 0 || size > LARGEST {
        return Err(Unfit::because(format!("the disk would have {size} bytes; it must have 1 to {LARGEST}")));
    }
    Ok(size)
}

/// A raw disk has no header. One that looks as if it had one is somebody's trap, or a mistake.
fn raw(file: &mut Bytes<'_, impl Read + Seek>) -> Result<u64> {
    let head = file.up_to(0, HEAD)?;
    match SourceFormat::detect(&head) {
        None => Ok(file.length()),
        Some(found) => {
            Err(Unfit::because(format!("it is said to be raw, and begins as {} does; say so", found.as_str())))
        }
    }
}

#[cfg(test)]
mod tests;
