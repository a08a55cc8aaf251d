//! How far an import is, told by who works and read by who writes it down.

use std::sync::{Mutex, PoisonError};

use hostler_model::import::{ImportPhase, ImportProgress};
use tokio::sync::Notify;

/// The meter of one import.
#[derive(Debug)]
pub(super) struct Meter {
    now: Mutex<ImportProgress>,
    changed: Notify,
}

impl Default for Meter {
    fn default() -> Self {
        let now = ImportProgress { phase: ImportPhase::Waiting, percent: None, bytes: 0 };
        Meter { now: Mutex::new(now), changed: Notify::new() }
    }
}

impl Meter {
    /// The next phase begins.
    pub(super) fn phase(&self, phase: ImportPhase) {
        self.set(|now| *now = ImportProgress { phase, percent: None, bytes: now.bytes });
        self.changed.notify_one();
    }

    /// So many bytes have come, of so many where that is known.
    pub(super) fn bytes(&self, bytes: u64, of: Option<u64>) {
        let percent = of.filter(|of| *of > 0).map(|of| (bytes.saturating_mul(100) / of).min(100) as u8);
        self.set(|now| *now = ImportProgress { percent, bytes, ..*now });
    }

    /// So much of the phase is done.
    pub(super) fn percent(&self, percent: u8) {
        self.set(|now| now.percent = Some(percent.min(100)));
    }

    /// How far it is.
    pub(super) fn read(&self) -> ImportProgress {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a phase began.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn set(&self, change: impl FnOnce(&mut ImportProgress)) {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
