//! An image's files, from the server: gone on with where a connection broke or an agent died, whole and verified at the
//! end. What was written before is read again and hashed, so that it need not be believed.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use hostler_link::{LinkError, chunks};
use hostler_model::{
    ImageDigest,
    image::{ImageFile, Manifest, Part},
};
use http::StatusCode;
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use super::{failed, storage};
use crate::{handler::Failure, server::Server};

/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(30);
/// How often in a row a download may break without a byte more, and the pause after the first time. A server that is
/// away for longer is the task's next attempt.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);
/// A piece that is read again at once.
const PIECE: usize = 256 << 10;

/// How much of an image has come.
struct Gauge<F> {
    of: u64,
    /// Of files that are whole.
    before: u64,
    said: u8,
    tell: F,
}

impl<F: Fn(u8) + Send> Gauge<F> {
    fn at(&mut self, bytes: u64) {
        let got = self.before.saturating_add(bytes);
        let percent = got.saturating_mul(100).checked_div(self.of).unwrap_or(100).min(100) as u8;
        if percent != self.said {
            self.said = percent;
            (self.tell)(percent);
        }
    }
}

/// Which file of which image.
struct Wanted<'a> {
    image: &'a ImageDigest,
    part: Part,
    file: &'a ImageFile,
    path: PathBuf,
}

/// Why a try ended.
enum Broken {
    /// Another one would end so too.
    Final(Failure),
    /// Another one may go on.
    Again(Failure),
}

/// Fetches every file into a folder.
pub(super) async fn files(
    server: &Server,
    image: &ImageDigest,
    manifest: &Manifest,
    folder: &Path,
    tell: impl Fn(u8) + Send,
) -> Result<(), Failure> {
    let of = manifest.files.values().map(|file| file.size).sum();
    let mut gauge = Gauge { of, before: 0, said: 0, tell };
    for (part, file) in &manifest.files {
        let wanted = Wanted { image, part: *part, file, path: folder.join(part.file_name()) };
        one(server, &wanted, &mut gauge).await?;
        gauge.before += file.size;
    }
    Ok(())
}

async fn one<F: Fn(u8) + Send>(server: &Server, wanted: &Wanted<'_>, gauge: &mut Gauge<F>) -> Result<(), Failure> {
    let disk = |error: io::Error| storage(wanted.image, &error);
    let mut out = open(&wanted.path).await.map_err(disk)?;
    let (mut hash, mut size) = again(&mut out, wanted.file.size).await.map_err(disk)?;
    gauge.at(size);
    let mut tries = 0;
    while size < wanted.file.size {
        let before = size;
        let ended = attempt(server, wanted, &mut out, (&mut hash, &mut size), gauge).await;
        let why = match ended {
            Ok(()) => continue,
            Err(Broken::Final(failure)) => return Err(failure),
            Err(Broken::Again(failure)) => failure,
        };
        tries = if size > before { 1 } else { tries + 1 };
        if tries > TRIES {
            return Err(why);
        }
        tracing::info!(image = %wanted.image, bytes = size, why = why.detail, "a download broke off; it goes on");
        tokio::time::sleep(PAUSE * 2u32.pow(tries - 1)).await;
    }
    if hex::encode(hash.finalize()) != wanted.file.sha256.as_str() {
        drop(tokio::fs::remove_file(&wanted.path).await);
        return Err(wrong(wanted));
    }
    out.flush().await.map_err(disk)?;
    out.sync_all().await.map_err(disk)
}

async fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(path).await
}

/// What an earlier try has written: its digest so far, and how much it is. More than there should be is none of it.
async fn again(out: &mut File, most: u64) -> io::Result<(Sha256, u64)> {
    let (mut hash, mut size, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    if out.metadata().await?.len() > most {
        out.set_len(0).await?;
    }
    loop {
        match out.read(&mut piece).await? {
            0 => return Ok((hash, size)),
            read => {
                hash.update(&piece[..read]);
                size += read as u64;
            }
        }
    }
}

async fn attempt<F: Fn(u8) + Send>(
    server: &Server,
    wanted: &Wanted<'_>,
    out: &mut File,
    (hash, size): (&mut Sha256, &mut u64),
    gauge: &mut Gauge<F>,
) -> Result<(), Broken> {
    let image = wanted.image;
    let disk = |error: io::Error| Broken::Final(storage(image, &error));
    let answer = server.blob(&wanted.file.sha256, *size).await.map_err(|error| broken(image, &error))?;
    if *size > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
        // A server that sends all of it.
        out.set_len(0).await.map_err(disk)?;
        out.rewind().await.map_err(disk)?;
        (*hash, *size) = (Sha256::new(), 0);
    }
    let mut bytes = chunks(answer.into_body());
    loop {
        let next = tokio::time::timeout(STALL, bytes.next()).await;
        let next = next.map_err(|_| Broken::Again(failed(true, image, "the download stood still")))?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|error| broken(image, &error))?;
        if *size + chunk.len() as u64 > wanted.file.size {
            drop(tokio::fs::remove_file(&wanted.path).await);
            return Err(Broken::Final(wrong(wanted)));
        }
        out.write_all(&chunk).await.map_err(disk)?;
        hash.update(&chunk);
        *size += chunk.len() as u64;
        gauge.at(*size);
    }
    out.flush().await.map_err(disk)?;
    match *size == wanted.file.size {
        true => Ok(()),
        false => Err(Broken::Again(failed(true, image, "the download ended too early"))),
    }
}

fn wrong(wanted: &Wanted<'_>) -> Failure {
    let part = wanted.part.file_name();
    failed(true, wanted.image, &format!("the bytes of its {part} are not those of the manifest; they were not kept"))
}

fn broken(image: &ImageDigest, error: &LinkError) -> Broken {
    let failure = unreachable(image, error);
    if failure.retryable { Broken::Again(failure) } else { Broken::Final(failure) }
}

pub(super) fn unreachable(image: &ImageDigest, error: &LinkError) -> Failure {
    // A refusal will be repeated; a connection that broke may hold the next time.
    let refused = error.status().is_some_and(|status| status.is_client_error());
    failed(!refused, image, &error.to_string())
}
