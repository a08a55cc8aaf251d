//! Uploads that can go on: a sender who says beforehand what the sha256 will be may send the bytes in as many calls as it
//! takes. What came stays when the connection breaks, when the server is restarted, and for a day.
//!
//! ```text
//! .upload-<tenant>-<sha256>, locked while somebody sends ──all of it──► digest right: received │ wrong: removed
//!    ▲                  │
//!    └── the next call ─┴─ broken off, or a piece of it: rests, and counts against its tenant
//! ```

use std::{fs, path::PathBuf};

use hostler_model::{
    Code, Refusal, TenantId,
    image::Sha256Hex,
    import::{Expected, Stretch},
};
use tokio::io::AsyncRead;
use uuid::Uuid;

use super::{
    Blobs, Digests, Error, PARTIAL, Partial, Received, Result, Sink, UNCLAIMED, is_older, partial::is_free,
    sink::broken_off,
};
use crate::app::room::Charge;

/// What an upload is called before it is whole.
const UPLOAD: &str = ".upload-";

/// What a call has brought.
#[derive(Debug)]
pub enum Sent {
    /// The last of it.
    Whole(Received),
    /// So many bytes are here now; more are to come.
    Part(u64),
}

impl Blobs {
    fn upload_path(&self, tenant: TenantId, sha256: &Sha256Hex) -> PathBuf {
        self.dir.join(format!("{UPLOAD}{tenant}-{sha256}"))
    }

    /// How many bytes of a file this tenant has sent so far.
    pub async fn sent(&self, tenant: TenantId, sha256: &Sha256Hex) -> u64 {
        let metadata = tokio::fs::metadata(self.upload_path(tenant, sha256)).await;
        metadata.map_or(0, |metadata| metadata.len())
    }

    /// Takes in a stretch of a file that will be what `sha256` says. `name` must be new: it names the file once it is
    /// whole and nobody's.
    ///
    /// # Errors
    /// When somebody else sends it, when bytes before the stretch are missing, or when it does not become what was said.
    pub async fn take_upload(
        &self,
        (tenant, sha256): (TenantId, &Sha256Hex),
        name: Uuid,
        stretch: Stretch,
        charge: Charge,
        from: impl AsyncRead + Unpin,
    ) -> Result<Sent> {
        tokio::fs::create_dir_all(&self.dir).await.map_err(Error::file("make the folder of blobs"))?;
        let (path, said) = (self.upload_path(tenant, sha256), sha256.clone());
        let taken = tokio::task::spawn_blocking(move || Partial::take(path, charge, said)).await;
        let taken = taken.map_err(|_| Error::Fault("the making of a file broke down"))?;
        let partial = taken.map_err(Error::file("write a blob"))?.ok_or_else(|| busy(sha256))?;
        let here = partial.length().map_err(Error::file("look at a blob"))?;
        if stretch.from > here {
            return Err(gap(stretch.from, here).into());
        }
        let mut sink = Sink::new(partial, Digests::Sha256, self.limit)?;
        sink.skip(stretch.from).await?;
        let filled = sink.fill(from).await;
        // What has come stays also where the rest did not.
        let kept = sink.flush().await;
        if let Some(full) = [&filled, &kept].into_iter().find_map(|done| done.as_ref().err().filter(|e| is_full(e))) {
            // Others need the room, and it would be full again.
            tracing::warn!(error = full as &dyn std::error::Error, "an upload is thrown away, for it fills the disk");
            sink.give_up();
        }
        filled.and(kept)?;
        if stretch.until.is_some_and(|until| until != sink.length()) {
            let detail = format!("{} bytes are here, and not those that the range promised", sink.length());
            return Err(broken_off(detail));
        }
        if stretch.until != stretch.of {
            return Ok(Sent::Part(sink.length()));
        }
        let mut received = sink.finish().await?;
        // Whoever sends the same bytes from here on does not meet this one.
        received.partial.become_one(self.dir.join(format!("{PARTIAL}{name}"))).map_err(Error::file("name a blob"))?;
        Expected::Sha256(sha256.clone()).must_be(&received.sha256)?;
        Ok(Sent::Whole(received))
    }

    /// Removes uploads that nobody has gone on with, and counts the others; best effort.
    pub(super) fn sweep_uploads(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some((tenant, sha256)) = name.to_str().and_then(read) else { continue };
            if !is_free(&entry.path()) {
                continue;
            }
            if is_older(&entry.path(), UNCLAIMED) {
                let _ = fs::remove_file(entry.path());
                self.room.gone(&sha256);
            } else {
                self.room.rests(tenant, sha256, entry.metadata().map_or(0, |metadata| metadata.len()));
            }
        }
    }
}

/// Whose upload of what a file's name speaks of.
fn read(name: &str) -> Option<(TenantId, Sha256Hex)> {
    let (tenant, sha256) = name.strip_prefix(UPLOAD)?.rsplit_once('-')?;
    Some((tenant.parse().ok()?, sha256.parse().ok()?))
}

fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind;
    matches!(error, Error::File { source, .. } if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

fn busy(sha256: &Sha256Hex) -> Refusal {
    let detail =
        "somebody sends these bytes just now, or did until a moment ago; wait a little, then ask how many are here";
    Refusal::new(Code::UploadConflict, detail).with("sha256", sha256.as_str())
}

fn gap(from: u64, here: u64) -> Refusal {
    let detail = format!("the piece begins at byte {from}, and {here} bytes are here; go on at {here}");
    Refusal::new(Code::UploadConflict, detail).with("received", here)
}
