//! The journal's promises.

use hostler_model::{
    NodeId,
    kind::KindName,
    task::{PhaseTiming, Target},
};

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn open(dir: &tempfile::TempDir) -> Journal {
    Journal::open(&dir.path().join("journal.db"), Mode::Inline).unwrap()
}

fn task(n: u128, attempt: u32) -> Assignment {
    let sub = TaskId(uuid::Uuid::from_u128(n));
    Assignment {
        iss: "test".into(),
        aud: NodeId(uuid::Uuid::nil()),
        sub,
        jti: format!("{sub}.{attempt}"),
        iat: 0,
        exp: 1,
        fence: Fence { store_epoch: 1, attempt },
        epoch: Some(1),
        intent: Intent::Run,
        kind: KindName::VmExec,
        target: Target { vm: Some(VmId(uuid::Uuid::from_u128(77))), node: None },
        params: json!({ "argv": ["it's", "\"quoted\"", "ünïcode"] }),
        lease_expires_at: NOW,
        deadline: NOW,
    }
}

fn report(assignment: &Assignment, end: End) -> Report {
    let phases = vec![PhaseTiming { phase: "one".into(), ms: 1.5 }];
    Report {
        task: assignment.sub,
        fence: assignment.fence,
        end,
        phases,
        log: Vec::new(),
        started_at: NOW,
        finished_at: NOW,
    }
}

fn success() -> End {
    End::Succeeded { output: json!({ "stdout": "a\nb" }) }
}

async fn accept_one(journal: &Journal, assignment: &Assignment, in_work: &[TaskId]) -> Accepted {
    let in_work = in_work.iter().copied().collect();
    journal.accept(vec![assignment.clone()], in_work, Lost::SentAgain, NOW).await.unwrap().pop().unwrap()
}

fn begun(assignment: &Assignment, start: Start) -> Accepted {
    Accepted::Begin(Box::new(assignment.clone()), start)
}

#[tokio::test]
async fn what_was_accepted_is_there_for_the_next_agent_word_for_word() {
    let dir = tempfile::tempdir().unwrap();
    let assignment = task(1, 1);
    assert_eq!(accept_one(&open(&dir), &assignment, &[]).await, begun(&assignment, Start::Fresh));
    let next = open(&dir);
    assert_eq!(next.unfinished().await.unwrap(), std::slice::from_ref(&assignment));
    assert_eq!(next.held().await.unwrap(), [HeldLease { task: assignment.sub, fence: assignment.fence }]);
}

#[tokio::test]
async fn a_result_is_kept_until_the_server_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, assignment) = (open(&dir), task(1, 1));
    accept_one(&journal, &assignment, &[]).await;
    let result = report(&assignment, success());
    assert_eq!(journal.finish(result.clone(), || false, NOW).await.unwrap(), Some(result.clone()));
    let next = open(&dir);
    assert_eq!(next.unreported().await.unwrap(), std::slice::from_ref(&result));
    assert_eq!(accept_one(&next, &assignment, &[]).await, Accepted::Answer(Box::new(result)));
    let held = HeldLease { task: assignment.sub, fence: assignment.fence };
    next.forget(vec![(held, Receipt::Settled)], NOW).await.unwrap();
    assert!(next.unreported().await.unwrap().is_empty());
    assert!(next.held().await.unwrap().is_empty());
    assert_eq!(accept_one(&next, &assignment, &[]).await, Accepted::Stale(Why::OldFence));
}

#[tokio::test]
async fn a_later_fence_that_comes_before_the_end_is_the_one_that_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, second) = (open(&dir), task(1, 1), task(1, 2));
    accept_one(&journal, &first, &[]).await;
    let adopted = Accepted::Adopt { task: first.sub, fence: second.fence, intent: Intent::Run };
    assert_eq!(accept_one(&journal, &second, &[first.sub]).await, adopted);
    let reported = journal.finish(report(&first, success()), || false, NOW).await.unwrap().unwrap();
    assert_eq!(reported.fence, second.fence);
    assert_eq!(open(&dir).unreported().await.unwrap(), [reported]);
}

