//! Lanes: what waits at a node is fetched from several, each by its own free slots.

use std::collections::BTreeMap;

use hostler_model::{
    NodeId,
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

    /// Whether it has few slots: its tasks are those of machines and disks.
    const fn is_narrow(self) -> bool {
        match self {
            Lane::Of(Class::Boot | Class::Disk) => true,
            Lane::Of(Class::Quick | Class::Guest) | Lane::Abort => false,
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Lane::Abort => "abort",
            Lane::Of(class) => class.as_str(),
        }
    }
}

/// How many tasks each lane of each node has room for.
pub(crate) type Lanes = BTreeMap<(NodeId, Lane), usize>;

/// What is asked for at once.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(super) many: Lanes,
    pub(super) few: Lanes,
}

impl Wanted {
    /// Asks for so many more.
    pub(crate) fn add(&mut self, node: NodeId, lane: Lane, room: usize) {
        if room > 0 {
            let lanes = if lane.is_narrow() { &mut self.few } else { &mut self.many };
            *lanes.entry((node, lane)).or_default() += room;
        }
    }

    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.many.is_empty() && self.few.is_empty()
    }
}
