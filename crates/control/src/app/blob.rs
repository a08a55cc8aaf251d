//! Blobs: the bytes of images, each a file named by its sha256. A file appears whole and verified, or not at all.
//! Never here: what the bytes mean.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hostler_model::{
    Code, Refusal,
    disk::{self, SourceFormat, Unfit},
    image::Sha256Hex,
};
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
};
use uuid::Uuid;

use super::{Error, Result};

/// A piece that is read, hashed and written at once: few system calls, little memory.
const PIECE: usize = 256 << 10;
/// What an upload is called before it is whole.
const PARTIAL: &str = ".partial-";
/// A partial file this old belongs to nobody any more.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A folder of blobs. Clones share it.
#[derive(Clone, Debug)]
pub struct Blobs {
    dir: PathBuf,
    limit: u64,
}

impl Blobs {
    /// The blobs in this folder, none longer than `limit` bytes; the folder is made with the first one.
    pub fn new(dir: PathBuf, limit: u64) -> Blobs {
        Blobs { dir, limit }
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

    /// Reads what a disk says of itself; gives the size that a guest would see.
    ///
    /// # Errors
    /// A refusal with the reason, for one that must not be opened.
    pub async fn inspect(&self, sha256: &Sha256Hex, format: SourceFormat) -> Result<u64> {
        let (file, _) = self.open(sha256).await?;
        let mut file = file.into_std().await;
        let inspected = tokio::task::spawn_blocking(move || disk::inspect(format, &mut file)).await;
        match inspected.map_err(|_| Error::Fault("the look at a disk broke down"))? {
            Ok(size) => Ok(size),
            Err(Unfit::Read(error)) => Err(Error::file("look at a disk")(error)),
            Err(unfit @ Unfit::Refused(_)) => Err(unfit.refusal().into()),
        }
    }

    /// Takes in what is read, if it is what `sha256` says. `name` must be new: it names the file while it is partial.
    pub async fn put(&self, sha256: &Sha256Hex, name: Uuid, from: impl AsyncRead + Unpin) -> Result<u64> {
        tokio::fs::create_dir_all(&self.dir).await.map_err(Error::file("make the folder of blobs"))?;
        let partial = Partial(self.dir.join(format!("{PARTIAL}{name}")));
        let (found, length) = write(&partial.0, from, self.limit).await?;
        if found != *sha256 {
            let detail = format!("the bytes have the sha256 {found}, not {sha256}; send them again");
            return Err(Refusal::field("sha256", detail).with("found", found.as_str()).into());
        }
        tokio::fs::rename(&partial.0, self.path(sha256)).await.map_err(Error::file("name a blob"))?;
        let dir = File::open(&self.dir).await.map_err(Error::file("open the folder of blobs"))?;
        dir.sync_all().await.map_err(Error::file("make a blob durable"))?;
        Ok(length)
    }

    /// Removes what interrupted uploads left behind; best effort.
    pub fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) && is_abandoned(&entry.path()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    let changed = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > ABANDONED))
}

async fn write(path: &Path, mut from: impl AsyncRead + Unpin, limit: u64) -> Result<(Sha256Hex, u64)> {
    let writing = || Error::file("write a blob");
    let mut file = File::create_new(path).await.map_err(writing())?;
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await.map_err(broken_off)?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        file.write_all(&piece[..read]).await.map_err(writing())?;
        length += read as u64;
        if length > limit {
            let detail = format!("a blob has at most {limit} bytes here");
            return Err(Refusal::new(Code::BodyTooLarge, detail).with("limit_bytes", limit).into());
        }
    }
    file.sync_all().await.map_err(writing())?;
    let found = hex::encode(hash.finalize()).parse()?;
    Ok((found, length))
}

fn broken_off(error: io::Error) -> Error {
    Refusal::new(Code::MalformedBody, format!("the bytes broke off: {error}")).into()
}

/// A file on its way. Dropped, it is removed; after the rename there is nothing left to remove.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use hostler_model::{Ids, Timestamp};

    use super::*;

    fn name(n: u64) -> Uuid {
        Ids::seeded(n).next(Timestamp::from_micros(0))
    }

    #[tokio::test]
    async fn a_blob_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path().join("blobs"), 5);
        let sha256 = Sha256Hex::of(b"hello");
        let error = blobs.put(&sha256, name(1), &b"hullo"[..]).await.unwrap_err();
        assert!(matches!(error, Error::Refused(refusal) if refusal.code == Code::ValidationError));
        assert_eq!(blobs.size(&sha256).await.unwrap(), None);
        assert_eq!(blobs.put(&sha256, name(2), &b"hello"[..]).await.unwrap(), 5);
        assert_eq!(blobs.size(&sha256).await.unwrap(), Some(5));
        let error = blobs.put(&Sha256Hex::of(b"longer"), name(3), &b"longer"[..]).await.unwrap_err();
        assert!(matches!(error, Error::Refused(refusal) if refusal.code == Code::BodyTooLarge));
        assert_eq!(std::fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
    }
}
