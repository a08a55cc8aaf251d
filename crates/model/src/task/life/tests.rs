//! Every event in every order: what must hold whatever happens to a task.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const RULES: Rules = Rules { retry: RetryPolicy::exponential(3, 1, 60), timeout: Duration::from_secs(60) };

fn lease() -> Lease {
    Lease { enrolment: EnrolmentId(uuid::Uuid::nil()), expires_at: Timestamp::from_micros(30) }
}

fn life() -> Life {
    Life::new(1, Timestamp::from_micros(0))
}

fn step(life: &mut Life, event: Event) -> Result<Outcome, Denial> {
    apply(life, event, &RULES, Timestamp::from_micros(10), 0.5)
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
    fn whatever_happens_the_laws_of_a_task_hold(history in prop::collection::vec(events(), 1..40)) {
        let mut life = life();
        for event in history {
            let before = life.clone();
            let forced = event == Event::Force;
            let outcome = step(&mut life, event.clone());
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
            if unsuccessful && !before.clean && !forced {
                let reported = matches!(&event, Event::Report { fence, .. } if *fence == before.fence);
                prop_assert!(reported);
            }
            // "Nothing is left" is said only by who knows: nobody ever had it, or the report says so.
            if let Ok(Outcome::Ended(Verdict::Unsuccessful { effects: Effects::Undone, .. })) = outcome {
                let said = matches!(&event, Event::Report { end: End::Failed { effects: Effects::Undone, .. } | End::Cancelled { effects: Effects::Undone }, .. });
                prop_assert!(before.clean || said);
            }
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
