//! An import: files from outside that become an image. What is asked for, checked and made a plan here; how far it is.
//!
//! ```text
//! waiting ─► fetching ─► checking ─► converting ─► storing ─► succeeded | failed | cancelled
//! ```
//!
//! An import is no task: nothing of it happens on a host. The server does it on its own store of blobs, so what is
//! written down is only how far it is; an import whose server died fails, and leaves nothing.

mod state;
mod stretch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    state::{Import, ImportPhase, ImportProgress, ImportState, Importing},
    stretch::Stretch,
};
use crate::{
    catalogue::{Catalogue, KnownImage},
    disk::SourceFormat,
    error::{Code, Refusal, excerpt},
    image::{Firmware, ImageDefaults, Part, Sha256Hex, check_name},
    ready::Readiness,
};

/// The longest address or path that is taken.
const PLACE_LIMIT: usize = 2048;
/// What machines get that do not say, and whose image does not either.
const DEFAULTS: ImageDefaults = ImageDefaults { vcpus: 1, memory_mib: 1024, disk_gib: 10 };
/// The largest amounts, as `vm.create` takes them.
const MOST: ImageDefaults = ImageDefaults { vcpus: 256, memory_mib: 16 << 20, disk_gib: 65_536 };

/// Where one file comes from: exactly one of `url`, `file` and `blob`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct PartSource {
    /// An address, `http://` or `https://`.
    pub url: Option<String>,
    /// A file on the server, under one of its configured folders.
    pub file: Option<String>,
    /// A blob that was sent before: `PUT /blobs/{sha256}`.
    pub blob: Option<Sha256Hex>,
    /// What its bytes must be.
    pub sha256: Option<Sha256Hex>,
    /// Its format, for a root disk; told from its first bytes where nothing is said, but for `raw`.
    pub format: Option<SourceFormat>,
}

/// What is to be imported: exactly one of `url`, `file`, `catalogue` and `parts`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct NewImport {
    /// The address of a whole disk, `http://` or `https://`.
    pub url: Option<String>,
    /// A whole disk on the server, under one of its configured folders; for platform admins.
    pub file: Option<String>,
    /// A name in the catalogue, such as `debian-12`.
    pub catalogue: Option<String>,
    /// Kernel, initrd and root disk, each by itself.
    #[schema(value_type = Object)]
    pub parts: BTreeMap<Part, PartSource>,
    /// What the bytes of a whole disk must be, as they come; recorded where nothing is said.
    pub sha256: Option<Sha256Hex>,
    /// The whole disk's format; told from its first bytes where nothing is said, but for `raw`.
    pub format: Option<SourceFormat>,
    /// What the image is like, where its files do not say it.
    pub image: NewShape,
}

/// What an image is like, where its files do not say it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct NewShape {
    /// The processor architecture; `x86_64` where nothing is said.
    pub arch: Option<String>,
    /// The kernel's command line, for an image of parts.
    pub cmdline: Option<String>,
    /// What starts a whole disk; BIOS where nothing is said.
    pub firmware: Option<Firmware>,
    /// Virtual processors of machines that do not say; 1 where nothing is said.
    pub vcpus: Option<i64>,
    /// Their memory in MiB; 1,024 where nothing is said.
    pub memory_mib: Option<i64>,
    /// Their disk in GiB; 10, or what the disk needs, where nothing is said.
    pub disk_gib: Option<i64>,
    /// When they are ready; `auto` where nothing is said.
    pub ready: Option<Readiness>,
}

/// Where a file comes from, once that is decided.
#[derive(Clone, PartialEq, Debug)]
pub enum Source {
    /// The body of the request.
    Upload,
    /// An address.
    Url(String),
    /// A file on the server.
    File(String),
    /// A blob that is here.
    Blob(Sha256Hex),
}

/// What a file's bytes are compared with.
#[derive(Clone, PartialEq, Debug)]
pub enum Expected {
    /// Nothing: what they are is recorded.
    Recorded,
    /// Their digest.
    Sha256(Sha256Hex),
    /// What the vendor's list of digests says of the file, fetched from this address.
    Listed(String),
}

