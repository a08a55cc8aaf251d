//! The image `default`: made of the kernel, the root disk and the initial RAM file system that `server` and `dev` are told.
//! Machines that name no image are made of it. And whatever else machines get that do not say it.
//!
//! ```text
//! configured ─► must be there ──┐
//! built in   ─► may be there  ──┴► as at the last start? ─ yes ─► nothing
//!                                                        └ no ──► imported as any file is, with the same checks
//! ```
//!
//! What somebody configured and cannot be taken in ends the start, and takes its name from whatever has it. What is built in
//! was asked for by nobody: the server starts without it, and it leaves its name to another image. Where none has that name,
//! machines that name no image are made of what they would be made of without the files.
//!
//! What an import made is found by its digest: files that were only touched make no second image.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use hostler_control::Server;
use hostler_model::{
    ImageDigest, TenantId,
    defaults::{self, Defaults},
    disk::SourceFormat,
    image::Part,
    import::{ImportState, NewImport, NewShape, PartSource},
};
use hostler_store::Origin;
use hostler_trust::file::{read_private, write_private};
use serde::{Deserialize, Serialize};

use crate::{
    exit::{Exit, Failure},
    settings::MachineDefaults,
};

/// Its name.
pub const NAME: &str = "default";
/// Where it is noted what it was made of, in the data folder.
const NOTE: &str = "default-image.json";

/// A file as it was seen.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Seen {
    path: PathBuf,
    bytes: u64,
    changed_ns: u128,
}

/// What it is to be made of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DefaultImage {
    #[serde(default)]
    origin: Origin,
    files: Vec<Seen>,
    import: NewImport,
}

/// What it was made of, and what came of it.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    made_of: DefaultImage,
    image: ImageDigest,
}

/// Whether there is an image of its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// There is: this one, or another that the name was left to.
    In,
    /// There is none.
    Not,
}

impl DefaultImage {
    /// What the settings name. None where nothing is named, and where what is built in is not there. `called` is how a key
    /// is called where it is complained of.
    pub fn of(settings: &MachineDefaults, called: fn(&str) -> String) -> Result<Option<DefaultImage>, Failure> {
        let (usual, image) = (MachineDefaults::default(), shape(settings, called)?);
        let named = [
            (Part::Kernel, "default_kernel", &settings.default_kernel, &usual.default_kernel),
            (Part::Rootfs, "default_rootfs", &settings.default_rootfs, &usual.default_rootfs),
            (Part::Initrd, "default_initramfs", &settings.default_initramfs, &usual.default_initramfs),
        ];
        let mut found = Vec::new();
        for (part, key, path, usual) in named {
            found.extend(look(&called(key), path, usual)?.map(|seen| (part, seen)));
        }
        let configured = named.iter().find(|(.., path, usual)| path != usual && !path.as_os_str().is_empty());
        let lacks = |part| !found.iter().any(|(found, _)| *found == part);
        if lacks(Part::Kernel) || lacks(Part::Rootfs) {
            return match configured {
                None => Ok(None),
                Some((_, key, ..)) => Err(Failure::usage(format!(
                    "{} is said, and no image can be made of it: it takes {} and {}",
                    called(key),
                    called("default_kernel"),
                    called("default_rootfs")
                ))
                .help("name both, or neither; for a server `hostler config show` says whence each is")),
            };
        }
        let import = NewImport {
            parts: found.iter().map(|(part, seen)| (*part, source(*part, seen))).collect(),
            image,
            ..NewImport::default()
        };
        let origin = configured.map_or(Origin::Shipped, |_| Origin::Asked);
        Ok(Some(DefaultImage { origin, files: found.into_iter().map(|(_, seen)| seen).collect(), import }))
    }

