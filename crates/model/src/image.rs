//! An image: a set of files by their digests, and how to boot them.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    clock::Timestamp,
    error::{Refusal, excerpt},
    id::{ImageDigest, TenantId},
    ready::Readiness,
    task::Task,
};

/// A sha256, as 64 lower-case hex digits: safe as a file's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Sha256Hex(hex::encode(Sha256::digest(bytes)))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Sha256Hex {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Sha256Hex(text.to_owned()))
        } else {
            Err(Refusal::field("sha256", "a digest is 64 of 0-9 and a-f").with("value", excerpt(text)))
        }
    }
}

impl<'de> Deserialize<'de> for Sha256Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|refusal: Refusal| serde::de::Error::custom(refusal.detail))
    }
}

/// The part that a file plays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A Linux kernel, booted directly.
    Kernel,
    /// Its initial RAM file system.
    Initrd,
    /// The root disk: machines write to an overlay above it.
    Rootfs,
    /// A whole disk with a boot loader: it is booted by firmware, and machines write to an overlay above it.
    Disk,
}

impl Part {
    /// The file's name within the image's folder.
    pub const fn file_name(self) -> &'static str {
        match self {
            Part::Kernel => "kernel",
            Part::Initrd => "initrd",
            Part::Rootfs => "rootfs",
            Part::Disk => "disk",
        }
    }
}

/// What starts a whole disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// SeaBIOS, which QEMU brings.
    #[default]
    Bios,
    /// OVMF, where the node has it.
    Uefi,
}

/// A disk's format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// Bytes as they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl DiskFormat {
    /// As qemu-img spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        }
    }
}

/// One file of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageFile {
    /// Its digest.
    pub sha256: Sha256Hex,
    /// Its length in bytes.
    pub size: u64,
    /// Its format, for a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
}

/// Amounts for machines that do not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ImageDefaults {
    /// Virtual processors.
    pub vcpus: i64,
    /// Memory, in MiB.
    pub memory_mib: i64,
    /// Disk, in GiB.
    pub disk_gib: i64,
}

/// For images that do not say either.
impl Default for ImageDefaults {
    fn default() -> Self {
        ImageDefaults { vcpus: 1, memory_mib: 1024, disk_gib: 10 }
    }
}

/// What an image is. Its digest is the sha256 of this, as JSON with sorted keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Manifest {
    /// The name it is known by.
    pub name: String,
    /// The processor architecture, such as `x86_64`.
    pub arch: String,
    /// Its files.
    #[schema(value_type = Object)]
    pub files: BTreeMap<Part, ImageFile>,
    /// The kernel's command line; nothing for a whole disk.
    #[serde(default)]
    pub cmdline: String,
    /// What starts a whole disk; BIOS where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Amounts for machines that do not say.
    #[serde(default)]
    pub defaults: ImageDefaults,
    /// When a machine is ready, unless it says so itself.
    #[serde(default)]
    pub ready: Readiness,
    /// How long it may take to be, in seconds, for machines that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_timeout_seconds: Option<u32>,
    /// Whether its guest has cloud-init: every machine gets a seed then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cloud_init: bool,
}

impl Manifest {
    /// The digest that names this image.
    pub fn digest(&self) -> ImageDigest {
        // serde_json's Value keeps its keys sorted, which makes this form canonical.
        let canonical = serde_json::to_value(self).expect("a manifest is plain data").to_string();
        ImageDigest(Sha256Hex::of(canonical.as_bytes()).to_string())
    }

    /// The disk that machines write above, and the part it plays.
    pub fn root(&self) -> Option<(Part, &ImageFile)> {
        [Part::Disk, Part::Rootfs].into_iter().find_map(|part| Some((part, self.files.get(&part)?)))
    }

    /// Refuses what could not boot.
    pub fn check(&self) -> Result<(), Refusal> {
        check_name(&self.name)?;
        self.ready.check()?;
        let lacks = |part: &Part| !self.files.contains_key(part);
        if lacks(&Part::Disk) {
            if let Some(part) = [Part::Kernel, Part::Rootfs].iter().find(|part| lacks(part)) {
                let detail = format!("there is no {}, nor a whole disk that would do without", part.file_name());
                return Err(Refusal::field("files", detail));
            }
            if self.firmware.is_some() {
                return Err(Refusal::field("firmware", "only a whole disk is started by firmware; leave it out"));
            }
        } else if self.files.len() > 1 || !self.cmdline.is_empty() {
            let detail = "a whole disk brings its own kernel: it stands alone, and has no command line";
            return Err(Refusal::field("files", detail));
        }
        for (part, file) in &self.files {
            let is_disk = matches!(part, Part::Disk | Part::Rootfs);
            if !is_disk && file.format.is_some() {
                return Err(Refusal::field(&format!("files.{}.format", part.file_name()), "only a disk has a format"));
            }
        }
        Ok(())
    }
}

/// Refuses what is no image's name. What could be a digest is none, so that either finds one image only.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) || name.bytes().all(|b| b == b'.') {
        let detail = "an image's name is 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', and not only dots";
        return Err(Refusal::field("name", detail).with("value", excerpt(name)));
    }
    if name.parse::<Sha256Hex>().is_ok() {
        return Err(Refusal::field("name", "64 hex digits would be taken for a digest; choose another name"));
    }
    Ok(())
}

/// An image as people see it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Image {
    /// The digest that names it.
    pub digest: ImageDigest,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is.
    pub manifest: Manifest,
    /// When it came.
    pub created_at: Timestamp,
}

/// An image with what depends on it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageInfo {
    /// The image.
    #[serde(flatten)]
    pub image: Image,
    /// The names that stand for it now; none once another image took its name.
    pub names: Vec<String>,
    /// The format of its disk.
    pub format: DiskFormat,
    /// Bytes of its files in all.
    pub size: u64,
    /// How many machines are made of it.
    pub vms: i64,
    /// The nodes that have it in their cache, by name.
    pub nodes: Vec<String>,
}

/// An image and the tasks that concern it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageTasks {
    /// The image, with the names that it still has.
    pub image: ImageInfo,
    /// One task for each node.
    pub tasks: Vec<Task>,
}

/// Where an image is to be brought: `POST /images/{image}/pull`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct NewPull {
    /// A node by id or name; without it, every node that can be reached and lacks the image.
    pub node: Option<String>,
}

/// What a name shall stand for: `PUT /images/{name}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewAlias {
    /// An image, by another name or by its digest.
    pub image: String,
}
