//! Since when nodes could be heard without a break: silence is held against a node only when it was not our own.
//!
//! The service begins with the store's opening, and anew when its server begins to serve and after every outage: a step that failed because the disk or the
//! database did, or a pause between two passes of the loops in which this process cannot have been running.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use hostler_model::Timestamp;

/// No pass yet.
const NEVER: i64 = i64::MIN;

/// The present stretch of service. Read and written without order: a moment too early or late makes no difference.
#[derive(Debug)]
pub(crate) struct Service {
    since: AtomicI64,
    last_pass: AtomicI64,
}

impl Service {
    /// As of now.
    pub(crate) fn begin(now: Timestamp) -> Service {
        Service { since: AtomicI64::new(now.as_micros()), last_pass: AtomicI64::new(NEVER) }
    }

    /// Since when.
    pub(crate) fn since(&self) -> Timestamp {
        Timestamp::from_micros(self.since.load(Ordering::Relaxed))
    }

    /// Nobody could be heard just before now.
    pub(crate) fn interrupted(&self, now: Timestamp) {
        self.since.store(now.as_micros(), Ordering::Relaxed);
    }

    /// A pass of the loops. Passes come every few seconds; half a lease without one means that the process was
    /// suspended, or the clock moved: leases could not be renewed either. Nor can a clock that stepped back say how long
    /// anything has lasted: it begins anew.
    pub(crate) fn pass(&self, now: Timestamp, lease: Duration) {
        let last = self.last_pass.swap(now.as_micros(), Ordering::Relaxed);
        let last = (last != NEVER).then(|| Timestamp::from_micros(last));
        if last.is_some_and(|last| now < last || now.since(last) > lease / 2) {
            self.interrupted(now);
        }
    }

    /// Whether every holder of a lease had time to renew it.
    pub(crate) fn long_enough(&self, now: Timestamp, lease: Duration) -> bool {
        now >= self.since().plus(lease)
    }
}
