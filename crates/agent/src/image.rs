//! The image cache: `<data>/images/<digest>/{manifest.json, kernel, initrd, rootfs}`, fetched from the server, each file
//! checked against its digest, the whole folder there or not at all.
//!
//! ```text
//! manifest ──its digest is the one asked for──► .<digest>.part/<file>… ──size and sha256──► fsync ──rename──► <digest>/
//! ```
//!
//! Concurrent requests for one image fetch it once. What is wrong or cut short leaves nothing. Never here: when to throw
//! an image away.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use hostler_link::{LinkError, chunks};
use hostler_model::{
    ImageDigest,
    error::Code,
    image::{ImageFile, Manifest, Part, Sha256Hex},
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::{handler::Failure, host::file::sync_folder, server::Server};

/// The manifest's file within an image's folder.
const MANIFEST: &str = "manifest.json";
/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(30);

/// An image in the cache.
#[derive(Clone, Debug)]
pub struct CachedImage {
    /// What it is.
    pub manifest: Manifest,
    /// The folder that holds its files by the names of their parts.
    pub dir: PathBuf,
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
    /// The cache in this folder.
    pub fn new(dir: PathBuf) -> Images {
        Images(Arc::new(Inner { dir, server: std::sync::OnceLock::new(), flights: Mutex::default() }))
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
        let _turn = flight.lock().await;
        if let Some(image) = cached(&dir, digest).await? {
            return Ok(image);
        }
        let image = self.fetch(digest, &dir, tell).await;
        self.0.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
        image
    }

    fn flight(&self, digest: &ImageDigest) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.entry(digest.clone()).or_default().clone()
    }

    /// The images that are in the cache.
    pub fn list(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.0.dir) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.parse::<Sha256Hex>().is_ok()).collect();
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
        let part = PartFolder::make(&self.0.dir, digest).map_err(|error| disk(digest, &error))?;
        let of = manifest.files.values().map(|file| file.size).sum();
        let mut gauge = Gauge { of, got: 0, said: 0, tell };
        for (role, file) in &manifest.files {
            download(server, digest, *role, file, &part.0, &mut gauge).await?;
        }
        complete(&part.0, dir, &manifest).map_err(|error| disk(digest, &error))?;
        tracing::info!(image = %digest, name = manifest.name, bytes = of, "fetched an image");
        Ok(CachedImage { manifest, dir: dir.to_owned() })
    }
}

/// A folder that is being filled. Dropped before it was renamed, it is removed.
struct PartFolder(PathBuf);

impl PartFolder {
    fn make(images: &Path, digest: &ImageDigest) -> io::Result<PartFolder> {
        let part = PartFolder(images.join(format!(".{digest}.part")));
        // What a killed agent left is not continued: it may end anywhere.
        match fs::remove_dir_all(&part.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&part.0)?;
        Ok(part)
    }
}

impl Drop for PartFolder {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove.
        drop(fs::remove_dir_all(&self.0));
    }
}

async fn cached(dir: &Path, digest: &ImageDigest) -> Result<Option<CachedImage>, Failure> {
    let text = match tokio::fs::read(dir.join(MANIFEST)).await {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk(digest, &error)),
    };
    let manifest: Option<Manifest> = serde_json::from_slice(&text).ok();
    match manifest.filter(|manifest| manifest.digest() == *digest) {
        Some(manifest) => Ok(Some(CachedImage { manifest, dir: dir.to_owned() })),
        None => {
            let detail = format!("its folder {} was changed; remove it, and it is fetched again", dir.display());
            Err(failed(false, digest, &detail))
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
    let mut out = tokio::fs::File::create(folder.join(role.file_name())).await.map_err(|error| disk(image, &error))?;
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
        out.write_all(&chunk).await.map_err(|error| disk(image, &error))?;
        gauge.add(chunk.len());
    }
    if size != file.size || hex::encode(hash.finalize()) != file.sha256.as_str() {
        let detail = format!("the bytes of its {} are not those of the manifest; nothing was kept", role.file_name());
        return Err(failed(true, image, &detail));
    }
    out.flush().await.map_err(|error| disk(image, &error))?;
    out.sync_all().await.map_err(|error| disk(image, &error))
}

fn complete(part: &Path, dir: &Path, manifest: &Manifest) -> io::Result<()> {
    crate::host::file::write_durably(&part.join(MANIFEST), &serde_json::to_vec_pretty(manifest)?)?;
    sync_folder(part)?;
    fs::rename(part, dir)?;
    sync_folder(dir.parent().unwrap_or(dir))
}

fn failed(retryable: bool, image: &ImageDigest, why: &str) -> Failure {
    Failure { code: Code::ImageFetchFailed, detail: format!("the image {image} cannot be used: {why}"), retryable }
}

fn unreachable(image: &ImageDigest, error: &LinkError) -> Failure {
    // A refusal will be repeated; a connection that broke may hold the next time.
    let refused = error.status().is_some_and(|status| status.is_client_error());
    failed(!refused, image, &error.to_string())
}

fn disk(image: &ImageDigest, error: &io::Error) -> Failure {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let code = if full { Code::NodeStorageFull } else { Code::ImageFetchFailed };
    Failure {
        code,
        detail: format!("the image {image} cannot be written to this node's disk: {error}"),
        retryable: true,
    }
}
