//! What the server did with results: noted in memory, and written with the next end, with what is taken of the same tasks,
//! whose decision needs it, or a moment later. A result whose receipt is lost is reported once more by the next start, and
//! answered as before.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hostler_db::{Result, Texts, Tx};
use hostler_model::{
    TaskId, Timestamp,
    internal::{HeldLease, Receipt},
};
use serde::Serialize;

use super::HeldRow;

/// How long a receipt waits for an end to be written with.
pub(super) const SOON: Duration = Duration::from_millis(100);

/// One of them, and when it came.
pub(super) type Noted = (HeldLease, Receipt, Timestamp);

/// Those that are not written yet. Clones share them.
#[derive(Clone, Default, Debug)]
pub(super) struct Receipts(Arc<Mutex<Vec<Noted>>>);

impl Receipts {
    /// Adds some. Whether they are the first: then somebody is to see to it that they are written.
    pub(super) fn add(&self, noted: impl IntoIterator<Item = Noted>) -> bool {
        let mut all = self.lock();
        let first = all.is_empty();
        all.extend(noted);
        first
    }

    /// Takes out those of these tasks.
    pub(super) fn take_of(&self, tasks: &HashSet<TaskId>) -> Vec<Noted> {
        let mut all = self.lock();
        let (of, rest) = mem::take(&mut *all).into_iter().partition(|(held, ..)| tasks.contains(&held.task));
        *all = rest;
        of
    }

    pub(super) fn take(&self) -> Vec<Noted> {
        mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn write(tx: &Tx<'_>, receipts: &[Noted]) -> Result<()> {
    // A later fence that took the row over in the meantime is another delivery, and stays.
    const SQL: Texts = Texts::of_a_file(
        "
        UPDATE attempt SET
            state = :state, changed_at = :at, assignment = NULL, clean = report ->> '$.end.effects' IS 'undone',
            report = CASE :state WHEN 'parked' THEN report END
        WHERE task = :task AND state = 'ended' AND store_epoch = :store_epoch AND attempt = :attempt",
    );
    #[derive(Serialize)]
    struct Forgotten {
        state: &'static str,
        #[serde(flatten)]
        held: HeldRow,
    }
    let row = |(held, receipt, at): &Noted| {
        let state = match receipt {
            Receipt::Settled | Receipt::Unknown => "settled",
            // The server may have leased the task again, to us, without having seen this result: it is kept for that.
            Receipt::Stale => "parked",
        };
        Forgotten { state, held: HeldRow::new(held, *at) }
    };
    tx.put_each(&SQL, &receipts.iter().map(row).collect::<Vec<_>>())
}
