//! Whether a machine's driving task takes a request: a pure function, with a reason for each no.

use hostler_model::error::Code;

/// Where a machine stands, as the task that drives it knows.
///
/// ```text
///                                                        ┌──pause──► paused ──resume──┐
///                                                        │                            ▼
/// absent ──create──► making ──the guest answered──► running ◄─────────────────────────┘
///   ▲                  │ failed, given up              │ the process ended, stop      ▲
///   │                  ▼                               ▼                              │
///   │               partial ──create──► making       ended ───────start───────────────┘
///   │                  │                               │
///   └──── removing ◄───┴───remove, from every stage────┘      while one becomes the other: changing
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
    /// Its process lives, and its processors run.
    Running,
    /// Its process lives, and its processors are held.
    Paused,
    /// It is complete; its process is no more.
    Ended,
    /// Something is being done to the whole of it: what else is asked waits ([`waits`]).
    Changing,
    /// It is being removed.
    Removing,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Stage; 8] = [
        Stage::Absent,
        Stage::Making,
        Stage::Partial,
        Stage::Running,
        Stage::Paused,
        Stage::Ended,
        Stage::Changing,
        Stage::Removing,
    ];
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
    /// To begin again.
    Start,
    /// To end its process and keep its disk.
    Stop,
    /// To begin anew with the process it has.
    Reboot,
    /// To hold its processors.
    Pause,
    /// To let them run again.
    Resume,
    /// To have its state kept.
    Snapshot,
    /// To be put back to a state that was kept.
    Restore,
    /// To be something else than it was.
    Edit,
}

impl Ask {
    /// Every request.
    pub const ALL: [Ask; 11] = [
        Ask::Create,
        Ask::Exec,
        Ask::Remove,
        Ask::Start,
        Ask::Stop,
        Ask::Reboot,
        Ask::Pause,
        Ask::Resume,
        Ask::Snapshot,
        Ask::Restore,
        Ask::Edit,
    ];
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
    /// It runs.
    #[error("the VM is running, and not paused")]
    Running,
    /// Its processors are held.
    #[error("the VM is paused; resume it first")]
    Paused,
    /// It has no process.
    #[error("the VM is not running; start it first")]
    Ended,
    /// Something else is being done to it.
    #[error("another change of the VM is under way; ask again when it is done")]
    Changing,
    /// It is being removed.
    #[error("the VM is being removed")]
    Removing,
}

impl Denial {
    /// The code that a task ends with.
    pub const fn code(self) -> Code {
        match self {
            Denial::OldEpoch => Code::TaskRefused,
            Denial::Absent
            | Denial::Making
            | Denial::Partial
            | Denial::Running
            | Denial::Paused
            | Denial::Ended
            | Denial::Changing
            | Denial::Removing => Code::VmStateConflict,
        }
    }

    /// That a machine stands where it cannot do what is asked.
    const fn of(stage: Stage) -> Denial {
        match stage {
            Stage::Absent => Denial::Absent,
            Stage::Making => Denial::Making,
            Stage::Partial => Denial::Partial,
            Stage::Running => Denial::Running,
            Stage::Paused => Denial::Paused,
            Stage::Ended => Denial::Ended,
            Stage::Changing => Denial::Changing,
            Stage::Removing => Denial::Removing,
        }
    }
}

/// The decision. `here` is the epoch of the machine that is here, `asked` the request's.
pub fn admit(stage: Stage, here: u32, ask: Ask, asked: u32) -> Admission {
    if asked < here {
        return Admission::Refuse(Denial::OldEpoch);
    }
    match ask {
        Ask::Create => create(stage, asked > here),
        Ask::Remove => remove(stage),
        Ask::Start | Ask::Stop => switch(stage, ask),
        Ask::Exec | Ask::Reboot | Ask::Pause | Ask::Resume => live(stage, ask),
        Ask::Snapshot | Ask::Restore | Ask::Edit => complete(stage),
    }
}

/// Whether a request waits until what is being done to the machine is done, and is judged then. A removal does not.
pub fn waits(stage: Stage, ask: Ask) -> bool {
    match ask {
        Ask::Create | Ask::Remove => false,
        Ask::Exec
        | Ask::Start
        | Ask::Stop
        | Ask::Reboot
        | Ask::Pause
        | Ask::Resume
        | Ask::Snapshot
        | Ask::Restore
        | Ask::Edit => stage == Stage::Changing,
    }
}

