//! Results on their way to the server: gathered, sent in batches, repeated until each has a receipt.
//!
//! ```text
//! journal.finish ──► pending ──POST results, or by the broker──► receipt ──► journal.forget
//! ```
//!
//! A result is in the journal before it comes here, so nothing is lost with this process. Results that are written down
//! together come here one after the other: a batch waits a moment for those on their way.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hostler_link::LinkError;
use hostler_model::{
    Ids, TaskId,
    internal::{HeldLease, Receipt, Report, Reports},
    task::End,
};
use tokio::{sync::Notify, time::timeout};

use crate::{agent::Node, backoff::Outage};

/// At most this many results in one call: about as many as the server settles in one commit.
const BATCH: usize = 256;
/// At most about this many bytes of them: well below the 64 MiB that the server reads, escaped as JSON may be.
const BATCH_BYTES: usize = 4 << 20;

/// How long a batch waits for results that are being written down: as long as a commit takes on a disk that is not slow.
const GATHER: Duration = Duration::from_millis(2);

/// The results that the server does not have yet.
#[derive(Debug, Default)]
pub struct Outbox {
    held: Mutex<Pending>,
    more: Notify,
    less: Notify,
    /// Told when none is on its way any more.
    all: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    reports: BTreeMap<TaskId, Report>,
    /// How many are being written down.
    coming: usize,
}

/// A result that is being written down. Without one in the end (the attempt was over) it is dropped.
#[derive(Debug)]
pub struct Coming<'a>(&'a Outbox);

impl Coming<'_> {
    /// It is written down.
    pub fn came(self, report: Report) {
        // What is on its way is counted down after this, so that a batch does not miss it.
        self.0.push(report);
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut held = self.0.lock();
        held.coming -= 1;
        if held.coming == 0 {
            self.0.all.notify_waiters();
        }
    }
}

impl Outbox {
    /// Adds a result. A later fence of the same task takes the place of an earlier one.
    pub fn push(&self, report: Report) {
        self.lock().reports.insert(report.task, report);
        self.more.notify_one();
    }

