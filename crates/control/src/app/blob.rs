//! Blobs: the bytes of images, each a file named by its sha256. A file appears whole and verified, or not at all.
//! Never here: what the bytes mean.
//!
//! ```text
//! .partial-<id>, locked by who writes it ──hashed, synced──► <sha256>
//!    └── its writer died: the lock is free, and the next sweep removes it
//! ```

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
};
use sha2::{Digest, Sha256, Sha512};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    sync::RwLock,
};
use uuid::Uuid;

use super::{
    Error, Result,
    room::{Charge, Room},
};

/// A piece that is read, hashed and written at once: few system calls, little memory.
const PIECE: usize = 256 << 10;
/// What an upload is called before it is whole.
const PARTIAL: &str = ".partial-";
/// A partial file this young may be one that its writer is about to lock.
const NEW: Duration = Duration::from_secs(10);
/// How long a sender may send nothing.
const STALL: Duration = Duration::from_secs(60);
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let detail = format!("there is no blob {sha256}; its image may never have been imported here");
                Err(Refusal::new(Code::NotFound, detail).with("sha256", sha256.as_str()).into())
            }
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
        received.must_be(sha256)?;
        let length = received.length;
        self.keep(received).await?;
        Ok(length)
    }

    /// Takes in what is read, whatever it is. It is nowhere until it is kept.
    pub async fn receive(&self, name: Uuid, charge: Charge, mut from: impl AsyncRead + Unpin) -> Result<Received> {
        let mut sink = self.sink(name, charge, Digests::Sha256).await?;
        let mut piece = vec![0; PIECE];
        loop {
            let read = tokio::time::timeout(STALL, from.read(&mut piece)).await.map_err(|_| stalled())?;
            match read.map_err(broken_off)? {
                0 => return sink.finish().await,
                read => sink.write(&piece[..read]).await?,
            }
        }
    }

    /// A file to be filled. It is removed unless it is kept.
    pub async fn sink(&self, name: Uuid, charge: Charge, digests: Digests) -> Result<Sink> {
        let partial = self.partial(name, charge).await?;
        let file = File::from_std(partial.file.try_clone().map_err(Error::file("write a blob"))?);
        let sha512 = (digests == Digests::Both).then(Sha512::new);
        Ok(Sink { partial, file, sha256: Sha256::new(), sha512, length: 0, limit: self.limit })
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
        let mut from = File::open(&partial.path).await.map_err(Error::file("read a blob"))?;
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
        partial.charge.grow_to(length)?;
        Ok(Received { partial, sha256: hex::encode(hash.finalize()).parse()?, sha512: None, length })
    }

    /// What was received is a blob from now on; says whether it was none before.
    pub async fn keep(&self, received: Received) -> Result<bool> {
        let Received { partial, sha256, .. } = received;
        if self.size(&sha256).await?.is_some() {
            self.touch(&sha256).await;
            return Ok(false);
        }
        tokio::fs::rename(&partial.path, self.path(&sha256)).await.map_err(Error::file("name a blob"))?;
        let dir = File::open(&self.dir).await.map_err(Error::file("open the folder of blobs"))?;
        dir.sync_all().await.map_err(Error::file("make a blob durable"))?;
        partial.charge.keep(sha256);
        Ok(true)
    }

    /// Removes what interrupted uploads left behind; best effort.
    pub fn sweep(&self) {
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

/// Which digests to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Digests {
    /// The one that names blobs.
    Sha256,
    /// That, and sha512, for vendors who give that one.
    Both,
}

/// A file that is being filled, and the digest of what is in it.
#[derive(Debug)]
pub struct Sink {
    partial: Partial,
    file: File,
    sha256: Sha256,
    sha512: Option<Sha512>,
    length: u64,
    limit: u64,
}

impl Sink {
    /// How much is in it.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds a piece.
    pub async fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.length += piece.len() as u64;
        if self.length > self.limit {
            return Err(too_long(self.limit).into());
        }
        self.partial.charge.grow_to(self.length)?;
        self.sha256.update(piece);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(piece);
        }
        self.file.write_all(piece).await.map_err(Error::file("write a blob"))
    }

    /// Empties it again.
    pub async fn restart(&mut self) -> Result<()> {
        let failed = || Error::file("write a blob");
        self.file.flush().await.map_err(failed())?;
        self.file.set_len(0).await.map_err(failed())?;
        self.file.rewind().await.map_err(failed())?;
        self.length = 0;
        self.partial.charge.clear();
        self.sha256 = Sha256::new();
        self.sha512 = self.sha512.as_ref().map(|_| Sha512::new());
        Ok(())
    }

    /// It is whole.
    pub async fn finish(mut self) -> Result<Received> {
        self.file.flush().await.map_err(Error::file("write a blob"))?;
        self.file.sync_all().await.map_err(Error::file("write a blob"))?;
        let sha512 = self.sha512.map(|hash| hex::encode(hash.finalize()));
        let sha256 = hex::encode(self.sha256.finalize()).parse()?;
        Ok(Received { partial: self.partial, sha256, sha512, length: self.length })
    }
}

/// Bytes that have come, and are nobody's yet. Dropped, they are gone.
#[derive(Debug)]
pub struct Received {
    partial: Partial,
    /// Their digest.
    pub sha256: Sha256Hex,
    /// The other one, where it was asked for.
    pub sha512: Option<String>,
    /// How many they are.
    pub length: u64,
}

impl Received {
    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.partial.path
    }

    /// Refuses bytes that are not what was said.
    pub fn must_be(&self, sha256: &Sha256Hex) -> Result<(), Refusal> {
        if self.sha256 == *sha256 {
            return Ok(());
        }
        let detail = format!("the bytes have the sha256 {}, not {sha256}; send them again", self.sha256);
        Err(Refusal::field("sha256", detail).with("found", self.sha256.as_str()))
    }
}