#[tokio::test]
async fn an_attempt_that_is_over_files_nothing_under_its_successors_fence() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, second) = (open(&dir), task(1, 1), task(1, 2));
    let lease = |assignment: &Assignment| HeldLease { task: assignment.sub, fence: assignment.fence };
    accept_one(&journal, &first, &[]).await;
    assert!(journal.is_open(lease(&first)).await.unwrap());
    // The first is over, so it does not count as in work: the second is another attempt.
    assert_eq!(accept_one(&journal, &second, &[]).await, begun(&second, Start::Uncertain));
    assert_eq!(journal.finish(report(&first, success()), || true, NOW).await.unwrap(), None);
    assert!(journal.is_open(lease(&second)).await.unwrap(), "the second goes on");
    let own = report(&second, success());
    assert_eq!(journal.finish(own.clone(), || false, NOW).await.unwrap(), Some(own));
    assert!(!journal.is_open(lease(&second)).await.unwrap());
}

#[tokio::test]
async fn a_later_fence_that_comes_after_the_end_carries_the_result_over() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, second) = (open(&dir), task(1, 1), task(1, 2));
    accept_one(&journal, &first, &[]).await;
    journal.finish(report(&first, success()), || false, NOW).await.unwrap();
    // The work is still counted as under way: its end in the journal outranks that.
    let carried = Accepted::Answer(Box::new(report(&second, success())));
    assert_eq!(accept_one(&journal, &second, &[first.sub]).await, carried);
    let late = HeldLease { task: first.sub, fence: first.fence };
    journal.forget(vec![(late, Receipt::Stale)], NOW).await.unwrap();
    assert_eq!(journal.unreported().await.unwrap().len(), 1, "a receipt for the first fence is none for the second");
}

#[tokio::test]
async fn after_a_failure_that_left_nothing_a_later_fence_begins_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&dir);
    for (n, effects, start) in [(1, Effects::Undone, Start::Fresh), (2, Effects::Remain, Start::Uncertain)] {
        let first = task(n, 1);
        accept_one(&journal, &first, &[]).await;
        let end = End::Failed { code: Code::HandlerFailed, detail: "no".into(), retryable: true, effects };
        journal.finish(report(&first, end), || false, NOW).await.unwrap();
        let held = HeldLease { task: first.sub, fence: first.fence };
        journal.forget(vec![(held, Receipt::Settled)], NOW).await.unwrap();
        let second = task(n, 2);
        assert_eq!(accept_one(&journal, &second, &[]).await, begun(&second, start), "{effects:?}");
    }
}

#[tokio::test]
async fn an_abandoned_attempt_is_neither_resumed_nor_reported_but_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, second) = (open(&dir), task(1, 1), task(1, 2));
    accept_one(&journal, &first, &[]).await;
    journal.abandon(HeldLease { task: first.sub, fence: first.fence }, NOW).await.unwrap();
    assert_eq!(journal.finish(report(&first, success()), || false, NOW).await.unwrap(), None);
    assert!(journal.unfinished().await.unwrap().is_empty());
    assert_eq!(accept_one(&journal, &second, &[]).await, begun(&second, Start::Uncertain));
}

#[tokio::test]
async fn an_attempt_that_was_taken_is_not_another_one_and_its_lease_may_be_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first) = (open(&dir), task(1, 1));
    accept_one(&journal, &first, &[]).await;
    let later = Timestamp::from_micros(NOW.as_micros() + 1);
    let renewed = Assignment { lease_expires_at: later, deadline: later, exp: 9, iat: 8, ..first.clone() };
    assert_eq!(accept_one(&journal, &renewed, &[first.sub]).await, Accepted::Ignored);
    for other in [
        Assignment { params: json!({"argv": ["rm"]}), ..first.clone() },
        Assignment { kind: KindName::Echo, ..first.clone() },
        Assignment { target: Target::default(), ..first.clone() },
        Assignment { epoch: Some(2), ..first.clone() },
    ] {
        assert_eq!(accept_one(&journal, &other, &[first.sub]).await, Accepted::OtherContent, "{other:?}");
    }
    assert_eq!(open(&dir).unfinished().await.unwrap(), [first]);
}

#[tokio::test]
async fn one_batch_decides_each_item_after_those_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&dir);
    let mut newer = task(3, 1);
    newer.epoch = Some(5);
    let batch = vec![task(1, 1), task(1, 1), newer.clone(), task(4, 1)];
    let answers = journal.accept(batch.clone(), HashSet::new(), Lost::SentAgain, NOW).await.unwrap();
    assert_eq!(answers[0], begun(&batch[0], Start::Fresh));
    assert_eq!(answers[2], begun(&newer, Start::Fresh));
    let Accepted::OldEpoch(refusal) = &answers[3] else { panic!("an older epoch was taken: {:?}", answers[3]) };
    assert!(matches!(refusal.end, End::Failed { code: Code::TaskRefused, effects: Effects::Remain, .. }));
    let held = journal.held().await.unwrap();
    assert_eq!(held.len(), 2);
    // The repeat within the batch is not a second beginning.
    assert_eq!(answers[1], Accepted::Ignored);
}

