//! Lanes: what waits at a node is fetched from several, each by its own free slots.

use hostler_model::{
    kind::Class,
    task::{Task, TaskState},
};

/// Which free slots of its node a task waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Lane {
    /// None: what is to be undone is leased whatever else its node does.
    Abort,
    /// Those of its class.
    Of(Class),
}

impl Lane {
    /// All of them, in the order in which a claim is served.
    pub(crate) const ALL: [Lane; 5] =
        [Lane::Abort, Lane::Of(Class::Quick), Lane::Of(Class::Guest), Lane::Of(Class::Boot), Lane::Of(Class::Disk)];

    pub(crate) fn of(task: &Task) -> Lane {
        match task.state {
            TaskState::Aborting => Lane::Abort,
            TaskState::Queued
            | TaskState::Running
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Cancelled => Lane::Of(task.kind.spec().class),
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Lane::Abort => "abort",
            Lane::Of(class) => class.as_str(),
        }
    }
}