    /// Says that one is being written down.
    pub fn coming(&self) -> Coming<'_> {
        self.lock().coming += 1;
        Coming(self)
    }

    /// The leases of what is pending.
    pub fn leases(&self) -> Vec<HeldLease> {
        self.lock().reports.values().map(|report| HeldLease { task: report.task, fence: report.fence }).collect()
    }

    /// Waits until everything has a receipt.
    pub async fn empty(&self) {
        loop {
            let less = self.less.notified();
            if self.lock().reports.is_empty() {
                return;
            }
            less.await;
        }
    }

    async fn batch(&self) -> Vec<Report> {
        loop {
            let more = self.more.notified();
            if !self.lock().reports.is_empty() {
                // The time that is up is all that there was to be waited for.
                let _ = timeout(GATHER, self.all_came()).await;
                return first(&self.lock().reports);
            }
            more.await;
        }
    }

    async fn all_came(&self) {
        loop {
            let all = self.all.notified();
            if self.lock().coming == 0 {
                return;
            }
            all.await;
        }
    }

    /// Takes out what has a receipt, unless a later fence has taken its place.
    fn remove(&self, held: &HeldLease) {
        let mut pending = self.lock();
        if pending.reports.get(&held.task).is_some_and(|report| report.fence == held.fence) {
            pending.reports.remove(&held.task);
        }
        drop(pending);
        self.less.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many as go into one call, at least one.
fn first(pending: &BTreeMap<TaskId, Report>) -> Vec<Report> {
    let mut bytes = 0usize;
    let fits = |report: &&Report| {
        let first = bytes == 0;
        bytes += weight(report);
        first || bytes <= BATCH_BYTES
    };
    pending.values().take(BATCH).take_while(fits).cloned().collect()
}

/// About how long a result is. Only texts can be long.
fn weight(report: &Report) -> usize {
    const REST: usize = 256;
    match &report.end {
        End::Succeeded { output: serde_json::Value::Object(fields) } => {
            REST + fields.values().filter_map(|value| value.as_str()).map(str::len).sum::<usize>()
        }
        End::Failed { detail, .. } => REST + detail.len(),
        End::Succeeded { .. } | End::Cancelled { .. } => REST,
    }
}

/// Sends results for as long as the agent lives.
pub async fn send(node: &Node, ids: Ids) {
    let mut outage = Outage::none(ids, "results");
    loop {
        let batch = node.outbox.batch().await;
        if let Some(road) = &node.road {
            // Nobody waits for a turn while there is no way.
            road.open().await;
        }
        match post(node, &batch).await {
            Ok(receipts) => {
                outage.over();
                settle(node, &batch, receipts);
            }
            // One result that the server cannot read must not hold up the others for ever.
            Err(error) if is_refusal(&error) => one_by_one(node, batch).await,
            Err(error) => outage.pause(&error).await,
        }
    }
}

async fn post(node: &Node, batch: &[Report]) -> Result<Vec<Receipt>, LinkError> {
    fail::fail_point!("agent.report.before");
    // An inventory that is under way may not know yet what these results say: see `heartbeat`.
    let turn = node.turn.lock().await;
    let answer = match &node.road {
        Some(road) => {
            // A broker may take longer than a lease. Heartbeats from now on know what these results say.
            drop(turn);
            road.results(node, batch).await
        }
        None => node.server.results(&signed(node, batch)?).await,
    };
    fail::fail_point!("agent.report.after");
    let receipts = answer?.receipts;
    if receipts.len() != batch.len() {
        return Err(LinkError::Unreadable(format!("{} receipts for {} results", receipts.len(), batch.len())));
    }
    Ok(receipts)
}

fn signed(node: &Node, batch: &[Report]) -> Result<Reports, LinkError> {
    let trust = node.trust.read().unwrap_or_else(PoisonError::into_inner).clone();
    let signed = trust.signer.sign(batch.to_vec(), &trust.issuer);
    signed.map_err(|error| LinkError::BadRequest(error.to_string()))
}

/// Whether the server cannot read what it was sent; other refusals (an identity that is over, too much at once) are
/// not about the results.
fn is_refusal(error: &LinkError) -> bool {
    matches!(error.status().map(|status| status.as_u16()), Some(400 | 413 | 422))
}

async fn one_by_one(node: &Node, batch: Vec<Report>) {
    for report in batch {
        let report = [report];
        match post(node, &report).await {
            Ok(receipts) => settle(node, &report, receipts),
            Err(error) if is_refusal(&error) => {
                let [Report { task, fence, .. }] = report;
                tracing::error!(task.id = %task, %fence, %error, "the server refuses a result; it stays in the journal until the next start");
                node.outbox.remove(&HeldLease { task, fence });
            }
            // The next batch will hear the same.
            Err(_) => return,
        }
    }
}

fn settle(node: &Node, batch: &[Report], receipts: Vec<Receipt>) {
    let held = batch.iter().map(|report| HeldLease { task: report.task, fence: report.fence });
    let settled: Vec<(HeldLease, Receipt)> = held.zip(receipts).collect();
    for (held, receipt) in &settled {
        node.outbox.remove(held);
        if *receipt != Receipt::Settled {
            tracing::info!(task.id = %held.task, fence = %held.fence, ?receipt, "a result changed nothing");
        }
    }
    // The next results do not wait for it.
    let (journal, now) = (node.journal.clone(), node.clock.now());
    node.tether.spawn(async move {
        if let Err(error) = journal.forget(settled, now).await {
            // What is not forgotten is reported once more by the next start, and answered as before.
            tracing::error!(%error, "the journal cannot note what the server has");
        }
    });
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn report(n: u128) -> Report {
        let end = End::Succeeded { output: serde_json::Value::Null };
        let (task, now) = (TaskId(uuid::Uuid::from_u128(n)), hostler_model::Timestamp::from_micros(0));
        let fence = hostler_model::Fence { store_epoch: 1, attempt: 1 };
        Report { task, fence, end, phases: Vec::new(), log: Vec::new(), started_at: now, finished_at: now }
    }

    #[tokio::test(start_paused = true)]
    async fn results_that_are_written_down_together_go_together_and_nobody_waits_long_for_one_that_does_not_come() {
        let (outbox, begun) = (Outbox::default(), tokio::time::Instant::now());
        let [first, second, over, stuck] = [(); 4].map(|()| outbox.coming());
        let coming = async {
            first.came(report(1));
            tokio::task::yield_now().await;
            second.came(report(2));
            tokio::task::yield_now().await;
            drop(over);
        };
        let (batch, ()) = tokio::join!(outbox.batch(), coming);
        assert_eq!((batch.len(), begun.elapsed().as_millis()), (2, GATHER.as_millis()));
        drop(stuck);
        assert_eq!(
            (outbox.batch().await.len(), begun.elapsed().as_millis()),
            (2, GATHER.as_millis()),
            "none is coming"
        );
    }

    #[test]
    fn what_is_not_about_the_results_leaves_them_to_be_sent_again() {
        let refused = |status| is_refusal(&LinkError::Unexpected { status, detail: String::new() });
        assert!(
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS].map(refused) == [false; 3]
        );
        assert!(refused(StatusCode::UNPROCESSABLE_ENTITY));
    }
}