    /// Its files, for those that let files in.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|seen| seen.path.clone()).collect()
    }

    /// Takes it in, unless that was done before and the image is still there.
    pub async fn take_in(&self, data: &Path, server: &Server) -> Result<Taken, Failure> {
        match self.import(data, server).await {
            Err(failure) if self.origin == Origin::Shipped => {
                let why: Vec<String> = failure.lines().into_iter().map(|(_, line)| line).collect();
                tracing::warn!(why = why.join("; "), "the server starts without the image that is built in");
                let other = server.app().store.image_by_name(TenantId::DEFAULT, NAME.to_owned()).await;
                let other = other.map_err(|error| Failure::new(Exit::Failed, error))?;
                Ok(other.map_or(Taken::Not, |_| Taken::In))
            }
            taken => taken.map(|()| Taken::In),
        }
    }

    async fn import(&self, data: &Path, server: &Server) -> Result<(), Failure> {
        let (app, path) = (server.app(), data.join(NOTE));
        let failed = |error: &dyn std::fmt::Display| {
            let files: Vec<String> = self.files.iter().map(|seen| seen.path.display().to_string()).collect();
            let what = format!("the default image cannot be made of {}: {error}", files.join(", "));
            Failure::new(Exit::Failed, what)
                .help("mend the files, or say \"\" for default_kernel and default_rootfs to do without")
        };
        let note: Option<Note> = read_private(&path).ok().flatten().and_then(|text| serde_json::from_str(&text).ok());
        if let Some(note) = note.filter(|note| note.made_of == *self)
            && app.store.image_of(TenantId::DEFAULT, note.image).await.map_err(|e| failed(&e))?.is_some()
        {
            return Ok(());
        }
        tracing::info!(image = NAME, files = ?self.files(), "the default image is taken in");
        let import = app.import_configured(NAME, &self.import, self.origin).await.map_err(|e| failed(&e))?;
        let (ImportState::Succeeded, Some(image)) = (import.state, import.image) else {
            let why = import.error.map_or_else(|| import.state.as_str().to_owned(), |error| error.detail);
            return Err(failed(&why));
        };
        let shipped = app.store.shipped_image(TenantId::DEFAULT, image.clone()).await.map_err(|e| failed(&e))?;
        if self.origin == Origin::Shipped && shipped.is_some_and(|shipped| !shipped.named) {
            tracing::warn!(name = NAME, digest = image.0, "the name stands for another image, and is left to it");
        }
        let note = serde_json::to_vec(&Note { made_of: self.clone(), image }).map_err(|e| failed(&e))?;
        write_private(&path, &note).map_err(|e| failed(&e))
    }
}

/// What machines get that do not say it, where there may be this image.
pub fn defaults(
    settings: &MachineDefaults,
    image: Option<&DefaultImage>,
    called: fn(&str) -> String,
) -> Result<Defaults, Failure> {
    let said = |amount: u32| Some(i64::from(amount)).filter(|amount| *amount > 0);
    let image = match settings.default_image.as_str() {
        "" if image.is_some() => NAME,
        "" => defaults::IMAGE,
        named => named,
    };
    let defaults = Defaults {
        image: image.to_owned(),
        vcpus: said(settings.default_vcpus),
        memory_mib: said(settings.default_memory_mib),
        disk_gib: said(settings.default_disk_gib),
        ..Defaults::default()
    };
    let wrong = |refusal: hostler_model::Refusal| {
        let field = refusal.facts.get("field").and_then(|field| field.as_str()).unwrap_or_default();
        let said = refusal.detail.strip_prefix(field).unwrap_or(&refusal.detail);
        Failure::usage(format!("{}{said}", called(field)))
    };
    defaults.check().map_err(wrong)?;
    Ok(defaults)
}

/// Without an image `default` machines that name none are made of what they would be made of without its files.
pub fn do_without(taken: Taken, settings: &MachineDefaults, server: &Server) {
    let app = server.app();
    if taken == Taken::Not && settings.default_image.is_empty() {
        let without = Defaults { image: defaults::IMAGE.to_owned(), ..app.defaults() };
        tracing::warn!(image = without.image, "machines that name no image are made of this one");
        app.set_defaults(without);
    }
}

