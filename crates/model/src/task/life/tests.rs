//! Every event in every order: what must hold whatever happens to a task.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const RULES: Rules =
    Rules { retry: RetryPolicy::exponential(3, 1, 60), on_remains: OnRemains::End, timeout: Duration::from_secs(60) };

/// Those of a kind that goes on from what is left.
const GOES_ON: Rules = Rules { on_remains: OnRemains::GoOn, ..RULES };

fn lease() -> Lease {
    Lease { enrolment: EnrolmentId(uuid::Uuid::nil()), expires_at: Timestamp::from_micros(30) }
}

fn life() -> Life {
    Life::new(1, Timestamp::from_micros(0))
}

fn step(life: &mut Life, event: Event) -> Result<Outcome, Denial> {
    step_by(&RULES, life, event)
}

fn step_by(rules: &Rules, life: &mut Life, event: Event) -> Result<Outcome, Denial> {
    apply(life, event, rules, Timestamp::from_micros(10), 0.5)
}

fn reported(life: &mut Life, end: End) -> Result<Outcome, Denial> {
    let fence = life.fence;
    step(life, Event::Report { fence, end })
}

fn failed(retryable: bool, effects: Effects) -> End {
    End::Failed { code: Code::HandlerFailed, detail: "no".into(), retryable, effects }
}

fn ends() -> impl Strategy<Value = End> {
    let effects = || prop_oneof![Just(Effects::Undone), Just(Effects::Remain)];
    prop_oneof![
        Just(End::Succeeded { output: json!({}) }),
        (any::<bool>(), effects()).prop_map(|(retryable, effects)| failed(retryable, effects)),
        effects().prop_map(|effects| End::Cancelled { effects }),
    ]
}

fn fences() -> impl Strategy<Value = Fence> {
    (1u32..3, 0u32..6).prop_map(|(store_epoch, attempt)| Fence { store_epoch, attempt })
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Lease(lease())),
        1 => fences().prop_map(|fence| Event::Renew { fence, expires_at: Timestamp::from_micros(60) }),
        3 => (fences(), ends()).prop_map(|(fence, end)| Event::Report { fence, end }),
        2 => Just(Event::Lapse),
        1 => Just(Event::Cancel),
        1 => Just(Event::MissQueueDeadline),
        1 => Just(Event::MissDeadline),
        1 => Just(Event::Refuse { code: Code::VmNotFound, detail: "gone".into() }),
        1 => Just(Event::Moot { output: json!({}) }),
        1 => Just(Event::Force),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_laws_of_a_task_hold(
        rules in prop_oneof![Just(RULES), Just(GOES_ON)],
        history in prop::collection::vec(events(), 1..40),
    ) {
        let mut life = life();
        for event in history {
            let before = life.clone();
            let forced = event == Event::Force;
            let outcome = step_by(&rules, &mut life, event.clone());
            // A refusal changes nothing.
            if outcome.is_err() {
                prop_assert_eq!(&before, &life);
                continue;
            }
            // Terminal is terminal.
            prop_assert!(!before.state.is_terminal());
            // An outcome says "ended" exactly when the state is terminal, and then no lease is out.
            let ended = matches!(outcome, Ok(Outcome::Ended(_)));
            prop_assert_eq!(ended, life.state.is_terminal());
            prop_assert!(!ended || life.lease.is_none());
            // The fence never goes back, and moves by a lease only.
            prop_assert!(life.fence >= before.fence);
            prop_assert_eq!(life.fence != before.fence, matches!(event, Event::Lease(_)));
            // Running means leased.
            prop_assert!(life.state != TaskState::Running || life.lease.is_some());
            // Aborting says why.
            prop_assert!(life.state != TaskState::Aborting || life.abort_reason.is_some());
            // Once leased, an unsuccessful end needs evidence: a report under the current fence, or force.
            let unsuccessful = matches!(life.state, TaskState::Failed | TaskState::Cancelled);
            if unsuccessful && before.left != Left::Nothing && !forced {
                let reported = matches!(&event, Event::Report { fence, .. } if *fence == before.fence);
                prop_assert!(reported);
            }
            // "Nothing is left" is said only by who knows: nobody ever had it, or the report says so.
            if let Ok(Outcome::Ended(Verdict::Unsuccessful { effects: Effects::Undone, .. })) = outcome {
                let said = matches!(&event, Event::Report { end: End::Failed { effects: Effects::Undone, .. } | End::Cancelled { effects: Effects::Undone }, .. });
                prop_assert!(before.left == Left::Nothing || said);
            }
            // A lease is on what may leave something, and what is known of an attempt is as its node said it.
            prop_assert!(life.lease.is_none() || life.left == Left::Unknown);
            if let (Event::Report { end: End::Failed { effects, .. }, .. }, false) = (&event, ended) {
                prop_assert_eq!(life.left, if *effects == Effects::Undone { Left::Nothing } else { Left::Something });
                prop_assert!(life.reported(life.fence));
            }
            // Nobody goes on from what is left but a kind that says so.
            prop_assert!(life.left != Left::Something || rules.on_remains == OnRemains::GoOn);
            // No more attempts at the work than the rules allow (a lease to abort is not one).
            prop_assert!(life.state != TaskState::Running || before.state == TaskState::Running || before.fence.attempt < RULES.retry.attempts);
        }
    }
}

