//! What to do with an assignment, given what the journal knows of its task. A pure function: no clock, no IO.
//!
//! ```text
//! incoming fence   unfinished                    ended, result at hand            settled
//! lower            Stale                         Stale                            Stale
//! equal            in work: Ignore or Abort      Answer with the result           Stale
//!                  not in work: Resume
//! higher           in work: Adopt                Carry the result over, or,       Begin when nothing is left,
//!                  not in work: Resume           where another try is meant:      else Resume
//!                                                Begin (clean) or Resume
//! ```
//!
//! The rule behind it: what was done once is never done again because a report was lost, and what may have been done
//! goes through its kind's `on_uncertain`.

use hostler_model::{
    Fence,
    task::{Effects, End, Intent},
};

/// What the journal knows of a task.
#[derive(Clone, PartialEq, Debug)]
pub struct Known {
    /// The highest fence seen.
    pub fence: Fence,
    /// Where that attempt stands.
    pub standing: Standing,
}

/// Where an attempt stands, as the journal knows it.
#[derive(Clone, PartialEq, Debug)]
pub enum Standing {
    /// Begun and not ended.
    Unfinished,
    /// Ended; the result is at hand.
    Ended(End),
    /// The server has the result; it is not kept any more.
    Settled(Effects),
}

/// Whether this process works on a task at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InWork {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// What to do with an assignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// New here, or to be done again from a clean slate.
    Begin,
    /// An earlier attempt may have done something: as its kind says (`on_uncertain`).
    Resume,
    /// The work under way goes on under this fence.
    Adopt,
    /// The work under way is to be stopped and undone.
    Abort,
    /// A repeat of what is under way.
    Ignore,
    /// A repeat of what has ended: its result is reported again.
    Answer,
    /// An earlier attempt's result, which the server never saw, is this one's.
    Carry,
    /// A fence that has been passed.
    Stale,
}

/// The decision.
pub fn decide(known: Option<&Known>, in_work: InWork, fence: Fence, intent: Intent) -> Decision {
    let Some(known) = known else { return Decision::Begin };
    match fence.cmp(&known.fence) {
        std::cmp::Ordering::Less => Decision::Stale,
        std::cmp::Ordering::Equal => same_attempt(&known.standing, in_work, intent),
        std::cmp::Ordering::Greater => later_attempt(&known.standing, in_work, intent),
    }
}

fn same_attempt(standing: &Standing, in_work: InWork, intent: Intent) -> Decision {
    match (standing, in_work, intent) {
        (Standing::Unfinished, InWork::Yes, Intent::Run) => Decision::Ignore,
        (Standing::Unfinished, InWork::Yes, Intent::Abort) => Decision::Abort,
        (Standing::Unfinished, InWork::No, Intent::Run | Intent::Abort) => Decision::Resume,
        (Standing::Ended(_), InWork::Yes | InWork::No, Intent::Run | Intent::Abort) => Decision::Answer,
        (Standing::Settled(_), InWork::Yes | InWork::No, Intent::Run | Intent::Abort) => Decision::Stale,
    }
}

fn later_attempt(standing: &Standing, in_work: InWork, intent: Intent) -> Decision {
    match (standing, in_work) {
        (Standing::Unfinished, InWork::Yes) => Decision::Adopt,
        (Standing::Unfinished, InWork::No) => Decision::Resume,
        (Standing::Settled(Effects::Undone), InWork::Yes | InWork::No) => Decision::Begin,
        // Settled with something left, and sent again: its kind goes on from there, or a store was restored into the past.
        (Standing::Settled(Effects::Remain), InWork::Yes | InWork::No) => Decision::Resume,
        (Standing::Ended(end), InWork::Yes | InWork::No) => after_end(end, intent),
    }
}

