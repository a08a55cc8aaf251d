//! A guest that is told to hold its file systems for a snapshot, until it is known that it writes again.
//!
//! ```text
//! noted (`frozen`) ──told to hold──► holds, or nobody knows ──told to write, again and again──► it says that it does
//!    └─ refused: the note goes                                                                  └─ the note goes
//! ```
//!
//! Before it holds them a guest writes out what is left to be written, and that takes as long as it takes: an answer that
//! does not come says nothing, and a guest that then holds them would never write again. So it is told until it answers or
//! its process ends, by this agent or by the one that finds the note. A task waits for that only so long.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hostler_model::error::Code;
use tokio::time::{sleep, timeout};

use super::{blocking, machine::Live};
use crate::{guest::GuestError, hypervisor::DriverError};

/// How long a guest may take to show that it answers, before it is told to hold anything.
const ANSWERS: Duration = Duration::from_secs(5);

/// How long a guest may take to hold its file systems, whatever it says meanwhile: others wait for the machine's turn.
const HOLDS: Duration = Duration::from_secs(30);

/// How long a snapshot waits for its guest to write again. It takes milliseconds, but for a guest that still writes out.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two times that a guest is told: at first as short as it is worth, later as seldom as costs nothing.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Why a guest was told nothing, or holds nothing.
#[derive(Debug, thiserror::Error)]
enum NotFrozen {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("that it may hold them cannot be written down: {0}")]
    Note(#[from] io::Error),
    #[error("it has not said yet that it lets go of them since the last time")]
    Still,
}

impl Live {
    /// Has the guest hold its file systems, if it can; says whether it does.
    pub(super) async fn freeze(&self) -> bool {
        let frozen = self.try_freeze().await;
        if let Err(error) = &frozen {
            tracing::info!(vm.id = %self.folder.id(), %error, "the guest does not hold its file systems, or not in time");
        }
        frozen.is_ok()
    }

    async fn try_freeze(&self) -> Result<(), NotFrozen> {
        let _telling = self.telling.try_lock().map_err(|_| NotFrozen::Still)?;
        if self.guest.holds() {
            return Err(NotFrozen::Still);
        }
        self.guest.ping(ANSWERS).await?;
        let (folder, process) = (self.folder.clone(), self.handle.process());
        blocking(move || folder.write_frozen(process)).await?;
        let frozen = timeout(HOLDS, self.guest.freeze()).await.unwrap_or(Err(GuestError::Silent(HOLDS)));
        if !self.guest.holds() {
            self.forget_frozen().await;
        }
        Ok(frozen.map(drop)?)
    }

    /// Has the guest write again, if it may hold its file systems: waits for that a while, and goes on in the background.
    pub(super) async fn thaw(self: &Arc<Self>) {
        let told = async {
            while !self.told_to_write().await {
                sleep(FIRST).await;
            }
        };
        if self.guest.holds() && timeout(PATIENCE, told).await.is_err() {
            tracing::warn!(vm.id = %self.folder.id(), "a guest does not say that it writes again after a snapshot; it is told until it does");
            self.keep_thawing();
        }
    }

    /// The same for a guest that an earlier agent left so, all of it in the background.
    pub(super) async fn go_on_thawing(self: &Arc<Self>) {
        let folder = self.folder.clone();
        match blocking(move || folder.frozen()).await {
            // One of another process has begun anew since.
            Ok(noted) if noted != Some(self.handle.process()) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(vm.id = %self.folder.id(), %error, "whether a guest holds its file systems cannot be read; it is told to write");
            }
        }
        self.guest.note_that_it_holds();
        self.keep_thawing();
    }

    /// What whoever asked for a snapshot should know: that the guest may not write.
    pub(super) fn still_frozen(&self) -> Option<String> {
        self.guest.holds().then(|| {
            "the guest was told to hold its file systems for the snapshot and does not say that it has let go of them: \
             programs that write may hang in it until it does. It is told again and again; should it not recover, restart \
             the VM"
                .to_owned()
        })
    }

    /// The same with what a snapshot failed of.
    pub(super) fn and_frozen(&self, error: DriverError) -> DriverError {
        match self.still_frozen() {
            Some(warning) => DriverError { detail: format!("{}; {warning}", error.detail), ..error },
            None => error,
        }
    }

    /// A memory in which the file systems are held would be restored like that, and nobody would know.
    pub(super) fn refuse_if_frozen(&self) -> Result<(), DriverError> {
        if !self.guest.holds() {
            return Ok(());
        }
        let detail = format!(
            "the guest of machine {} may hold its file systems still, since an earlier snapshot; ask again when it writes",
            self.folder.id()
        );
        Err(DriverError { code: Code::GuestFailed, detail, retryable: true })
    }

    /// Tells the guest to write; says whether it does now.
    async fn told_to_write(&self) -> bool {
        let _telling = self.telling.lock().await;
        if let Err(error) = self.guest.thaw().await {
            tracing::debug!(vm.id = %self.folder.id(), %error, "the guest was told to write again");
        }
        if self.guest.holds() {
            return false;
        }
        self.forget_frozen().await;
        true
    }

    async fn forget_frozen(&self) {
        let folder = self.folder.clone();
        // Left behind, it has a guest told once more than it needs.
        if let Err(error) = blocking(move || folder.forget_frozen()).await {
            tracing::debug!(vm.id = %self.folder.id(), %error, "that a guest may hold its file systems cannot be forgotten");
        }
    }

    /// Until it writes, its process ends, or nobody holds the machine any more: the next one who does finds the note.
    fn keep_thawing(self: &Arc<Self>) {
        if self.thawing.swap(true, Ordering::AcqRel) {
            return;
        }
        let live = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pause = FIRST;
            while let Some(live) = live.upgrade() {
                let writes = tokio::select! {
                    biased;
                    () = live.handle.ended() => return,
                    writes = live.told_to_write() => writes,
                };
                if writes {
                    tracing::info!(vm.id = %live.folder.id(), "a guest that may have held its file systems writes again");
                    live.thawing.store(false, Ordering::Release);
                    return;
                }
                drop(live);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
        });
    }
}

#[cfg(test)]
mod tests;