impl Expected {
    /// Refuses bytes that are not what was said, where that is a sha256.
    ///
    /// # Errors
    /// When they are not.
    pub fn must_be(&self, found: &Sha256Hex) -> Result<(), Refusal> {
        match self {
            Expected::Sha256(said) if said != found => {
                let detail = format!("the bytes have the sha256 {found}, not {said}; send them again");
                Err(Refusal::field("sha256", detail).with("found", found.as_str()))
            }
            Expected::Sha256(_) | Expected::Recorded | Expected::Listed(_) => Ok(()),
        }
    }
}

/// One file to take in.
#[derive(Clone, PartialEq, Debug)]
pub struct Piece {
    /// The part it plays.
    pub part: Part,
    /// Where it comes from.
    pub source: Source,
    /// What its bytes must be.
    pub expected: Expected,
    /// The format that is said.
    pub format: Option<SourceFormat>,
}

/// An import as it will be done.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The image's name.
    pub name: String,
    /// Other names that will stand for it.
    pub aliases: Vec<String>,
    /// Its files.
    pub pieces: Vec<Piece>,
    /// What it is like.
    pub shape: Shape,
    /// Where it comes from, for people.
    pub source: String,
}

/// What an image is like, with everything filled in but the size that its disk needs.
#[derive(Clone, PartialEq, Debug)]
pub struct Shape {
    /// The processor architecture.
    pub arch: String,
    /// The kernel's command line.
    pub cmdline: String,
    /// What starts a whole disk.
    pub firmware: Option<Firmware>,
    /// Amounts; `disk_gib` is what was said, or the default.
    pub defaults: ImageDefaults,
    /// Whether `disk_gib` was said: then it is not raised to what the disk needs.
    pub disk_said: bool,
    /// When machines are ready.
    pub ready: Readiness,
}

impl NewShape {
    fn fill(&self) -> Result<Shape, Refusal> {
        let arch = self.arch.clone().unwrap_or_else(|| "x86_64".to_owned());
        if arch.is_empty() || arch.len() > 32 || !arch.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(Refusal::field("arch", "an architecture is a word such as x86_64"));
        }
        let cmdline = self.cmdline.clone().unwrap_or_default();
        if cmdline.len() > PLACE_LIMIT || cmdline.chars().any(char::is_control) {
            return Err(Refusal::field("cmdline", format!("one line of at most {PLACE_LIMIT} bytes")));
        }
        let within = |field: &str, said: Option<i64>, default: i64, most: i64| match said.unwrap_or(default) {
            amount if (1..=most).contains(&amount) => Ok(amount),
            amount => Err(Refusal::field(field, format!("{amount} is not between 1 and {most}"))),
        };
        let defaults = ImageDefaults {
            vcpus: within("vcpus", self.vcpus, DEFAULTS.vcpus, MOST.vcpus)?,
            memory_mib: within("memory_mib", self.memory_mib, DEFAULTS.memory_mib, MOST.memory_mib)?,
            disk_gib: within("disk_gib", self.disk_gib, DEFAULTS.disk_gib, MOST.disk_gib)?,
        };
        let ready = self.ready.clone().unwrap_or(Readiness::Auto);
        ready.check()?;
        Ok(Shape { arch, cmdline, firmware: self.firmware, defaults, disk_said: self.disk_gib.is_some(), ready })
    }
}

impl NewImport {
    /// How it will be done.
    ///
    /// # Errors
    /// When it does not say what to import, or says it twice, or what it says cannot be.
    pub fn plan(&self, name: &str, catalogue: &Catalogue) -> Result<Plan, Refusal> {
        check_name(name)?;
        let ways = [self.url.is_some(), self.file.is_some(), self.catalogue.is_some(), !self.parts.is_empty()];
        if ways.iter().filter(|way| **way).count() != 1 {
            let detail = "say exactly one of `url`, `file`, `catalogue` and `parts`";
            return Err(Refusal::new(Code::ValidationError, detail));
        }
        if let Some(known) = &self.catalogue {
            return self.plan_known(name, catalogue.find(known)?);
        }
        let pieces = match self.parts.is_empty() {
            true => vec![self.whole_disk()?],
            false => self.pieces()?,
        };
        let source = pieces.iter().map(|piece| place(&piece.source)).collect::<Vec<_>>().join(", ");
        Ok(Plan { name: name.to_owned(), aliases: Vec::new(), pieces, shape: self.image.fill()?, source })
    }