#[tokio::test]
async fn what_is_old_goes_and_what_is_open_stays() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&dir);
    for n in 1..=3 {
        accept_one(&journal, &task(n, 1), &[]).await;
    }
    let ended = task(1, 1);
    journal.finish(report(&ended, success()), || false, NOW).await.unwrap();
    let held = HeldLease { task: ended.sub, fence: ended.fence };
    journal.forget(vec![(held, Receipt::Settled)], NOW).await.unwrap();
    assert_eq!(journal.prune(NOW.plus(KEEP)).await.unwrap(), 0);
    assert_eq!(journal.prune(NOW.plus(KEEP * 2)).await.unwrap(), 1);
    assert_eq!(journal.held().await.unwrap().len(), 2);
}

/// Of a kind that leaves no trace.
fn echo(n: u128, attempt: u32) -> Assignment {
    let params = json!({ "message": "hi" });
    Assignment { kind: KindName::Echo, target: Target::default(), params, epoch: None, ..task(n, attempt) }
}

#[tokio::test]
async fn what_leaves_no_trace_is_held_here_and_sent_again_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, echo) = (open(&dir), echo(1, 1));
    let held = HeldLease { task: echo.sub, fence: echo.fence };
    assert_eq!(accept_one(&journal, &echo, &[]).await, begun(&echo, Start::Fresh));
    assert_eq!(
        (journal.held().await.unwrap(), journal.latest(echo.sub).await.unwrap()),
        (vec![held], Some(echo.fence))
    );
    assert!(journal.is_open(held).await.unwrap());
    // It is known here as what was written down is.
    assert_eq!(accept_one(&journal, &echo, &[echo.sub]).await, Accepted::Ignored);
    let other = Assignment { params: json!({ "message": "ho" }), ..echo.clone() };
    assert_eq!(accept_one(&journal, &other, &[echo.sub]).await, Accepted::OtherContent);
    // The next agent knows nothing of it, names nothing, and begins what it is sent.
    let next = open(&dir);
    assert!(next.unfinished().await.unwrap().is_empty() && next.held().await.unwrap().is_empty());
    assert_eq!(accept_one(&next, &echo, &[]).await, begun(&echo, Start::Fresh));
}

#[tokio::test]
async fn the_end_of_what_leaves_no_trace_is_written_down_under_the_fence_that_it_has_then() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, second) = (open(&dir), echo(1, 1), echo(1, 2));
    accept_one(&journal, &first, &[]).await;
    let adopted = Accepted::Adopt { task: first.sub, fence: second.fence, intent: Intent::Run };
    assert_eq!(accept_one(&journal, &second, &[first.sub]).await, adopted);
    assert_eq!(accept_one(&journal, &first, &[first.sub]).await, Accepted::Stale(Why::OldFence));
    let reported = journal.finish(report(&first, success()), || false, NOW).await.unwrap().unwrap();
    assert_eq!(reported.fence, second.fence);
    assert_eq!(journal.finish(report(&second, success()), || false, NOW).await.unwrap(), None, "it has ended");
    let next = open(&dir);
    assert_eq!(next.unreported().await.unwrap(), std::slice::from_ref(&reported));
    assert_eq!(accept_one(&next, &second, &[]).await, Accepted::Answer(Box::new(reported)));
}

#[tokio::test]
async fn of_what_leaves_no_trace_and_is_over_nothing_is_reported_and_earlier_fences_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, second) = (open(&dir), echo(1, 2), echo(1, 3));
    accept_one(&journal, &first, &[]).await;
    journal.abandon(HeldLease { task: first.sub, fence: first.fence }, NOW).await.unwrap();
    assert_eq!(journal.finish(report(&first, success()), || false, NOW).await.unwrap(), None);
    assert!(journal.held().await.unwrap().is_empty());
    let next = open(&dir);
    assert_eq!(accept_one(&next, &echo(1, 1), &[]).await, Accepted::Stale(Why::OldFence));
    assert_eq!(accept_one(&next, &second, &[]).await, begun(&second, Start::Uncertain));
    assert_eq!(next.unfinished().await.unwrap(), [second], "a task that has a row is written into it");
}

