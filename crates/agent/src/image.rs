//! The image cache: `<data>/images/<digest>/{manifest.json, kernel, initrd, rootfs | disk}`, fetched from the server, each
//! file checked against its digest, the whole folder there or not at all.
//!
//! ```text
//! manifest ──its digest is the one asked for──► .<digest>.part/<file>… ──size and sha256──► header ──► fsync ──rename──► <digest>/
//!                                                 └── broken off: kept, and gone on with the next time, also by the next agent
//! ```
//!
//! Concurrent requests for one image fetch it once. What is wrong leaves nothing; a folder that lacks a file is none, and
//! is fetched again. An image that a machine is made of, or is being made of, is never removed.

mod collect;
mod fetch;

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hostler_db::Mode;
use hostler_model::{
    ImageDigest,
    disk::{self, Unfit},
    error::Code,
    image::{DiskFormat, Manifest, Part, Sha256Hex},
};

pub use self::collect::{collect, used};
use crate::{
    blocking,
    handler::Failure,
    host::file::{present, sync_folder},
    server::Server,
};

/// The manifest's file within an image's folder. When it changed last is when the image was used last.
const MANIFEST: &str = "manifest.json";
/// How the name of a folder ends that is being filled.
const PART: &str = ".part";
/// How the name of a folder ends that is being removed.
const GONE: &str = ".gone";
/// What was begun so long ago is not gone on with.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);

/// An image in the cache. While it lives, the image is not removed.
#[derive(Clone, Debug)]
pub struct CachedImage {
    /// What it is.
    pub manifest: Manifest,
    /// The folder that holds its files by the names of their parts.
    pub dir: PathBuf,
    /// Whether it was fetched just now.
    pub fetched: bool,
    _pin: Arc<Pin>,
}

/// The cache. Clones share it.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    mode: Mode,
    server: std::sync::OnceLock<Server>,
    /// One lock for each image that is being fetched or removed: who comes second finds it there.
    flights: Mutex<HashMap<ImageDigest, Arc<tokio::sync::Mutex<()>>>>,
    /// Images that somebody is about to make a machine of, and how many do.
    pins: Mutex<HashMap<ImageDigest, usize>>,
}

/// Somebody's hold of an image.
#[derive(Debug)]
struct Pin {
    images: Arc<Inner>,
    digest: ImageDigest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.images.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

/// A place in the queue for one image. The queue is given up with the last place in it, and never while somebody waits:
/// who comes then would begin another beside it.
struct Flight<'a> {
    images: &'a Inner,
    digest: &'a ImageDigest,
    queue: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.images.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and ours. Clones are made under the lock only.
        if Arc::strong_count(&self.queue) <= 2 {
            flights.remove(self.digest);
        }
    }
}

impl Images {
    /// The cache in this folder, which is nobody else's. What a killed agent had begun is gone on with when the image is
    /// asked for again.
    pub fn new(dir: PathBuf, mode: Mode) -> Images {
        tidy(&dir);
        Images(Arc::new(Inner {
            dir,
            mode,
            server: std::sync::OnceLock::new(),
            flights: Mutex::default(),
            pins: Mutex::default(),
        }))
    }

    /// From now on, what is missing comes from there.
    pub fn fetch_from(&self, server: Server) {
        // A second server would be the same one.
        drop(self.0.server.set(server));
    }

    /// The image, fetched if need be. `tell` hears percents while it comes.
    pub async fn get(&self, digest: &ImageDigest, tell: impl Fn(u8) + Send) -> Result<CachedImage, Failure> {
        let dir = self.folder(digest)?;
        let flight = self.flight(digest);
        let _turn = flight.queue.lock().await;
        if let Some(manifest) = self.cached(&dir, digest).await? {
            touch(&dir);
            return Ok(self.pinned(digest, manifest, dir, false));
        }
        let manifest = self.fetch(digest, &dir, tell).await?;
        Ok(self.pinned(digest, manifest, dir, true))
    }

