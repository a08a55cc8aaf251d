//! Blobs: the bytes of images, each a file named by its sha256. A file appears whole and verified, or not at all.
//! Never here: what the bytes mean.
//!
//! ```text
//! .partial-<id>, locked by who writes it ──hashed, synced──► <sha256>
//!    └── its writer died: the lock is free, and the next sweep removes it
//! ```

mod partial;
mod sender;
mod sink;
mod upload;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use hostler_model::{
    Code, Refusal,
    disk::{self, SourceFormat, Unfit},
    image::Sha256Hex,
    import::Expected,
};
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncSeekExt},
    sync::RwLock,
};
use uuid::Uuid;

use self::partial::is_abandoned;
pub use self::{
    partial::Partial,
    sink::{Digests, Received, Sink},
    upload::Sent,
};
use super::{
    Error, Result,
    room::{Charge, Room},
};

/// A piece that is read, hashed and written at once: few system calls, little memory.
const PIECE: usize = 256 << 10;
/// What an upload is called before it is whole.
const PARTIAL: &str = ".partial-";
/// How long a blob waits for an image that refers to it: it is sent before the image is registered.
const UNCLAIMED: Duration = Duration::from_secs(24 * 3600);

/// A folder of blobs. Clones share it.
#[derive(Clone, Debug)]
pub struct Blobs {
    dir: PathBuf,
    limit: u64,
    /// What is here and no image's yet.
    pub room: Room,
    /// Held for reading from the look at a blob until the image that refers to it is written down, for writing while
    /// blobs without an image are removed.
    claims: Arc<RwLock<()>>,
}

impl Blobs {
    /// The blobs in this folder, none longer than `limit` bytes; the folder is made with the first one.
    pub fn new(dir: PathBuf, limit: u64) -> Blobs {
        Blobs { dir, limit, room: Room::default(), claims: Arc::default() }
    }

    /// The longest blob, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// While this is held, no blob is removed.
    pub async fn claim(&self) -> tokio::sync::OwnedRwLockReadGuard<()> {
        self.claims.clone().read_owned().await
    }

    fn path(&self, sha256: &Sha256Hex) -> PathBuf {
        self.dir.join(sha256.as_str())
    }

