//! The image cache: `<data>/images/<digest>/{manifest.json, kernel, initrd, rootfs}`, fetched from the server, each file
//! checked against its digest, the whole folder there or not at all.
//!
//! ```text
//! manifest ──its digest is the one asked for──► .<digest>.<n>.part/<file>… ──size and sha256──► fsync ──rename──► <digest>/
//! ```
//!
//! Concurrent requests for one image fetch it once. What is wrong or cut short leaves nothing; a folder that lacks a
//! file is none, and is fetched again. Never here: when to throw an image away.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use hostler_link::{LinkError, chunks};
use hostler_model::{
    ImageDigest,
    disk::{self, Unfit},
    error::Code,
    image::{DiskFormat, ImageFile, Manifest, Part, Sha256Hex},
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::{
    handler::Failure,
    host::file::{present, sync_folder},
    server::Server,
};

/// The manifest's file within an image's folder.
const MANIFEST: &str = "manifest.json";
/// How the name of a folder ends that is being filled.
const PART: &str = ".part";
/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(30);

/// An image in the cache.
#[derive(Clone, Debug)]
pub struct CachedImage {
    /// What it is.
    pub manifest: Manifest,
    /// The folder that holds its files by the names of their parts.
    pub dir: PathBuf,
    /// Whether it was fetched just now.
    pub fetched: bool,
}

/// The cache. Clones share it.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    server: std::sync::OnceLock<Server>,
    /// One lock for each image that is being fetched: who comes second finds it there.
    flights: Mutex<HashMap<ImageDigest, Arc<tokio::sync::Mutex<()>>>>,
    /// How many folders were begun: no two have one name.
    parts: AtomicU64,
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

/// How much of an image has come.
struct Gauge<F> {
    of: u64,
    got: u64,
    said: u8,
    tell: F,
}

impl<F: Fn(u8) + Send> Gauge<F> {
    fn add(&mut self, bytes: usize) {
        self.got = self.got.saturating_add(bytes as u64);
        let percent = self.got.saturating_mul(100).checked_div(self.of).unwrap_or(100).min(100) as u8;
        if percent != self.said {
            self.said = percent;
            (self.tell)(percent);
        }
    }
}

impl Images {
    /// The cache in this folder, which is nobody else's. What a killed agent had begun is not continued: it may end
    /// anywhere.
    pub fn new(dir: PathBuf) -> Images {
        remove_parts(&dir);
        Images(Arc::new(Inner {
            dir,
            server: std::sync::OnceLock::new(),
            flights: Mutex::default(),
            parts: AtomicU64::new(0),
        }))
    }

    /// From now on, what is missing comes from there.
    pub fn fetch_from(&self, server: Server) {
        // A second server would be the same one.
        drop(self.0.server.set(server));
    }

    /// The image, fetched if need be. `tell` hears percents while it comes.
    pub async fn get(&self, digest: &ImageDigest, tell: impl Fn(u8) + Send) -> Result<CachedImage, Failure> {
        let name: Sha256Hex = digest.0.parse().map_err(|_| failed(false, digest, "its digest is not one"))?;
        let dir = self.0.dir.join(name.as_str());
        let flight = self.flight(digest);
        let _turn = flight.queue.lock().await;
        if let Some(image) = cached(&dir, digest).await? {
            return Ok(image);
        }
        self.fetch(digest, &dir, tell).await
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

    async fn fetch(&self, digest: &ImageDigest, dir: &Path, tell: impl Fn(u8) + Send) -> Result<CachedImage, Failure> {
        let server =
            self.0.server.get().ok_or_else(|| failed(true, digest, "this agent has not joined a server yet"))?;
        let manifest = server.manifest(digest).await.map_err(|error| unreachable(digest, &error))?;
        if manifest.digest() != *digest {
            return Err(failed(false, digest, "the server sent the manifest of another image"));
        }
        let part = self.part(digest).map_err(|error| storage(digest, &error))?;
        let of = manifest.files.values().map(|file| file.size).sum();
        let mut gauge = Gauge { of, got: 0, said: 0, tell };
        for (role, file) in &manifest.files {
            download(server, digest, *role, file, &part.0, &mut gauge).await?;
        }
        examine(&part.0, digest, &manifest)?;
        complete(&part.0, dir, &manifest).map_err(|error| storage(digest, &error))?;
        tracing::info!(image = %digest, name = manifest.name, bytes = of, "fetched an image");
        Ok(CachedImage { manifest, dir: dir.to_owned(), fetched: true })
    }

    fn part(&self, digest: &ImageDigest) -> io::Result<PartFolder> {
        let n = self.0.parts.fetch_add(1, Ordering::Relaxed);
        let part = PartFolder(self.0.dir.join(format!(".{digest}.{n}{PART}")));
        fs::create_dir_all(&part.0)?;
        Ok(part)
    }
}

/// A folder that is being filled. Dropped before it was renamed, it is removed.
struct PartFolder(PathBuf);

impl Drop for PartFolder {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove.
        drop(fs::remove_dir_all(&self.0));
    }
}

fn remove_parts(images: &Path) {
    for entry in fs::read_dir(images).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with('.') || !name.to_string_lossy().ends_with(PART) {
            continue;
        }
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a half fetched image cannot be removed");
        }
    }
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

