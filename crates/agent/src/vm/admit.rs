//! Whether a machine's driving task takes a request: a pure function, with a reason for each no.

use hostler_model::error::Code;

/// Where a machine stands, as the task that drives it knows.
///
/// ```text
/// absent ──create──► making ──the guest answered──► running ──the process ended──► ended
///   ▲                  │ failed, given up              │                             │
///   │                  ▼                               │                             │
///   │               partial ──create──► making         │                             │
///   │                  │                               │                             │
///   └──── removing ◄───┴────────────remove─────────────┴─────────────────────────────┘
///             │ failed: partial
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// There is nothing of it.
    Absent,
    /// It is being made.
    Making,
    /// Something of it is there; it was never completed, or not wholly removed.
    Partial,
    /// Its process lives, and its guest has answered.
    Running,
    /// It was complete; its process is no more.
    Ended,
    /// It is being removed.
    Removing,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Stage; 6] =
        [Stage::Absent, Stage::Making, Stage::Partial, Stage::Running, Stage::Ended, Stage::Removing];
}

/// What is asked of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// To be made.
    Create,
    /// To run a program.
    Exec,
    /// To be removed.
    Remove,
}

impl Ask {
    /// Every request.
    pub const ALL: [Ask; 3] = [Ask::Create, Ask::Exec, Ask::Remove];
}

/// The answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is done now.
    Accept,
    /// What it asks for is so already, or under way: it shares that outcome.
    Ignore,
    /// No.
    Refuse(Denial),
}

/// Why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denial {
    /// The request is of an earlier placement of this machine.
    #[error("the request is about an earlier placement of the VM; a later one is here")]
    OldEpoch,
    /// There is no such machine here.
    #[error("the VM is not on this node")]
    Absent,
    /// It is being made.
    #[error("the VM is still being made")]
    Making,
    /// It was never completed.
    #[error("the VM was never completed; delete it and create another")]
    Partial,
    /// Its process is no more.
    #[error("the VM's process has ended; delete the VM and create another")]
    Ended,
    /// It is being removed.
    #[error("the VM is being removed")]
    Removing,
}

impl Denial {
    /// The code that a task ends with.
    pub const fn code(self) -> Code {
        match self {
            Denial::OldEpoch => Code::TaskRefused,
            Denial::Absent | Denial::Making | Denial::Partial | Denial::Ended | Denial::Removing => {
                Code::VmStateConflict
            }
        }
    }
}

/// The decision. `here` is the epoch of the machine that is here, `asked` the request's.
pub fn admit(stage: Stage, here: u32, ask: Ask, asked: u32) -> Admission {
    use Admission::{Accept, Ignore, Refuse};
    if asked < here {
        return Refuse(Denial::OldEpoch);
    }
    match (ask, stage) {
        (Ask::Create, Stage::Absent | Stage::Partial) => Accept,
        // A later placement takes the place of an earlier one: the driver ends what is left of that.
        (Ask::Create, Stage::Running | Stage::Ended) if asked > here => Accept,
        (Ask::Create, Stage::Running) => Ignore,
        (Ask::Create, Stage::Making) => Refuse(Denial::Making),
        (Ask::Create, Stage::Ended) => Refuse(Denial::Ended),
        (Ask::Create, Stage::Removing) => Refuse(Denial::Removing),

        (Ask::Exec, Stage::Running) => Accept,
        (Ask::Exec, Stage::Absent) => Refuse(Denial::Absent),
        (Ask::Exec, Stage::Making) => Refuse(Denial::Making),
        (Ask::Exec, Stage::Partial) => Refuse(Denial::Partial),
        (Ask::Exec, Stage::Ended) => Refuse(Denial::Ended),
        (Ask::Exec, Stage::Removing) => Refuse(Denial::Removing),

        (Ask::Remove, Stage::Absent | Stage::Making | Stage::Partial | Stage::Running | Stage::Ended) => Accept,
        (Ask::Remove, Stage::Removing) => Ignore,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
        proptest::sample::select(all)
    }

    proptest! {
        #[test]
        fn a_request_of_an_earlier_life_is_always_refused(stage in any_of(&Stage::ALL), ask in any_of(&Ask::ALL), here in 1u32..9, asked in 0u32..9) {
            if asked < here {
                prop_assert_eq!(admit(stage, here, ask, asked), Admission::Refuse(Denial::OldEpoch));
            }
        }

        #[test]
        fn a_program_runs_only_in_a_running_machine(stage in any_of(&Stage::ALL), epoch in 0u32..9) {
            let taken = admit(stage, epoch, Ask::Exec, epoch) == Admission::Accept;
            prop_assert_eq!(taken, stage == Stage::Running);
        }

        #[test]
        fn a_machine_can_be_removed_in_every_stage(stage in any_of(&Stage::ALL), epoch in 0u32..9) {
            prop_assert!(!matches!(admit(stage, epoch, Ask::Remove, epoch), Admission::Refuse(_)));
        }

        #[test]
        fn nothing_is_made_over_a_machine_that_is_there(stage in any_of(&Stage::ALL), epoch in 0u32..9) {
            let taken = admit(stage, epoch, Ask::Create, epoch) == Admission::Accept;
            prop_assert_eq!(taken, matches!(stage, Stage::Absent | Stage::Partial));
        }
    }
}
