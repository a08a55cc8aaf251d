//! Attempts under way of kinds that leave no trace on their host: in memory until they end.
//!
//! What such an attempt did cannot be told from nothing, so one that ends with its process has nothing to be looked for. The
//! next agent's first poll does not name it, and it is sent again under the same fence. A row outranks what is here: it is of
//! an end that is being written, or of a later attempt.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hostler_model::{
    TaskId,
    internal::{Assignment, HeldLease},
    kind::Trace,
};

use super::Lost;

/// All of them, each under its latest fence. Clones share them.
#[derive(Clone, Default, Debug)]
pub(super) struct Traceless(Arc<Mutex<BTreeMap<TaskId, Assignment>>>);

/// What a task had here before.
pub(super) type Before = Vec<(TaskId, Option<Assignment>)>;

impl Traceless {
    /// Whether an attempt need not be written down before it has ended.
    pub(super) fn may_have(assignment: &Assignment, lost: Lost) -> bool {
        (assignment.kind.spec().trace, lost) == (Trace::None, Lost::SentAgain)
    }

    pub(super) fn get(&self, task: TaskId) -> Option<Assignment> {
        self.lock().get(&task).cloned()
    }

    pub(super) fn leases(&self) -> Vec<HeldLease> {
        self.lock().values().map(|one| HeldLease { task: one.sub, fence: one.fence }).collect()
    }

    pub(super) fn put(&self, taken: Vec<Assignment>) -> Before {
        let mut all = self.lock();
        taken.into_iter().map(|one| (one.sub, all.insert(one.sub, one))).collect()
    }

    /// As it was before a step that came to nothing.
    pub(super) fn restore(&self, before: Before) {
        let mut all = self.lock();
        for (task, one) in before.into_iter().rev() {
            match one {
                Some(one) => drop(all.insert(task, one)),
                None => drop(all.remove(&task)),
            }
        }
    }

    /// Its row says the rest.
    pub(super) fn remove(&self, task: TaskId) {
        self.lock().remove(&task);
    }

    /// The same, of one attempt only.
    pub(super) fn remove_at(&self, held: HeldLease) {
        let mut all = self.lock();
        if all.get(&held.task).is_some_and(|one| one.fence == held.fence) {
            all.remove(&held.task);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Assignment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