async fn cached(dir: &Path, digest: &ImageDigest) -> Result<Option<CachedImage>, Failure> {
    let text = match tokio::fs::read(dir.join(MANIFEST)).await {
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
        None => Ok(Some(CachedImage { manifest, dir: dir.to_owned(), fetched: false })),
        Some(part) => {
            tracing::warn!(image = %digest, file = part.file_name(), "a cached image lacks a file; it is fetched again");
            Ok(None)
        }
    }
}

async fn download<F: Fn(u8) + Send>(
    server: &Server,
    image: &ImageDigest,
    role: Part,
    file: &ImageFile,
    folder: &Path,
    gauge: &mut Gauge<F>,
) -> Result<(), Failure> {
    let mut bytes = chunks(server.blob(&file.sha256).await.map_err(|error| unreachable(image, &error))?.into_body());
    let mut out =
        tokio::fs::File::create(folder.join(role.file_name())).await.map_err(|error| storage(image, &error))?;
    let (mut hash, mut size) = (Sha256::new(), 0u64);
    loop {
        let next = tokio::time::timeout(STALL, bytes.next()).await;
        let next = next.map_err(|_| failed(true, image, "the download stood still"))?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|error| unreachable(image, &error))?;
        size += chunk.len() as u64;
        if size > file.size {
            break;
        }
        hash.update(&chunk);
        out.write_all(&chunk).await.map_err(|error| storage(image, &error))?;
        gauge.add(chunk.len());
    }
    if size != file.size || hex::encode(hash.finalize()) != file.sha256.as_str() {
        let detail = format!("the bytes of its {} are not those of the manifest; nothing was kept", role.file_name());
        return Err(failed(true, image, &detail));
    }
    out.flush().await.map_err(|error| storage(image, &error))?;
    out.sync_all().await.map_err(|error| storage(image, &error))
}

fn complete(part: &Path, dir: &Path, manifest: &Manifest) -> io::Result<()> {
    crate::host::file::write_durably(&part.join(MANIFEST), &serde_json::to_vec_pretty(manifest)?)?;
    sync_folder(part)?;
    // A folder that lacked a file. Machines that run on its other files have them open, and find the same ones here.
    let broken = PartFolder(part.with_extension(format!("broken{PART}")));
    present(fs::rename(dir, &broken.0))?;
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

fn unreachable(image: &ImageDigest, error: &LinkError) -> Failure {
    // A refusal will be repeated; a connection that broke may hold the next time.
    let refused = error.status().is_some_and(|status| status.is_client_error());
    failed(!refused, image, &error.to_string())
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