/// A file on its way, locked while its writer lives. Dropped, it is removed; after the rename there is nothing left to
/// remove.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: fs::File,
    charge: Charge,
}

impl Partial {
    fn make(path: PathBuf, charge: Charge) -> io::Result<Partial> {
        let file = fs::File::options().create_new(true).write(true).open(&path)?;
        let partial = Partial { path, file, charge };
        partial.file.lock()?;
        Ok(partial)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Accounts for what a program has written into it by now.
    ///
    /// # Errors
    /// When that is more than the tenant may have.
    pub fn account(&self) -> Result<(), Refusal> {
        let length = fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        self.charge.grow_to(length)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a partial file's writer is gone.
fn is_abandoned(path: &Path) -> bool {
    is_older(path, NEW) && fs::File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn is_older(path: &Path, than: Duration) -> bool {
    let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > than))
}

pub(super) fn too_long(limit: u64) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("a file of an image has at most {limit} bytes here"))
        .with("limit_bytes", limit)
}

fn stalled() -> Refusal {
    let seconds = STALL.as_secs();
    Refusal::new(Code::MalformedBody, format!("no bytes came for {seconds} s; send them again"))
        .with("limit_seconds", seconds)
}

fn broken_off(error: io::Error) -> Error {
    Refusal::new(Code::MalformedBody, format!("the bytes broke off: {error}")).into()
}

#[cfg(test)]
mod tests {
    use hostler_model::{Ids, Timestamp};

    use super::*;

    fn free() -> Charge {
        Room::default().charge(hostler_model::TenantId::DEFAULT, None)
    }

    fn name(n: u64) -> Uuid {
        Ids::seeded(n).next(Timestamp::from_micros(0))
    }

    #[tokio::test]
    async fn a_blob_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().join("blobs"), 5);
        let sha256 = Sha256Hex::of(b"hello");
        let error = blobs.put(&sha256, name(1), free(), &b"hullo"[..]).await.unwrap_err();
        assert!(matches!(error, Error::Refused(refusal) if refusal.code == Code::ValidationError));
        assert_eq!(blobs.size(&sha256).await.unwrap(), None);
        assert_eq!(blobs.put(&sha256, name(2), free(), &b"hello"[..]).await.unwrap(), 5);
        assert_eq!(blobs.size(&sha256).await.unwrap(), Some(5));
        let error = blobs.put(&Sha256Hex::of(b"longer"), name(3), free(), &b"longer"[..]).await.unwrap_err();
        assert!(matches!(error, Error::Refused(refusal) if refusal.code == Code::BodyTooLarge));
        assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn bytes_beyond_the_tenants_room_are_not_taken_whatever_was_announced() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().join("blobs"), 5);
        let charge = || blobs.room.charge(hostler_model::TenantId::DEFAULT, Some(4));
        let error = blobs.receive(name(1), charge(), &b"hello"[..]).await.unwrap_err();
        assert!(matches!(error, Error::Refused(refusal) if refusal.code == Code::QuotaExceeded));
        blobs.put(&Sha256Hex::of(b"abc"), name(2), charge(), &b"abc"[..]).await.unwrap();
        let waits = blobs.receive(name(3), charge(), &b"de"[..]).await.unwrap_err();
        assert!(matches!(waits, Error::Refused(refusal) if refusal.code == Code::QuotaExceeded));
        assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
        let written = blobs.partial(name(4), charge()).await.unwrap();
        fs::write(written.path(), "fg").unwrap();
        assert_eq!(written.account().unwrap_err().code, Code::QuotaExceeded);
        drop(written);
        blobs.collect(std::future::ready(Ok(BTreeSet::new())), Among::These(&[Sha256Hex::of(b"abc")])).await.unwrap();
        assert_eq!(blobs.receive(name(5), charge(), &b"abcd"[..]).await.unwrap().length, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_stands_still_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().join("blobs"), 5);
        let (_silent, from) = tokio::io::duplex(8);
        let error = blobs.receive(name(1), free(), from).await.unwrap_err();
        assert!(matches!(error, Error::Refused(refusal) if refusal.detail.contains("no bytes came")));
        assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_partial_file_goes_when_its_writer_is_gone_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().to_owned(), 5);
        let ours = blobs.partial(name(1), free()).await.unwrap();
        let theirs = dir.path().join(format!("{PARTIAL}of-a-killed-server"));
        let aged = |path: &Path| {
            fs::File::options().append(true).create(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH)
        };
        aged(ours.path()).unwrap();
        aged(&theirs).unwrap();
        blobs.sweep();
        assert!(ours.path().exists() && !theirs.exists());
    }

    #[tokio::test]
    async fn only_blobs_without_an_image_are_collected() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().to_owned(), 5);
        let all: Vec<Sha256Hex> = [b"a", b"b", b"c"].map(|bytes| Sha256Hex::of(bytes)).to_vec();
        for (n, bytes) in [b"a", b"b", b"c"].into_iter().enumerate() {
            blobs.put(&all[n], name(n as u64), free(), &bytes[..]).await.unwrap();
        }
        for old in &all[..2] {
            fs::File::open(blobs.path(old)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        let used = || std::future::ready(Ok(BTreeSet::from([all[0].clone()])));
        assert_eq!(blobs.collect(used(), Among::Old).await.unwrap(), 1);
        assert_eq!(blobs.size(&all[1]).await.unwrap(), None);
        assert_eq!(blobs.collect(used(), Among::These(&all)).await.unwrap(), 2);
        assert_eq!(blobs.size(&all[0]).await.unwrap(), Some(1));
    }
}