fn create(stage: Stage, later: bool) -> Admission {
    match stage {
        Stage::Absent | Stage::Partial => Admission::Accept,
        // A later placement takes the place of an earlier one: the driver ends what is left of that.
        Stage::Running | Stage::Paused | Stage::Ended | Stage::Changing if later => Admission::Accept,
        Stage::Running => Admission::Ignore,
        Stage::Making | Stage::Paused | Stage::Ended | Stage::Changing | Stage::Removing => {
            Admission::Refuse(Denial::of(stage))
        }
    }
}

fn remove(stage: Stage) -> Admission {
    match stage {
        Stage::Removing => Admission::Ignore,
        Stage::Absent
        | Stage::Making
        | Stage::Partial
        | Stage::Running
        | Stage::Paused
        | Stage::Ended
        | Stage::Changing => Admission::Accept,
    }
}

/// What is done to a disk that is whole, whether there is a process or not.
fn complete(stage: Stage) -> Admission {
    match stage {
        Stage::Running | Stage::Paused | Stage::Ended => Admission::Accept,
        Stage::Absent | Stage::Making | Stage::Partial | Stage::Changing | Stage::Removing => {
            Admission::Refuse(Denial::of(stage))
        }
    }
}

/// What makes a process, or ends one.
fn switch(stage: Stage, ask: Ask) -> Admission {
    match stage {
        Stage::Ended if ask == Ask::Start => Admission::Accept,
        Stage::Running if ask == Ask::Start => Admission::Ignore,
        Stage::Running | Stage::Paused if ask == Ask::Stop => Admission::Accept,
        Stage::Ended => Admission::Ignore,
        Stage::Absent
        | Stage::Making
        | Stage::Partial
        | Stage::Running
        | Stage::Paused
        | Stage::Changing
        | Stage::Removing => Admission::Refuse(Denial::of(stage)),
    }
}

/// What needs a process.
fn live(stage: Stage, ask: Ask) -> Admission {
    match stage {
        Stage::Running if ask == Ask::Resume => Admission::Ignore,
        Stage::Running => Admission::Accept,
        Stage::Paused if ask == Ask::Resume => Admission::Accept,
        Stage::Paused if ask == Ask::Pause => Admission::Ignore,
        Stage::Absent
        | Stage::Making
        | Stage::Partial
        | Stage::Paused
        | Stage::Ended
        | Stage::Changing
        | Stage::Removing => Admission::Refuse(Denial::of(stage)),
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

        #[test]
        fn two_changes_never_work_on_one_machine(ask in any_of(&Ask::ALL), epoch in 0u32..9) {
            for stage in [Stage::Making, Stage::Changing, Stage::Removing] {
                let taken = admit(stage, epoch, ask, epoch) == Admission::Accept;
                prop_assert!(!taken || ask == Ask::Remove, "{ask:?} {stage:?}");
                prop_assert!(!waits(stage, Ask::Remove));
            }
        }

        #[test]
        fn a_process_is_started_only_where_there_is_none(stage in any_of(&Stage::ALL), epoch in 0u32..9) {
            let taken = admit(stage, epoch, Ask::Start, epoch) == Admission::Accept;
            prop_assert_eq!(taken, stage == Stage::Ended);
        }
    }

    #[test]
    fn a_running_machine_can_be_stopped_paused_and_restarted_and_a_paused_one_stopped_and_resumed() {
        let taken = |stage, ask| admit(stage, 1, ask, 1) == Admission::Accept;
        for (ask, running, paused, ended) in [
            (Ask::Start, false, false, true),
            (Ask::Stop, true, true, false),
            (Ask::Reboot, true, false, false),
            (Ask::Pause, true, false, false),
            (Ask::Resume, false, true, false),
        ] {
            let now = [Stage::Running, Stage::Paused, Stage::Ended].map(|stage| taken(stage, ask));
            assert_eq!(now, [running, paused, ended], "{ask:?}");
        }
        for (ask, stage) in [
            (Ask::Start, Stage::Running),
            (Ask::Stop, Stage::Ended),
            (Ask::Pause, Stage::Paused),
            (Ask::Resume, Stage::Running),
        ] {
            assert_eq!(admit(stage, 1, ask, 1), Admission::Ignore, "{ask:?}");
        }
    }
}
