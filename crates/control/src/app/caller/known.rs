//! Credentials that were looked up a moment ago, and how long such an answer is believed: until it is old, or until
//! credentials were revoked, whichever comes first. Never here: the question.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hostler_model::caller::Caller;
use hostler_store::Wakes;
use tokio::{
    sync::{broadcast::Receiver, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::app::hint;

/// How long a token that was looked up is believed without asking again. One that is revoked works no longer on the server
/// that revoked it, and on others until they hear of it: this long at most, counted from when they asked.
pub(super) const BELIEVED: Duration = Duration::from_secs(5);
/// How many tokens are remembered; beyond that all are forgotten.
const REMEMBERED: usize = 4096;

/// How old an answer is, by the clock and by how often credentials were revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Belief {
    asked: Instant,
    revocations: u64,
}

/// Credentials that were looked up a moment ago, by their hash.
#[derive(Debug, Default)]
pub(crate) struct Known {
    callers: Mutex<HashMap<String, (Belief, Caller)>>,
    /// How often credentials were revoked, as far as this server knows.
    revocations: watch::Sender<u64>,
}

impl Known {
    /// What an answer counts as that is asked for from now on.
    pub(super) fn ask(&self) -> Belief {
        Belief { asked: Instant::now(), revocations: *self.revocations.borrow() }
    }

    /// Whether an answer is still as good as another one.
    pub(super) fn holds(&self, belief: Belief) -> bool {
        belief.asked.elapsed() < BELIEVED && belief.revocations == *self.revocations.borrow()
    }

    pub(super) fn find(&self, hash: &str) -> Option<(Belief, Caller)> {
        let known = self.lock();
        known.get(hash).filter(|(belief, _)| self.holds(*belief)).cloned()
    }

    /// Remembers an answer, unless it may be from before a revocation.
    pub(super) fn keep(&self, hash: String, belief: Belief, caller: Caller) {
        let mut known = self.lock();
        if !self.holds(belief) {
            return;
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(hash, (belief, caller));
    }

    /// Forgets all, also what is being looked up just now: some were revoked.
    pub(crate) fn forget(&self) {
        let mut known = self.lock();
        known.clear();
        self.revocations.send_modify(|revocations| *revocations += 1);
    }

    /// Changes whenever credentials were revoked.
    pub(super) fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Belief, Caller)>> {
        self.callers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Forgets what is remembered whenever the store says that credentials were revoked, here or by another server. Hints can
/// be lost: what was lost is believed for [`BELIEVED`] at most.
pub(crate) async fn forget(known: Arc<Known>, wakes: Receiver<Wakes>, closing: CancellationToken) {
    let heard = |wake: Option<&Wakes>| {
        if wake.is_none_or(|wake| wake.credentials || wake.all) {
            known.forget();
        }
    };
    hint::each(wakes, closing, heard).await;
}

#[cfg(test)]
mod tests {
    use hostler_model::{PrincipalId, TenantId, role::Role};

    use super::*;

    fn somebody() -> Caller {
        Caller::new(PrincipalId::SYSTEM, TenantId::DEFAULT, Role::Viewer)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_before_a_revocation_is_not_remembered() {
        let known = Known::default();
        let belief = known.ask();
        // Somebody revokes the token between the look into the store and the note of what it said.
        known.forget();
        known.keep("h".into(), belief, somebody());
        assert!(known.find("h").is_none() && !known.holds(belief));
        let belief = known.ask();
        known.keep("h".into(), belief, somebody());
        assert_eq!(known.find("h"), Some((belief, somebody())));
        known.forget();
        assert!(known.find("h").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_believed_from_when_it_was_asked_for() {
        let known = Known::default();
        let belief = known.ask();
        tokio::time::advance(BELIEVED - Duration::from_millis(1)).await;
        known.keep("h".into(), belief, somebody());
        assert!(known.find("h").is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(known.find("h").is_none());
    }
}