    /// Removes an image, unless it is used; says whether it was here. `used` is asked once nobody can begin to use it.
    pub async fn remove(
        &self,
        digest: &ImageDigest,
        used: impl Future<Output = Result<BTreeSet<ImageDigest>, Failure>>,
    ) -> Result<bool, Failure> {
        let dir = self.folder(digest)?;
        let flight = self.flight(digest);
        let _turn = flight.queue.lock().await;
        if self.is_pinned(digest) || used.await?.contains(digest) {
            let detail = format!("machines on this node are made of the image {digest}; delete them first");
            return Err(Failure { code: Code::ImageInUse, detail, retryable: false });
        }
        let (gone, part) = (self.beside(digest, GONE), self.beside(digest, PART));
        let removed = blocking::run(self.0.mode, move || {
            present(fs::remove_dir_all(part))?;
            let was = present(fs::rename(&dir, &gone))?.is_some();
            present(fs::remove_dir_all(&gone))?;
            Ok(was)
        });
        removed.await.flatten().map_err(|error| storage(digest, &error))
    }

    fn folder(&self, digest: &ImageDigest) -> Result<PathBuf, Failure> {
        let name: Sha256Hex = digest.0.parse().map_err(|_| failed(false, digest, "its digest is not one"))?;
        Ok(self.0.dir.join(name.as_str()))
    }

    fn beside(&self, digest: &ImageDigest, ending: &str) -> PathBuf {
        self.0.dir.join(format!(".{digest}{ending}"))
    }

    fn pinned(&self, digest: &ImageDigest, manifest: Manifest, dir: PathBuf, fetched: bool) -> CachedImage {
        *self.0.pins.lock().unwrap_or_else(PoisonError::into_inner).entry(digest.clone()).or_default() += 1;
        let pin = Arc::new(Pin { images: self.0.clone(), digest: digest.clone() });
        CachedImage { manifest, dir, fetched, _pin: pin }
    }

    fn is_pinned(&self, digest: &ImageDigest) -> bool {
        self.0.pins.lock().unwrap_or_else(PoisonError::into_inner).contains_key(digest)
    }

    fn flight<'a>(&'a self, digest: &'a ImageDigest) -> Flight<'a> {
        let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Flight { images: &self.0, digest, queue: flights.entry(digest.clone()).or_default().clone() }
    }

    /// The images that are in the cache.
    pub fn list(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.0.dir) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let whole = |name: &String| name.parse::<Sha256Hex>().is_ok() && is_whole(&self.0.dir.join(name));
        let mut names: Vec<String> = names.filter(whole).collect();
        names.sort();
        names
    }

    async fn cached(&self, dir: &Path, digest: &ImageDigest) -> Result<Option<Manifest>, Failure> {
        let (folder, named) = (dir.to_owned(), digest.clone());
        let read = blocking::run(self.0.mode, move || read_cached(&folder, &named)).await;
        read.map_err(|error| storage(digest, &error))?
    }

    async fn fetch(&self, digest: &ImageDigest, dir: &Path, tell: impl Fn(u8) + Send) -> Result<Manifest, Failure> {
        let server =
            self.0.server.get().ok_or_else(|| failed(true, digest, "this agent has not joined a server yet"))?;
        let manifest = server.manifest(digest).await.map_err(|error| fetch::unreachable(digest, &error))?;
        if manifest.digest() != *digest {
            return Err(failed(false, digest, "the server sent the manifest of another image"));
        }
        let part = self.beside(digest, PART);
        let whole = async {
            fs::create_dir_all(&part).map_err(|error| storage(digest, &error))?;
            fetch::files(server, digest, &manifest, &part, tell).await?;
            examine(&part, digest, &manifest)?;
            complete(&part, dir, &manifest).map_err(|error| storage(digest, &error))
        };
        let fetched = whole.await;
        if fetched.as_ref().is_err_and(|failure| failure.code == Code::NodeStorageFull) {
            // Others need the room, the journal among them. What cannot be removed now is removed when it has grown old.
            drop(fs::remove_dir_all(&part));
        }
        fetched?;
        tracing::info!(image = %digest, name = manifest.name, "fetched an image");
        Ok(manifest)
    }
}

/// That an image was used just now.
fn touch(dir: &Path) {
    let touched = fs::File::options().append(true).open(dir.join(MANIFEST));
    // Then it is taken for less used than it is, and fetched again some day.
    drop(touched.and_then(|file| file.set_modified(SystemTime::now())));
}