/// A file that a key names. One that is built in may be missing, or be nobody's to read; one that somebody configured
/// may not.
fn look(key: &str, path: &Path, usual: &Path) -> Result<Option<Seen>, Failure> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    // Somebody else's file may be seen, and not be read.
    let found = fs::metadata(path).and_then(|found| match found.is_file() {
        true => fs::File::open(path).map(|_| found),
        false => Ok(found),
    });
    let why = match found {
        Ok(found) if found.is_file() => {
            let changed = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let changed_ns = changed.unwrap_or_default().as_nanos();
            return Ok(Some(Seen { path: path.to_owned(), bytes: found.len(), changed_ns }));
        }
        Ok(_) => "it is no regular file".to_owned(),
        Err(error) if path == usual && error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => error.to_string(),
    };
    if path == usual {
        tracing::warn!(path = %path.display(), why, "a file of the default image cannot be used");
        return Ok(None);
    }
    Err(Failure::usage(format!("{key}: {}: {why}", path.display()))
        .help("name a file on this server that its user can read, or say \"\" to do without"))
}

/// The root disk's format is what its name says, and raw where it says nothing; what its first bytes say must agree.
fn source(part: Part, seen: &Seen) -> PartSource {
    let name = seen.path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    let format = match name {
        "qcow2" => SourceFormat::Qcow2,
        "vmdk" => SourceFormat::Vmdk,
        "vhdx" => SourceFormat::Vhdx,
        "gz" => SourceFormat::RawGz,
        _ => SourceFormat::Raw,
    };
    PartSource {
        file: Some(seen.path.display().to_string()),
        format: (part == Part::Rootfs).then_some(format),
        ..PartSource::default()
    }
}

fn shape(settings: &MachineDefaults, called: fn(&str) -> String) -> Result<NewShape, Failure> {
    let ready = settings.default_ready.parse();
    let ready = ready.map_err(|refusal: hostler_model::Refusal| {
        Failure::usage(format!("{}: {}", called("default_ready"), refusal.detail))
    })?;
    Ok(NewShape { cmdline: Some(settings.default_cmdline.clone()), ready: Some(ready), ..NewShape::default() })
}

#[cfg(test)]
mod tests {
    use hostler_control::{RateLimits, Sources};
    use hostler_model::{catalogue::Catalogue, event::Actor, node::FreshnessPolicy, placement::Policy};
    use serde_json::json;

    use super::*;
    use crate::{
        service::{self, Opening},
        settings::{as_flag, in_file},
    };

    fn of(settings: &MachineDefaults) -> Result<Option<DefaultImage>, Failure> {
        DefaultImage::of(settings, in_file)
    }

    fn settings(dir: &Path, files: &[&str]) -> MachineDefaults {
        for file in files {
            fs::write(dir.join(file), file).unwrap();
        }
        MachineDefaults {
            default_kernel: dir.join("kernel"),
            default_rootfs: dir.join("rootfs.ext4"),
            default_initramfs: PathBuf::new(),
            ..MachineDefaults::default()
        }
    }