    /// How long a blob is; `None` when it is not here.
    pub async fn size(&self, sha256: &Sha256Hex) -> Result<Option<u64>> {
        match tokio::fs::metadata(self.path(sha256)).await {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("look at a blob")(error)),
        }
    }

    /// A blob that somebody is about to refer to: it is as good as new.
    pub async fn touch(&self, sha256: &Sha256Hex) {
        let path = self.path(sha256);
        let touched = tokio::task::spawn_blocking(move || {
            fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()))
        });
        // A blob that cannot be touched is removed a little earlier, and sent again then.
        drop(touched.await);
    }

    /// A blob, to be read from its beginning, and its length.
    pub async fn open(&self, sha256: &Sha256Hex) -> Result<(File, u64)> {
        match File::open(self.path(sha256)).await {
            Ok(file) => {
                let length = file.metadata().await.map_err(Error::file("look at a blob"))?.len();
                Ok((file, length))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_here(sha256).into()),
            Err(error) => Err(Error::file("open a blob")(error)),
        }
    }

    /// A blob from a place on; from its beginning where there is no such place.
    pub async fn open_from(&self, sha256: &Sha256Hex, at: u64) -> Result<(File, u64)> {
        let (mut file, length) = self.open(sha256).await?;
        file.seek(io::SeekFrom::Start(if at < length { at } else { 0 })).await.map_err(Error::file("read a blob"))?;
        Ok((file, length))
    }

    /// Reads what a disk says of itself; gives the size that a guest would see.
    ///
    /// # Errors
    /// A refusal with the reason, for one that must not be opened.
    pub async fn inspect(&self, sha256: &Sha256Hex, format: SourceFormat) -> Result<u64> {
        let (file, _) = self.open(sha256).await?;
        inspect(file.into_std().await, format).await
    }

    /// Takes in what is read, if it is what `sha256` says. `name` must be new: it names the file while it is partial.
    pub async fn put(
        &self,
        sha256: &Sha256Hex,
        name: Uuid,
        charge: Charge,
        from: impl AsyncRead + Unpin,
    ) -> Result<u64> {
        let received = self.receive(name, charge, from).await?;
        Expected::Sha256(sha256.clone()).must_be(&received.sha256)?;
        let length = received.length;
        self.keep(received).await?;
        Ok(length)
    }

    /// Takes in what is read, whatever it is. It is nowhere until it is kept.
    pub async fn receive(&self, name: Uuid, charge: Charge, from: impl AsyncRead + Unpin) -> Result<Received> {
        let mut sink = self.sink(name, charge, Digests::Sha256).await?;
        sink.fill(from).await?;
        sink.finish().await
    }

    /// A file to be filled. It is removed unless it is kept.
    pub async fn sink(&self, name: Uuid, charge: Charge, digests: Digests) -> Result<Sink> {
        Sink::new(self.partial(name, charge).await?, digests, self.limit)
    }

    /// An empty file for a program to fill; see [`Blobs::measure`].
    pub async fn partial(&self, name: Uuid, charge: Charge) -> Result<Partial> {
        tokio::fs::create_dir_all(&self.dir).await.map_err(Error::file("make the folder of blobs"))?;
        let path = self.dir.join(format!("{PARTIAL}{name}"));
        let made = tokio::task::spawn_blocking(move || Partial::make(path, charge)).await;
        made.map_err(|_| Error::Fault("the making of a file broke down"))?.map_err(Error::file("write a blob"))
    }

    /// What a program has written into a file.
    pub async fn measure(&self, partial: Partial) -> Result<Received> {
        let mut from = File::open(partial.path()).await.map_err(Error::file("read a blob"))?;
        let (mut hash, mut length, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
        loop {
            match from.read(&mut piece).await.map_err(Error::file("read a blob"))? {
                0 => break,
                read => {
                    hash.update(&piece[..read]);
                    length += read as u64;
                }
            }
        }
        from.sync_all().await.map_err(Error::file("write a blob"))?;
        partial.charge().grow_to(length)?;
        Ok(Received { partial, sha256: hex::encode(hash.finalize()).parse()?, sha512: None, length })
    }

    /// What was received is a blob from now on; says whether it was none before.
    pub async fn keep(&self, received: Received) -> Result<bool> {
        let Received { partial, sha256, .. } = received;
        if self.size(&sha256).await?.is_some() {
            self.touch(&sha256).await;
            return Ok(false);
        }
        tokio::fs::rename(partial.path(), self.path(&sha256)).await.map_err(Error::file("name a blob"))?;
        let dir = File::open(&self.dir).await.map_err(Error::file("open the folder of blobs"))?;
        dir.sync_all().await.map_err(Error::file("make a blob durable"))?;
        partial.charge().keep(sha256);
        Ok(true)
    }

    /// Removes what interrupted uploads left behind and nobody can go on with; best effort.
    pub fn sweep(&self) {
        self.sweep_uploads();
        self.sweep_senders();
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) && is_abandoned(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes blobs that are not `used`, and that nobody sent or asked about lately. Says how many.
    pub async fn collect(
        &self,
        used: impl Future<Output = Result<BTreeSet<Sha256Hex>>>,
        among: Among<'_>,
    ) -> Result<usize> {
        let _nobody = self.claims.write().await;
        let used = used.await?;
        let unused = |sha256: &Sha256Hex| !used.contains(sha256);
        let gone: Vec<Sha256Hex> = match among {
            Among::These(these) => these.iter().filter(|sha256| unused(sha256)).cloned().collect(),
            Among::Old => self.old().into_iter().filter(unused).collect(),
        };
        for sha256 in &gone {
            if let Err(error) = tokio::fs::remove_file(self.path(sha256)).await {
                tracing::warn!(%sha256, %error, "a blob that no image needs cannot be removed");
            }
            self.room.gone(sha256);
        }
        Ok(gone.len())
    }

    fn old(&self) -> Vec<Sha256Hex> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let old = entries.filter(|entry| is_older(&entry.path(), UNCLAIMED));
        old.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}

/// Which blobs to look at.
#[derive(Clone, Copy, Debug)]
pub enum Among<'a> {
    /// Those of an image that was just deleted.
    These(&'a [Sha256Hex]),
    /// Those that are a day old.
    Old,
}

/// Reads what a disk says of itself, in a thread that may block.
pub(super) async fn inspect(mut file: fs::File, format: SourceFormat) -> Result<u64> {
    let inspected = tokio::task::spawn_blocking(move || disk::inspect(format, &mut file)).await;
    match inspected.map_err(|_| Error::Fault("the look at a disk broke down"))? {
        Ok(size) => Ok(size),
        Err(Unfit::Read(error)) => Err(Error::file("look at a disk")(error)),
        Err(unfit @ Unfit::Refused(_)) => Err(unfit.refusal().into()),
    }
}

fn is_older(path: &Path, than: Duration) -> bool {
    let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > than))
}

pub(super) fn not_here(sha256: &Sha256Hex) -> Refusal {
    let detail = format!("there is no blob {sha256}; its image may never have been imported here");
    Refusal::new(Code::NotFound, detail).with("sha256", sha256.as_str())
}

pub(super) fn too_long(limit: u64) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("a file of an image has at most {limit} bytes here"))
        .with("limit_bytes", limit)
}

#[cfg(test)]
mod tests;
