//! The loops: passes over the store that judge what time has done. Each runs on a timer, takes no input, is idempotent
//! and bounded, and says what it did; a failure is counted and never ends it. Every replica runs all of them: the
//! store's steps make that harmless. Never here: a decision (the store's steps ask the model for those).

mod history;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use hostler_store::{Store, Swept, Wakes};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::app::{App, blob::Among};

/// How many passes may follow at once while there is more to do, before others get their turn.
const AT_ONCE: usize = 64;
/// How much an interval varies, so that replicas spread: a tenth to either side.
const JITTER: f64 = 0.2;

/// How often each loop runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pace {
    /// Leases that ran out; 1 s by default: a lease lasts 30.
    pub lapse_leases: Duration,
    /// Tasks that nobody leased in time; 1 s by default: deadlines are given in seconds.
    pub expire_queued: Duration,
    /// Tasks that run too long; 1 s by default.
    pub expire_running: Duration,
    /// Nodes that are silent; 2 s by default: a heartbeat comes every 5.
    pub judge_nodes: Duration,
    /// Machines that wait for a node with room; 500 ms by default: somebody waits for them.
    pub place_waiting: Duration,
    /// Nodes that are being drained; 1 s by default: somebody waits for the last machine's end.
    pub drain_nodes: Duration,
    /// Machines that are to be started by themselves; 500 ms by default: the shortest pause before that is 1 s.
    pub restart_vms: Duration,
    /// Machines whose time is over; 1 s by default: it is given in seconds.
    pub expire_vms: Duration,
    /// Idempotency keys that are over; 10 min by default: they last a day.
    pub drop_idempotency_keys: Duration,
    /// Minutes of statistics that are no longer told one by one; 1 min by default: what they are.
    pub fold_stats: Duration,
    /// Amounts held by hand whose time is up.
    pub expire_reservations: Duration,
    /// Imports whose server is silent; 5 s by default: it speaks every second.
    pub lapse_imports: Duration,
    /// A walk over what ended long ago; 1 h by default: how long that is kept is given in days.
    pub forget: Duration,
    /// What broken uploads left, and blobs without an image; 1 min by default: nobody waits for their room.
    pub collect_blobs: Duration,
    /// Where the log's chain stands is signed; 60 s by default: so much of it, at most, could be written anew unseen, and
    /// so often is said that it is not the one that was signed.
    pub sign_chain: Duration,
    /// Keys that sign tasks and nodes that were revoked, beside the hints; 1 s by default: so late may another server be to
    /// believe one no longer.
    pub refresh_trust: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            lapse_leases: Duration::from_secs(1),
            expire_queued: Duration::from_secs(1),
            expire_running: Duration::from_secs(1),
            judge_nodes: Duration::from_secs(2),
            place_waiting: Duration::from_millis(500),
            drain_nodes: Duration::from_secs(1),
            restart_vms: Duration::from_millis(500),
            expire_vms: Duration::from_secs(1),
            drop_idempotency_keys: Duration::from_secs(600),
            fold_stats: Duration::from_secs(60),
            expire_reservations: Duration::from_secs(5),
            lapse_imports: Duration::from_secs(5),
            forget: Duration::from_secs(60 * 60),
            collect_blobs: Duration::from_secs(60),
            sign_chain: Duration::from_secs(60),
            refresh_trust: Duration::from_secs(1),
        }
    }
}

type Pass = Pin<Box<dyn Future<Output = hostler_store::Result<Swept>> + Send>>;

/// One loop.
pub(crate) struct Loop {
    name: &'static str,
    every: Duration,
    run_once: fn(Store) -> Pass,
}

/// Every loop there is.
fn all(pace: &Pace) -> Vec<Loop> {
    let of = |name, every, run_once| Loop { name, every, run_once };
    vec![
        of("lapse_leases", pace.lapse_leases, |store| Box::pin(async move { store.lapse_leases().await })),
        of("expire_queued", pace.expire_queued, |store| Box::pin(async move { store.expire_queued().await })),
        of("expire_running", pace.expire_running, |store| Box::pin(async move { store.expire_running().await })),
        of("judge_nodes", pace.judge_nodes, |store| Box::pin(async move { store.judge_nodes().await })),
        of("place_waiting", pace.place_waiting, |store| Box::pin(async move { store.place_waiting().await })),
        of("drain_nodes", pace.drain_nodes, |store| Box::pin(async move { store.drain_nodes().await })),
        of("restart_vms", pace.restart_vms, |store| Box::pin(async move { store.restart_vms().await })),
        of("expire_vms", pace.expire_vms, |store| Box::pin(async move { store.expire_vms().await })),
        of("drop_idempotency_keys", pace.drop_idempotency_keys, |store| {
            Box::pin(async move { store.drop_idempotency_keys().await })
        }),
        of("expire_reservations", pace.expire_reservations, |store| {
            Box::pin(async move { store.expire_reservations().await })
        }),
        of("fold_stats", pace.fold_stats, |store| Box::pin(async move { store.fold_stats().await })),
        of("lapse_imports", pace.lapse_imports, |store| Box::pin(async move { store.lapse_imports().await })),
    ]
}