#[test]
fn an_attempt_is_reported_from_its_report_until_the_next_lease() {
    let mut life = life();
    assert!(!life.reported(life.fence));
    step(&mut life, Event::Lease(lease())).unwrap();
    let first = life.fence;
    assert!(!life.reported(first));
    reported(&mut life, failed(true, Effects::Undone)).unwrap();
    assert!(life.reported(first));
    step(&mut life, Event::Lease(lease())).unwrap();
    assert!(!life.reported(first) && !life.reported(life.fence));
    step(&mut life, Event::Lapse).unwrap();
    assert!(!life.reported(life.fence));
    reported(&mut life, End::Succeeded { output: json!({}) }).unwrap();
    assert!(life.reported(life.fence) && !life.reported(first));
}

#[test]
fn a_result_that_arrives_after_the_lapse_still_counts() {
    let mut life = life();
    step(&mut life, Event::Lease(lease())).unwrap();
    step(&mut life, Event::Lapse).unwrap();
    assert_eq!(life.state, TaskState::Queued);
    let outcome = reported(&mut life, End::Succeeded { output: json!(1) });
    assert_eq!(outcome, Ok(Outcome::Ended(Verdict::Succeeded { output: json!(1) })));
}

#[test]
fn a_cancel_after_a_lapse_waits_for_the_nodes_word() {
    let mut life = life();
    step(&mut life, Event::Lease(lease())).unwrap();
    step(&mut life, Event::Lapse).unwrap();
    step(&mut life, Event::Cancel).unwrap();
    assert_eq!(life.state, TaskState::Aborting);
    step(&mut life, Event::Lease(lease())).unwrap();
    assert_eq!(life.intent(), Intent::Abort);
    reported(&mut life, End::Cancelled { effects: Effects::Undone }).unwrap();
    assert_eq!(life.state, TaskState::Cancelled);
}

#[test]
fn a_success_wins_against_a_cancel_that_came_too_late() {
    let mut life = life();
    step(&mut life, Event::Lease(lease())).unwrap();
    step(&mut life, Event::Cancel).unwrap();
    reported(&mut life, End::Succeeded { output: json!({}) }).unwrap();
    assert_eq!(life.state, TaskState::Succeeded);
}

#[test]
fn the_last_lapse_leads_to_aborting_never_to_an_end() {
    let mut life = life();
    for _ in 0..RULES.retry.attempts {
        step(&mut life, Event::Lease(lease())).unwrap();
        step(&mut life, Event::Lapse).unwrap();
    }
    assert_eq!((life.state, life.abort_reason), (TaskState::Aborting, Some(AbortReason::Attempts)));
}

#[test]
fn a_retryable_failure_that_left_something_is_not_retried() {
    let mut life = life();
    step(&mut life, Event::Lease(lease())).unwrap();
    reported(&mut life, failed(true, Effects::Remain)).unwrap();
    assert_eq!(life.state, TaskState::Failed);
}

#[test]
fn a_kind_that_goes_on_from_what_is_left_has_all_its_attempts() {
    let mut life = life();
    for attempt in 1..RULES.retry.attempts {
        step(&mut life, Event::Lease(lease())).unwrap();
        let fence = life.fence;
        let report = Event::Report { fence, end: failed(true, Effects::Remain) };
        assert_eq!(step_by(&GOES_ON, &mut life, report), Ok(Outcome::Alive), "{attempt}");
        assert_eq!((life.state, life.left), (TaskState::Queued, Left::Something));
        assert!(life.reported(fence) && life.not_before > Timestamp::from_micros(10));
    }
    step(&mut life, Event::Lease(lease())).unwrap();
    let report = Event::Report { fence: life.fence, end: failed(true, Effects::Remain) };
    let ended = step_by(&GOES_ON, &mut life, report);
    assert!(matches!(ended, Ok(Outcome::Ended(Verdict::Unsuccessful { effects: Effects::Remain, .. }))), "{ended:?}");
    assert_eq!((life.state, life.dead_letter), (TaskState::Failed, Some(DeadLetter::Waiting)));
}

#[test]
fn what_does_not_help_is_not_done_again_whatever_is_left() {
    let mut life = life();
    step(&mut life, Event::Lease(lease())).unwrap();
    let report = Event::Report { fence: life.fence, end: failed(false, Effects::Remain) };
    step_by(&GOES_ON, &mut life, report).unwrap();
    assert_eq!(life.state, TaskState::Failed);
}

#[test]
fn what_left_something_and_waits_for_another_attempt_is_stopped_by_its_node_only() {
    for (event, reason) in [(Event::Cancel, AbortReason::Cancel), (Event::MissQueueDeadline, AbortReason::Deadline)] {
        let mut life = life();
        step(&mut life, Event::Lease(lease())).unwrap();
        let report = Event::Report { fence: life.fence, end: failed(true, Effects::Remain) };
        step_by(&GOES_ON, &mut life, report).unwrap();
        step(&mut life, Event::Moot { output: json!({}) }).unwrap_err();
        step(&mut life, event).unwrap();
        assert_eq!((life.state, life.abort_reason), (TaskState::Aborting, Some(reason)));
    }
}