/// Finishes removals, and gives up what nobody has gone on with for long.
fn tidy(images: &Path) {
    for entry in fs::read_dir(images).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let old = || entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(is_stale);
        let goes = name.starts_with('.') && (name.ends_with(GONE) || (name.ends_with(PART) && old()));
        if goes && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "what is left of an image cannot be removed");
        }
    }
}

fn is_stale(changed: SystemTime) -> bool {
    SystemTime::now().duration_since(changed).is_ok_and(|age| age > STALE)
}

fn is_whole(dir: &Path) -> bool {
    let manifest = fs::read(dir.join(MANIFEST)).ok();
    let manifest = manifest.and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
    manifest.is_some_and(|manifest| matches!(lacking(dir, &manifest), Ok(None)))
}

/// The first file that is not there, or not as long as the manifest says. Digests are checked once, when it is fetched.
fn lacking(dir: &Path, manifest: &Manifest) -> io::Result<Option<Part>> {
    for (part, file) in &manifest.files {
        match present(fs::metadata(dir.join(part.file_name())))? {
            Some(metadata) if metadata.is_file() && metadata.len() == file.size => {}
            Some(_) | None => return Ok(Some(*part)),
        }
    }
    Ok(None)
}

fn read_cached(dir: &Path, digest: &ImageDigest) -> Result<Option<Manifest>, Failure> {
    let text = match fs::read(dir.join(MANIFEST)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(storage(digest, &error)),
    };
    let manifest: Option<Manifest> = serde_json::from_slice(&text).ok();
    let Some(manifest) = manifest.filter(|manifest| manifest.digest() == *digest) else {
        let detail = format!("its folder {} was changed; remove it, and it is fetched again", dir.display());
        return Err(failed(false, digest, &detail));
    };
    match lacking(dir, &manifest).map_err(|error| storage(digest, &error))? {
        None => Ok(Some(manifest)),
        Some(part) => {
            tracing::warn!(image = %digest, file = part.file_name(), "a cached image lacks a file; it is fetched again");
            Ok(None)
        }
    }
}

fn complete(part: &Path, dir: &Path, manifest: &Manifest) -> io::Result<()> {
    crate::host::file::write_durably(&part.join(MANIFEST), &serde_json::to_vec_pretty(manifest)?)?;
    sync_folder(part)?;
    // A folder that lacked a file. Machines that run on its other files have them open, and find the same ones here.
    let broken = part.with_extension(GONE.trim_start_matches('.'));
    if present(fs::rename(dir, &broken))?.is_some() {
        fs::remove_dir_all(&broken)?;
    }
    fs::rename(part, dir)?;
    sync_folder(dir.parent().unwrap_or(dir))
}

/// Looks at the disk before anything opens it. The server did so too; a node need not believe that.
fn examine(folder: &Path, image: &ImageDigest, manifest: &Manifest) -> Result<(), Failure> {
    let Some((part, file)) = manifest.root() else { return Ok(()) };
    match inspect(&folder.join(part.file_name()), file.format.unwrap_or(DiskFormat::Raw)) {
        Ok(_) => Ok(()),
        Err(Unfit::Read(error)) => Err(storage(image, &error)),
        Err(Unfit::Refused(why)) => {
            // It will not become better by waiting.
            drop(fs::remove_dir_all(folder));
            let detail = format!("the {} of the image {image} must not be opened: {why}", part.file_name());
            Err(Failure { code: Code::ImageUnsafe, detail, retryable: false })
        }
    }
}

/// Reads what a disk's file says of itself, in the format that its manifest says, and gives the size that a guest sees.
///
/// # Errors
/// When it cannot be read, or must not be opened by QEMU.
pub fn inspect(path: &Path, format: DiskFormat) -> Result<u64, Unfit> {
    disk::inspect(format.into(), &mut fs::File::open(path)?)
}

fn failed(retryable: bool, image: &ImageDigest, why: &str) -> Failure {
    Failure { code: Code::ImageFetchFailed, detail: format!("the image {image} cannot be used: {why}"), retryable }
}

fn storage(image: &ImageDigest, error: &io::Error) -> Failure {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let code = if full { Code::NodeStorageFull } else { Code::ImageFetchFailed };
    Failure {
        code,
        detail: format!("the image {image} cannot be written to this node's disk: {error}"),
        retryable: true,
    }
}

#[cfg(test)]
mod tests;