    fn plan_known(&self, name: &str, known: &KnownImage) -> Result<Plan, Refusal> {
        if self.sha256.is_some() || self.format.is_some() || self.image.firmware.is_some() {
            let detail = "the catalogue says digest, format and firmware; leave them out, or import by `url`";
            return Err(Refusal::field("catalogue", detail));
        }
        let piece = Piece {
            part: Part::Disk,
            source: Source::Url(known.url.clone()),
            expected: known.expected(),
            format: known.format,
        };
        let ready = self.image.ready.clone().or_else(|| known.ready.clone()).unwrap_or(Readiness::CloudInit);
        let shape = NewShape { firmware: known.firmware, ready: Some(ready), ..self.image.clone() }.fill()?;
        let aliases = known.aliases.iter().filter(|alias| *alias != name).cloned().collect();
        let source = format!("catalogue {}: {}", known.name, shown(&known.url));
        Ok(Plan { name: name.to_owned(), aliases, pieces: vec![piece], shape, source })
    }

    fn whole_disk(&self) -> Result<Piece, Refusal> {
        let source = PartSource { url: self.url.clone(), file: self.file.clone(), ..PartSource::default() };
        if self.image.cmdline.is_some() {
            return Err(Refusal::field("cmdline", "a whole disk brings its own; leave it out"));
        }
        Ok(Piece {
            part: Part::Disk,
            source: source.place("")?,
            expected: self.sha256.clone().map_or(Expected::Recorded, Expected::Sha256),
            format: self.format,
        })
    }

    fn pieces(&self) -> Result<Vec<Piece>, Refusal> {
        if self.sha256.is_some() || self.format.is_some() {
            return Err(Refusal::field("parts", "each part has a sha256 and a format of its own; say them there"));
        }
        let piece = |(part, source): (&Part, &PartSource)| {
            let field = format!("parts.{}", part.file_name());
            if *part != Part::Rootfs && *part != Part::Disk && source.format.is_some() {
                return Err(Refusal::field(&format!("{field}.format"), "only a disk has a format"));
            }
            Ok(Piece {
                part: *part,
                source: source.place(&format!("{field}."))?,
                expected: source.sha256.clone().map_or(Expected::Recorded, Expected::Sha256),
                format: source.format,
            })
        };
        self.parts.iter().map(piece).collect()
    }
}

/// How an upload becomes an image.
///
/// # Errors
/// When what is said of it cannot be.
pub fn plan_upload(
    name: &str,
    sha256: Option<Sha256Hex>,
    format: Option<SourceFormat>,
    shape: &NewShape,
) -> Result<Plan, Refusal> {
    check_name(name)?;
    let expected = sha256.map_or(Expected::Recorded, Expected::Sha256);
    let piece = Piece { part: Part::Disk, source: Source::Upload, expected, format };
    let shape = shape.fill()?;
    Ok(Plan { name: name.to_owned(), aliases: Vec::new(), pieces: vec![piece], shape, source: "upload".to_owned() })
}

impl PartSource {
    fn place(&self, prefix: &str) -> Result<Source, Refusal> {
        match (&self.url, &self.file, &self.blob) {
            (Some(url), None, None) => Ok(Source::Url(line(&format!("{prefix}url"), url)?)),
            (None, Some(file), None) => Ok(Source::File(line(&format!("{prefix}file"), file)?)),
            (None, None, Some(blob)) => Ok(Source::Blob(blob.clone())),
            _ => Err(Refusal::field(prefix.trim_end_matches('.'), "say exactly one of `url`, `file` and `blob`")),
        }
    }
}