/// Runs every loop until `closing`, and returns when each has ended its pass.
pub(crate) async fn run(app: Arc<App>, pace: Pace, closing: CancellationToken) {
    let running = TaskTracker::new();
    for one in all(&pace) {
        running.spawn(drive(app.clone(), one, closing.clone()));
    }
    running.spawn(history::forget(app.clone(), pace.forget, closing.clone()));
    running.spawn(collect(app.clone(), pace.collect_blobs, closing.clone()));
    running.spawn(sign_chain(app.clone(), pace.sign_chain, closing.clone()));
    running.spawn(refresh_trust(app.clone(), pace.refresh_trust, closing.clone()));
    running.close();
    running.wait().await;
}

async fn drive(app: Arc<App>, one: Loop, closing: CancellationToken) {
    let mut outage = Outage::new(one.name);
    loop {
        let pause = one.every.mul_f64(1.0 + JITTER * (app.ids.unit() - 0.5));
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        for _ in 0..AT_ONCE {
            if !pass(&app, &one, &mut outage).await || closing.is_cancelled() {
                break;
            }
        }
    }
}

/// Clears the folder of blobs, which the store knows nothing of. What lay there at the start was looked at then.
async fn collect(app: Arc<App>, every: Duration, closing: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let blobs = app.blobs.clone();
        drop(tokio::task::spawn_blocking(move || blobs.sweep()).await);
        match app.collect_blobs(Among::Old).await {
            Ok(0) => {}
            Ok(blobs) => tracing::info!(blobs, "blobs that no image needs were removed"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "blobs that no image needs cannot be removed");
            }
        }
    }
}

/// Signs where the log's chain stands, from time to time, and once more at the end. Each time that it does not is told: a log
/// that somebody wrote anew is not to be overlooked.
async fn sign_chain(app: Arc<App>, every: Duration, closing: CancellationToken) {
    loop {
        let last = tokio::select! {
            biased;
            () = closing.cancelled() => true,
            () = tokio::time::sleep(every) => false,
        };
        if let Err(error) = app.sign_chain().await {
            tracing::error!(error = &error as &dyn std::error::Error, "the log's chain is not signed");
        }
        if last {
            return;
        }
    }
}

/// Keeps up with the keys that sign tasks and with the nodes that were revoked or removed, whichever server changes them; and writes
/// down who logged in and who was refused here, once more at the end.
async fn refresh_trust(app: Arc<App>, every: Duration, closing: CancellationToken) {
    let (mut wakes, mut failing) = (app.store.wakes(), false);
    loop {
        let last = tokio::select! {
            biased;
            () = closing.cancelled() => true,
            () = tokio::time::sleep(every) => false,
            () = changed(&mut wakes) => false,
        };
        let (read, sent, told) = (app.refresh_trust().await, app.tell_logins().await, app.tell_denied().await);
        let done = read.and(sent).and(told).and(app.tell_refused_joins().await);
        if let Err(error) = &done
            && !failing
        {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "whom to believe, or who came, cannot be read or told"
            );
        }
        failing = done.is_err();
        if last {
            return;
        }
    }
}

/// Waits for a hint that others are to be believed.
async fn changed(wakes: &mut broadcast::Receiver<Wakes>) {
    loop {
        match wakes.recv().await {
            Ok(wake) if wake.trust || wake.all => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            // The store is gone; whoever waits does so for another reason too.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// One pass; whether there is more to do at once.
async fn pass(app: &App, one: &Loop, outage: &mut Outage) -> bool {
    let swept = (one.run_once)(app.store.clone()).await;
    outage.note(&swept);
    app.metrics.passed(one.name, swept.as_ref().ok().map(|swept| swept.changed));
    let Ok(swept) = swept else { return false };
    if swept.changed > 0 {
        tracing::info!(r#loop = one.name, changed = swept.changed, "a loop changed something");
    }
    swept.more
}

/// Logs the beginning and the end of a time in which the store fails somebody, not every failure in between.
#[derive(Debug)]
pub(crate) struct Outage {
    whose: &'static str,
    failures: u64,
}

impl Outage {
    pub(crate) fn new(whose: &'static str) -> Outage {
        Outage { whose, failures: 0 }
    }

    pub(crate) fn note<T>(&mut self, result: &hostler_store::Result<T>) {
        match result {
            Err(error) => {
                if self.failures == 0 {
                    tracing::error!(whose = self.whose, error = error as &dyn std::error::Error, "the store fails");
                }
                self.failures += 1;
            }
            Ok(_) if self.failures > 0 => {
                tracing::info!(whose = self.whose, failures = self.failures, "the store works again");
                self.failures = 0;
            }
            Ok(_) => {}
        }
    }
}
