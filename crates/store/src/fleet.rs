//! The nodes as placement sees them, kept from one step to the next: to read a thousand of them takes longer than all else
//! that a submission does.
//!
//! The log's head has a mark, which is another one after every change of a node or of a node's book, by whichever server. What
//! is kept is good for as long as its mark is there. A mark never comes again: what a commit that failed has left here is
//! never taken for what is there.

use std::sync::{Mutex, PoisonError};

use hostler_model::placement::Candidate;
use uuid::Uuid;

/// What was last read, and went along with what was changed since.
#[derive(Debug, Default)]
pub(crate) struct Fleet(Mutex<Option<(Uuid, Vec<Candidate>)>>);

impl Fleet {
    /// Takes what is kept of this mark; anything else is old.
    pub(crate) fn take(&self, mark: Option<Uuid>) -> Option<Vec<Candidate>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.filter(|(of, _)| Some(*of) == mark).map(|(_, candidates)| candidates)
    }

    /// Keeps what is there under this mark.
    pub(crate) fn keep(&self, mark: Uuid, candidates: Vec<Candidate>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((mark, candidates));
    }
}