#[tokio::test]
async fn an_attempt_that_is_over_files_nothing_under_its_successors_fence_though_it_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, second) = (open(&dir), echo(1, 1), echo(1, 2));
    accept_one(&journal, &first, &[]).await;
    assert_eq!(accept_one(&journal, &second, &[]).await, begun(&second, Start::Uncertain));
    assert_eq!(journal.finish(report(&first, success()), || true, NOW).await.unwrap(), None);
    let held = HeldLease { task: second.sub, fence: second.fence };
    assert!(journal.is_open(held).await.unwrap(), "the second goes on");
    let own = report(&second, success());
    assert_eq!(journal.finish(own.clone(), || false, NOW).await.unwrap(), Some(own));
}

#[tokio::test]
async fn what_would_not_be_sent_again_is_written_down_whatever_it_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let echo = echo(1, 1);
    open(&dir).accept(vec![echo.clone()], HashSet::new(), Lost::Gone, NOW).await.unwrap();
    assert_eq!(open(&dir).unfinished().await.unwrap(), [echo]);
}

#[cfg(feature = "planted-bugs")]
#[tokio::test]
async fn what_could_not_be_committed_was_not_taken_and_its_receipts_stay() {
    use hostler_db::planted;
    let dir = tempfile::tempdir().unwrap();
    let (journal, file) = (open(&dir), dir.path().join("journal.db"));
    let (mine, first) = (echo(1, 1), echo(2, 1));
    for one in [&mine, &first] {
        accept_one(&journal, one, &[]).await;
    }
    journal.finish(report(&first, success()), || false, NOW).await.unwrap();
    let held = HeldLease { task: mine.sub, fence: mine.fence };
    journal.receipts.add([(HeldLease { task: first.sub, fence: first.fence }, Receipt::Settled, NOW)]);
    planted::fill(&file);
    let batch = vec![echo(3, 1), echo(1, 2), task(4, 1)];
    journal.accept(batch, [mine.sub].into(), Lost::SentAgain, NOW).await.unwrap_err();
    journal.finish(report(&mine, success()), || false, NOW).await.unwrap_err();
    planted::clear(&file);
    assert_eq!(journal.traceless.leases(), [held], "what was there is there as it was");
    assert!(journal.finish(report(&mine, success()), || false, NOW).await.unwrap().is_some());
    assert_eq!(journal.held().await.unwrap(), [held], "and the receipt was written with the end");
}

#[tokio::test]
async fn a_receipt_is_written_with_the_next_end() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, second) = (open(&dir), echo(1, 1), echo(2, 1));
    for one in [&first, &second] {
        accept_one(&journal, one, &[]).await;
    }
    journal.finish(report(&first, success()), || false, NOW).await.unwrap();
    let held = HeldLease { task: first.sub, fence: first.fence };
    let forgetting = tokio::spawn({
        let journal = journal.clone();
        async move { journal.forget(vec![(held, Receipt::Settled)], NOW).await }
    });
    tokio::task::yield_now().await;
    let last = report(&second, success());
    journal.finish(last.clone(), || false, NOW).await.unwrap();
    forgetting.abort();
    assert_eq!(open(&dir).unreported().await.unwrap(), [last]);
}

#[tokio::test]
async fn a_later_attempt_is_judged_by_a_receipt_that_is_not_written_yet() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, second) = (open(&dir), task(1, 1), task(1, 2));
    accept_one(&journal, &first, &[]).await;
    let end = End::Failed { code: Code::HandlerFailed, detail: "no".into(), retryable: true, effects: Effects::Remain };
    journal.finish(report(&first, end), || false, NOW).await.unwrap();
    let held = |of: &Assignment| HeldLease { task: of.sub, fence: of.fence };
    journal.receipts.add([(held(&task(9, 1)), Receipt::Settled, NOW), (held(&first), Receipt::Settled, NOW)]);
    // Without it the failure would be taken for one that the server never saw, and reported in place of another try.
    assert_eq!(accept_one(&journal, &second, &[]).await, begun(&second, Start::Uncertain));
    assert_eq!(journal.receipts.take().len(), 1, "that of another task waits on");
}
