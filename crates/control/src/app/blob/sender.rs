//! Who has sent which bytes. One blob serves everybody who has its bytes, and only them: a digest alone, which may stand in
//! a build's log, brings nobody another tenant's disk, nor tells that it is here.
//!
//! An empty file `.of-<tenant>-<sha256>` says that a tenant has sent the whole. It lasts as long as a blob waits for its
//! image; from then on the image says it.

use std::{fs, path::PathBuf, time::SystemTime};

use hostler_model::{TenantId, image::Sha256Hex};

use super::{Blobs, Error, Received, Result, UNCLAIMED, is_older};

/// What such a file is called.
const SENT: &str = ".of-";

impl Blobs {
    fn mark(&self, tenant: TenantId, sha256: &Sha256Hex) -> PathBuf {
        self.dir.join(format!("{SENT}{tenant}-{sha256}"))
    }

    /// What was received of a tenant is a blob from now on, and this tenant's to use.
    pub async fn keep_of(&self, tenant: TenantId, received: Received) -> Result<()> {
        let mark = self.mark(tenant, &received.sha256);
        self.keep(received).await?;
        tokio::fs::write(mark, []).await.map_err(Error::file("note who sent a blob"))
    }

    /// Whether a tenant has sent these bytes lately. Asked about, they are as good as new.
    pub async fn was_sent_by(&self, tenant: TenantId, sha256: &Sha256Hex) -> bool {
        let mark = self.mark(tenant, sha256);
        let touched = tokio::task::spawn_blocking(move || {
            fs::File::options().write(true).open(mark).and_then(|file| file.set_modified(SystemTime::now()))
        });
        matches!(touched.await, Ok(Ok(())))
    }

    /// Forgets who sent what a long time ago; best effort.
    pub(super) fn sweep_senders(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(SENT) && is_older(&entry.path(), UNCLAIMED) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