/// The server leased a later attempt because it never saw this end. What it would have done with it, happens now.
fn after_end(end: &End, intent: Intent) -> Decision {
    match (end, intent) {
        (End::Succeeded { .. }, Intent::Run | Intent::Abort) => Decision::Carry,
        (End::Failed { effects: Effects::Undone, retryable: true, .. }, Intent::Run) => Decision::Begin,
        (End::Failed { .. }, Intent::Run) => Decision::Carry,
        (End::Cancelled { effects: Effects::Undone }, Intent::Run) => Decision::Begin,
        (End::Cancelled { effects: Effects::Remain }, Intent::Run) => Decision::Resume,
        (End::Failed { effects: Effects::Undone, .. } | End::Cancelled { effects: Effects::Undone }, Intent::Abort) => {
            Decision::Carry
        }
        // Something is left: try once more to undo it.
        (End::Failed { effects: Effects::Remain, .. } | End::Cancelled { effects: Effects::Remain }, Intent::Abort) => {
            Decision::Resume
        }
    }
}

/// What is left of an attempt that ended so.
pub fn effects(end: &End) -> Effects {
    match end {
        End::Succeeded { .. } => Effects::Remain,
        End::Failed { effects, .. } | End::Cancelled { effects } => *effects,
    }
}

#[cfg(test)]
mod tests {
    use hostler_model::error::Code;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn ends() -> impl Strategy<Value = End> {
        let effects = || prop_oneof![Just(Effects::Undone), Just(Effects::Remain)];
        prop_oneof![
            Just(End::Succeeded { output: json!({}) }),
            (any::<bool>(), effects()).prop_map(|(retryable, effects)| End::Failed {
                code: Code::HandlerFailed,
                detail: String::new(),
                retryable,
                effects
            }),
            effects().prop_map(|effects| End::Cancelled { effects }),
        ]
    }

    fn standings() -> impl Strategy<Value = Standing> {
        prop_oneof![
            Just(Standing::Unfinished),
            ends().prop_map(Standing::Ended),
            prop_oneof![Just(Effects::Undone), Just(Effects::Remain)].prop_map(Standing::Settled),
        ]
    }

    fn fences() -> impl Strategy<Value = Fence> {
        (1u32..4, 1u32..5).prop_map(|(store_epoch, attempt)| Fence { store_epoch, attempt })
    }

    fn intents() -> impl Strategy<Value = Intent> {
        prop_oneof![Just(Intent::Run), Just(Intent::Abort)]
    }

    fn works() -> impl Strategy<Value = InWork> {
        prop_oneof![Just(InWork::Yes), Just(InWork::No)]
    }

    proptest! {
        #[test]
        fn a_passed_fence_is_always_stale(standing in standings(), known in fences(), fence in fences(), work in works(), intent in intents()) {
            let decision = decide(Some(&Known { fence: known, standing }), work, fence, intent);
            if fence < known {
                prop_assert_eq!(decision, Decision::Stale);
            }
        }

        #[test]
        fn nothing_begins_afresh_unless_it_is_known_that_nothing_is_left(standing in standings(), known in fences(), fence in fences(), work in works(), intent in intents()) {
            let decision = decide(Some(&Known { fence: known, standing: standing.clone() }), work, fence, intent);
            if decision == Decision::Begin {
                prop_assert!(fence > known);
                let clean = match standing {
                    Standing::Unfinished => false,
                    Standing::Ended(end) => effects(&end) == Effects::Undone,
                    Standing::Settled(effects) => effects == Effects::Undone,
                };
                prop_assert!(clean);
            }
        }

        #[test]
        fn a_success_is_reported_and_never_repeated(known in fences(), fence in fences(), work in works(), intent in intents()) {
            let standing = Standing::Ended(End::Succeeded { output: json!({}) });
            let decision = decide(Some(&Known { fence: known, standing }), work, fence, intent);
            prop_assert!(matches!(decision, Decision::Stale | Decision::Answer | Decision::Carry));
        }

        #[test]
        fn work_under_way_is_never_begun_a_second_time(known in fences(), fence in fences(), intent in intents()) {
            let decision = decide(Some(&Known { fence: known, standing: Standing::Unfinished }), InWork::Yes, fence, intent);
            prop_assert!(matches!(decision, Decision::Stale | Decision::Ignore | Decision::Abort | Decision::Adopt));
        }
    }

    #[test]
    fn what_nobody_knows_begins() {
        let fence = Fence { store_epoch: 1, attempt: 3 };
        for intent in [Intent::Run, Intent::Abort] {
            assert_eq!(decide(None, InWork::No, fence, intent), Decision::Begin);
        }
    }
}
