//! The work on one attempt, from its slot to its result in the journal: a task of its own, which runs the handler, tells
//! the server how far it is, and watches the deadline.

use std::{convert::Infallible, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use hostler_model::{
    Timestamp,
    internal::{Assignment, ProgressReport, Report},
    task::{End, Intent, Progress},
};

use crate::{
    agent::Node,
    attempt::{Attempt, Cause, Works},
    handler,
    journal::Start,
    metrics::Counter,
};

/// How long after the journal failed it is tried again: a full disk may have room then.
const JOURNAL_AGAIN: Duration = Duration::from_secs(1);

/// Lines alone are told this often at most: soon enough for who watches, and few calls for who does not.
const LINES_EVERY: Duration = Duration::from_millis(200);

/// Begins to work on what the journal has.
pub fn begin(node: &Arc<Node>, assignment: Assignment, start: Start) {
    let attempt = Arc::new(Attempt::new(assignment.sub, assignment.kind, assignment.fence));
    if assignment.intent == Intent::Abort {
        attempt.stop(Cause::Abort);
    }
    let before = node.works.add(attempt.clone());
    let node = node.clone();
    let tether = node.tether.clone();
    tether.spawn(async move {
        if let Some(before) = before {
            // It was told that it is over and is on its way out: two never work on one task.
            Works::gone(&before).await;
            if !insist(|| node.journal.is_open(attempt.lease())).await {
                node.works.remove(&attempt);
                return;
            }
        }
        let end = perform(&node, &attempt, &assignment, start).await;
        conclude(&node, &attempt, end).await;
        node.works.remove(&attempt);
    });
}

async fn perform(node: &Node, attempt: &Arc<Attempt>, assignment: &Assignment, start: Start) -> Option<End> {
    tokio::select! {
        biased;
        end = handle(node, attempt, assignment, start) => end,
        never = progress(node, attempt) => match never {},
        never = deadline(attempt, assignment.deadline, node) => match never {},
    }
}

async fn handle(node: &Node, attempt: &Arc<Attempt>, assignment: &Assignment, start: Start) -> Option<End> {
    let class = assignment.kind.spec().class;
    // An attempt that is to stop does not wait for a slot: there is nothing to do but to undo.
    let _slot = tokio::select! {
        biased;
        slot = node.works.slot(class) => slot,
        _ = attempt.stopped() => None,
    };
    attempt.start(node.clock.now());
    let work = handler::carry_out(assignment, start, attempt, &node.tools);
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(end) => end,
        Err(_) => Some(handler::panicked(assignment.kind)),
    }
}

async fn deadline(attempt: &Attempt, deadline: Timestamp, node: &Node) -> Infallible {
    tokio::time::sleep(deadline.since(node.clock.now())).await;
    attempt.stop(Cause::Deadline);
    std::future::pending().await
}

/// Tells the server each new phase, percent and line, one call at a time: what changes meanwhile is told by the next.
/// Lines alone wait a little, so that many of them are one call. A call that fails is not repeated, and its lines go
/// with the next; heartbeats renew the lease, and results need none of this but take the last lines with them.
async fn progress(node: &Node, attempt: &Attempt) -> Infallible {
    let mut changes = attempt.progress();
    let mut told = Progress::default();
    let mut lines_from = tokio::time::Instant::now();
    loop {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            biased;
            // A sender that has gone never tells of a change.
            Ok(_) = changes.wait_for(|progress| *progress != told) => {}
            () = tokio::time::sleep_until(lines_from) => {}
        }
        told = changes.borrow_and_update().clone();
        tell(node, attempt, told.clone()).await;
        lines_from = tokio::time::Instant::now() + LINES_EVERY;
    }
}

async fn tell(node: &Node, attempt: &Attempt, progress: Progress) {
    let started_at = attempt.started_at().unwrap_or_else(|| node.clock.now());
    let report = ProgressReport { fence: attempt.fence(), started_at, progress, log: attempt.lines() };
    match node.server.progress(attempt.task, &report).await {
        Ok(answer) => {
            attempt.acknowledge(&report.log);
            if answer.abort {
                attempt.stop(Cause::Abort);
            }
        }
        Err(error) => tracing::debug!(task.id = %attempt.task, %error, "progress was not told"),
    }
}

/// Writes the end down and hands it to the reporter.
async fn conclude(node: &Node, attempt: &Arc<Attempt>, end: Option<End>) {
    let Some(end) = end else {
        let held = attempt.lease();
        tracing::info!(task.id = %attempt.task, task.kind = %attempt.kind, fence = %held.fence, "stopped: the attempt is over");
        insist(|| node.journal.abandon(held, node.clock.now())).await;
        return;
    };
    let now = node.clock.now();
    let report = Report {
        task: attempt.task,
        fence: attempt.fence(),
        end,
        phases: attempt.timings(),
        log: attempt.lines(),
        started_at: attempt.started_at().unwrap_or(now),
        finished_at: now,
    };
    say(attempt, &report);
    node.metrics.add(Counter::Ended);
    let coming = node.outbox.coming();
    let finish = || {
        let attempt = attempt.clone();
        node.journal.finish(report.clone(), move || attempt.cause() == Some(Cause::Over), now)
    };
    if let Some(report) = insist(finish).await {
        coming.came(report);
    }
}

/// A result is not reported before it is written down, however long that takes.
async fn insist<T, F: Future<Output = hostler_db::Result<T>>>(mut write: impl FnMut() -> F) -> T {
    let mut said = false;
    loop {
        match write().await {
            Ok(value) => return value,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::error!(%error, "the journal cannot be written; results wait until it can");
                }
                tokio::time::sleep(JOURNAL_AGAIN).await;
            }
        }
    }
}

fn say(attempt: &Attempt, report: &Report) {
    let Report { task, fence, end, .. } = report;
    let ms = report.finished_at.since(report.started_at).as_millis();
    match end {
        End::Succeeded { .. } => tracing::info!(task.id = %task, task.kind = %attempt.kind, %fence, ms, "done"),
        End::Cancelled { effects } => {
            tracing::info!(task.id = %task, task.kind = %attempt.kind, %fence, ms, ?effects, "stopped");
        }
        End::Failed { code, detail, effects, .. } => {
            tracing::warn!(task.id = %task, task.kind = %attempt.kind, %fence, ms, %code, detail, ?effects, "failed");
        }
    }
}
