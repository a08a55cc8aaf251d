//! Bytes on their way into a file, with their digest; and what came of them.

use std::{io, path::Path, time::Duration};

use hostler_model::{Code, Refusal, image::Sha256Hex};
use sha2::{Digest, Sha256, Sha512};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use super::{Error, PIECE, Partial, Result, too_long};

/// How long a sender may send nothing.
const STALL: Duration = Duration::from_secs(60);

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
    /// A file that is empty.
    pub(super) fn new(partial: Partial, digests: Digests, limit: u64) -> Result<Sink> {
        let file = File::from_std(partial.writer().map_err(Error::file("write a blob"))?);
        let sha512 = (digests == Digests::Both).then(Sha512::new);
        Ok(Sink { partial, file, sha256: Sha256::new(), sha512, length: 0, limit })
    }

    /// How much is in it.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Goes on behind the first `from` bytes that are in the file, and forgets what follows them.
    pub(super) async fn skip(&mut self, from: u64) -> Result<()> {
        self.file.set_len(from).await.map_err(Error::file("write a blob"))?;
        self.partial.charge().clear();
        let (mut there, mut piece) =
            (File::open(self.partial.path()).await.map_err(Error::file("read a blob"))?, vec![0; PIECE]);
        while self.length < from {
            let read = there.read(&mut piece).await.map_err(Error::file("read a blob"))?;
            if read == 0 {
                return Err(Error::Fault("a file became shorter while it was read"));
            }
            self.count(&piece[..read])?;
        }
        self.file.seek(io::SeekFrom::Start(from)).await.map_err(Error::file("write a blob")).map(drop)
    }

    /// Takes in all that is read.
    pub(super) async fn fill(&mut self, mut from: impl AsyncRead + Unpin) -> Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            let read = tokio::time::timeout(STALL, from.read(&mut piece)).await.map_err(|_| stalled())?;
            match read.map_err(broken_off)? {
                0 => return Ok(()),
                read => self.write(&piece[..read]).await?,
            }
        }
    }

    /// Adds a piece.
    pub async fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.count(piece)?;
        self.file.write_all(piece).await.map_err(Error::file("write a blob"))
    }

    fn count(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        self.length += piece.len() as u64;
        if self.length > self.limit {
            return Err(too_long(self.limit));
        }
        self.partial.charge().grow_to(self.length)?;
        self.sha256.update(piece);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(piece);
        }
        Ok(())
    }

    /// Empties it again.
    pub async fn restart(&mut self) -> Result<()> {
        let failed = || Error::file("write a blob");
        self.file.flush().await.map_err(failed())?;
        self.file.set_len(0).await.map_err(failed())?;
        self.file.rewind().await.map_err(failed())?;
        self.length = 0;
        self.partial.charge().clear();
        self.sha256 = Sha256::new();
        self.sha512 = self.sha512.as_ref().map(|_| Sha512::new());
        Ok(())
    }

    /// It is removed when it is dropped, although it could be gone on with.
    pub(super) fn give_up(&mut self) {
        self.partial.give_up();
    }

    /// What is in it is on its way to the disk.
    pub(super) async fn flush(&mut self) -> Result<()> {
        self.file.flush().await.map_err(Error::file("write a blob"))
    }

    /// It is whole.
    pub async fn finish(mut self) -> Result<Received> {
        self.flush().await?;
        self.file.sync_all().await.map_err(Error::file("write a blob"))?;
        let sha512 = self.sha512.map(|hash| hex::encode(hash.finalize()));
        let sha256 = hex::encode(self.sha256.finalize()).parse()?;
        Ok(Received { partial: self.partial, sha256, sha512, length: self.length })
    }
}

/// Bytes that have come, and are nobody's yet. Dropped, they are gone.
#[derive(Debug)]
pub struct Received {
    pub(super) partial: Partial,
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
        self.partial.path()
    }
}

fn stalled() -> Refusal {
    let seconds = STALL.as_secs();
    Refusal::new(Code::MalformedBody, format!("no bytes came for {seconds} s; send them again"))
        .with("limit_seconds", seconds)
}

pub(super) fn broken_off(error: impl std::fmt::Display) -> Error {
    Refusal::new(Code::MalformedBody, format!("the bytes broke off: {error}")).into()
}
