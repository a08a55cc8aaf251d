//! Bugs that are planted on purpose, so that the simulation can show that it finds them. Only in builds with the feature
//! `planted-bugs`; without it none is ever there. A bug is planted on one thread, where a simulation runs.

/// A promise that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A result is settled whatever its fence.
    FenceUnchecked,
    /// An agent acts first and writes down later.
    ActsBeforeJournal,
    /// What is charged is given back when a task fails, whatever it left.
    ReleasedUnproven,
    /// A commit does not wait for the disk.
    SyncOmitted,
    /// A task loses its turn at its VM while it waits for its next attempt.
    TurnLostInBackoff,
}

impl Bug {
    /// Every one.
    pub const ALL: [Bug; 5] =
        [Bug::FenceUnchecked, Bug::ActsBeforeJournal, Bug::ReleasedUnproven, Bug::SyncOmitted, Bug::TurnLostInBackoff];
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug on this thread in place of the one before; or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this bug is planted on this thread.
    pub fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{is_planted, plant};

/// Never: this is a build without them.
#[cfg(not(feature = "planted-bugs"))]
pub const fn is_planted(_: Bug) -> bool {
    false
}