fn line(field: &str, text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.len() > PLACE_LIMIT || text.chars().any(char::is_control) {
        return Err(Refusal::field(field, format!("one line of 1 to {PLACE_LIMIT} bytes")).with("value", excerpt(text)));
    }
    Ok(text.to_owned())
}

/// An address for people: its host and the name of the file. What is between, and its query, may hold a secret.
pub fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = plain.split_once("://") else { return plain.to_owned() };
    match (rest.split_once('/'), rest.rsplit_once('/')) {
        (Some((host, path)), Some((_, last))) if path.contains('/') => format!("{scheme}://{host}/…/{last}"),
        _ => plain.to_owned(),
    }
}

/// A source for people.
fn place(source: &Source) -> String {
    match source {
        Source::Upload => "upload".to_owned(),
        Source::Url(url) => shown(url),
        Source::File(file) => file.clone(),
        Source::Blob(sha256) => format!("blob {sha256}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(body: serde_json::Value) -> Result<Plan, Refusal> {
        crate::api::strict::<NewImport>(&body)?.plan("web", &Catalogue::default())
    }

    #[test]
    fn an_import_says_one_thing() {
        let sha = "ab".repeat(32);
        for (body, word) in [
            (json!({}), "exactly one"),
            (json!({"url": "http://x/a", "file": "/a"}), "exactly one"),
            (json!({"url": ""}), "url"),
            (json!({"url": "http://x/\n"}), "url"),
            (json!({"url": "http://x/a", "image": {"cmdline": "quiet"}}), "cmdline"),
            (json!({"url": "http://x/a", "image": {"disk_gib": 0}}), "disk_gib"),
            (json!({"url": "http://x/a", "image": {"memory_mib": 1u64 << 40}}), "memory_mib"),
            (json!({"url": "http://x/a", "image": {"arch": "a b"}}), "arch"),
            (json!({"url": "http://x/a", "image": {"colour": "red"}}), "colour"),
            (json!({"parts": {"kernel": {}}}), "parts.kernel"),
            (json!({"parts": {"kernel": {"url": "http://x/k", "format": "raw"}}}), "parts.kernel.format"),
            (json!({"parts": {"kernel": {"url": "http://x/k"}}, "sha256": sha}), "parts"),
            (json!({"catalogue": "no-such"}), "no-such"),
            (json!({"catalogue": "debian-12", "sha256": sha}), "catalogue"),
        ] {
            let refusal = plan(body.clone()).unwrap_err();
            assert!(refusal.detail.contains(word), "{body}: {refusal}");
        }
        assert!(
            NewImport { url: Some("http://x/a".into()), ..NewImport::default() }
                .plan("a/b", &Catalogue::default())
                .is_err()
        );
    }

    #[test]
    fn what_may_be_secret_in_an_address_is_not_shown() {
        let plan = plan(json!({"url": "https://x/a.qcow2?token=secret"})).unwrap();
        assert_eq!(plan.source, "https://x/a.qcow2");
        assert_eq!(shown("https://x:1/share/s3cret/a.qcow2#b"), "https://x:1/…/a.qcow2");
        assert_eq!(shown("https://x"), "https://x");
        assert_eq!(plan.pieces[0].source, Source::Url("https://x/a.qcow2?token=secret".into()));
    }

    #[test]
    fn a_name_of_the_catalogue_brings_its_vendors_digests_and_names() {
        let plan = plan(json!({"catalogue": "rocky-10"})).unwrap();
        assert!(matches!(&plan.pieces[0].expected, Expected::Listed(url) if url.starts_with("https://")));
        assert!(plan.aliases.contains(&"Rocky-10-GenericCloud-Base.latest".to_owned()));
        assert_eq!(plan.shape.ready, Readiness::CloudInit, "whether it has the guest agent or not");
        let own = self::plan(json!({"catalogue": "rocky-10", "image": {"ready": "guest_agent"}})).unwrap();
        assert_eq!(own.shape.ready, Readiness::GuestAgent);
    }
}