    #[test]
    fn what_is_configured_must_be_there_and_what_is_built_in_need_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(&MachineDefaults::default()).unwrap(), None);
        let none = settings(dir.path(), &[]);
        let failure = of(&none).unwrap_err();
        assert!(failure.lines()[0].1.contains("server.default_kernel") && failure.exit == Exit::Usage);
        let failure = DefaultImage::of(&none, as_flag).unwrap_err();
        assert!(failure.lines()[0].1.starts_with("--default-kernel: "), "{:?}", failure.lines());
        let both = settings(dir.path(), &["kernel", "rootfs.ext4"]);
        let image = of(&both).unwrap().unwrap();
        assert_eq!(image.import.parts[&Part::Rootfs].format, Some(SourceFormat::Raw));
        assert_eq!((image.files().len(), image.import.parts.len()), (2, 2));
        assert!(image.import.plan(NAME, &Catalogue::default()).is_ok());
        let alone = MachineDefaults { default_rootfs: PathBuf::new(), ..both.clone() };
        assert!(of(&alone).unwrap_err().lines()[0].1.contains("default_rootfs"));
        let initrd = MachineDefaults { default_initramfs: dir.path().join("none"), ..both };
        assert!(of(&initrd).is_err());
    }

    /// A server that lets no file in.
    async fn opened(data: &Path, defaults: Defaults) -> Server {
        let lease = std::time::Duration::from_secs(30);
        let sources = Sources::default();
        let shared = service::Shared::default();
        let opening = Opening {
            data,
            shared,
            issuer: "test",
            lease,
            freshness: FreshnessPolicy::default(),
            placement: Policy::default(),
            history: None,
            sources,
            defaults,
            names: Vec::new(),
            node_validity: lease,
            broker: None,
            oidc: None,
            rates: RateLimits::default(),
        };
        service::open(opening).await.unwrap()
    }

    #[tokio::test]
    async fn what_cannot_be_taken_in_ends_the_start_only_where_somebody_configured_it() {
        let dir = tempfile::tempdir().unwrap();
        let server = opened(dir.path(), Defaults::default()).await;
        let configured = of(&settings(dir.path(), &["kernel", "rootfs.ext4"])).unwrap().unwrap();
        assert_eq!(configured.origin, Origin::Asked);
        let failure = configured.take_in(dir.path(), &server).await.unwrap_err();
        assert!(failure.lines()[0].1.contains("rootfs.ext4"), "{:?}", failure.lines());
        let built_in = DefaultImage { origin: Origin::Shipped, ..configured };
        assert_eq!(built_in.take_in(dir.path(), &server).await.unwrap(), Taken::Not);
        // Another image has the name.
        let file = json!({"sha256": "ab".repeat(32), "size": 1});
        let manifest = json!({
            "name": NAME, "arch": "x86_64", "files": {"kernel": file, "rootfs": file}, "cmdline": "",
            "defaults": {"vcpus": 1, "memory_mib": 128, "disk_gib": 1}, "ready": "guest_agent",
        });
        let (store, manifest) = (&server.app().store, serde_json::from_value(manifest).unwrap());
        store.put_image(TenantId::DEFAULT, manifest, Vec::new(), Actor::system()).await.unwrap().unwrap();
        assert_eq!(built_in.take_in(dir.path(), &server).await.unwrap(), Taken::In);
    }

    #[test]
    fn files_that_changed_are_another_image() {
        let dir = tempfile::tempdir().unwrap();
        let both = settings(dir.path(), &["kernel", "rootfs.ext4"]);
        let before = of(&both).unwrap();
        assert_eq!(before, of(&both).unwrap());
        fs::write(dir.path().join("kernel"), "another kernel").unwrap();
        assert_ne!(before, of(&both).unwrap());
        let ready = MachineDefaults { default_ready: "soon".into(), ..both };
        assert!(of(&ready).unwrap_err().lines()[0].1.contains("default_ready"));
    }

    #[test]
    fn machines_that_do_not_say_get_what_the_configuration_says() {
        let of = |settings: &MachineDefaults| defaults(settings, None, in_file);
        assert_eq!(of(&MachineDefaults::default()).unwrap(), Defaults::default());
        let named = MachineDefaults { default_image: "house".into(), default_vcpus: 2, ..MachineDefaults::default() };
        let named = of(&named).unwrap();
        assert_eq!((named.image.as_str(), named.vcpus, named.memory_mib), ("house", Some(2), None));
        let absurd = MachineDefaults { default_memory_mib: 8, ..MachineDefaults::default() };
        let failure = of(&absurd).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.lines()[0].1.starts_with("server.default_memory_mib: 8"), "{:?}", failure.lines());
    }

    #[tokio::test]
    async fn machines_that_name_no_image_do_not_wait_for_one_that_cannot_be_taken_in() {
        let dir = tempfile::tempdir().unwrap();
        let usual = Defaults { vcpus: Some(2), ..Defaults::default() };
        let server = opened(dir.path(), Defaults { image: NAME.to_owned(), ..usual.clone() }).await;
        let image = || server.app().defaults().image;
        let settings = MachineDefaults { default_vcpus: 2, ..MachineDefaults::default() };
        do_without(Taken::In, &settings, &server);
        assert_eq!(image(), NAME);
        let named = MachineDefaults { default_image: NAME.into(), ..settings.clone() };
        do_without(Taken::Not, &named, &server);
        assert_eq!(image(), NAME, "somebody named it");
        do_without(Taken::Not, &settings, &server);
        assert_eq!(server.app().defaults(), usual);
    }
}
