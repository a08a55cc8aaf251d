//! The loop that removes what ended longer ago than it is kept for. A walk goes from the oldest to what is too young, in
//! small pieces with pauses, so that whoever else writes hardly notices however much there is.

use std::{sync::Arc, time::Duration};

use hostler_store::Old;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Outage;
use crate::app::App;

/// A pause is so many times as long as the piece before it took: a fifth of the time of those who write, at most.
const PAUSES: u32 = 4;
/// And at least this long.
const PAUSE: Duration = Duration::from_millis(10);

/// Walks over everything again and again until `closing`.
pub(super) async fn forget(app: Arc<App>, every: Duration, closing: CancellationToken) {
    if app.store.history().is_none() {
        return;
    }
    let mut outage = Outage::new("forget");
    while rested(every, &closing).await {
        for old in Old::ALL {
            walk(&app, old, &mut outage, &closing).await;
        }
        outage.note(&app.store.thin_checkpoints().await);
    }
}

/// Whether the pause went by: otherwise all is to end.
async fn rested(pause: Duration, closing: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = closing.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}

/// Over all of one noun, or as far as the store works.
async fn walk(app: &App, old: Old, outage: &mut Outage, closing: &CancellationToken) {
    let (mut after, mut removed, mut pause) = (None, 0, PAUSE);
    while rested(pause, closing).await {
        let begun = Instant::now();
        let forgotten = app.store.forget(old, after).await;
        outage.note(&forgotten);
        app.metrics.passed("forget", forgotten.as_ref().ok().map(|forgotten| forgotten.removed));
        let Ok(forgotten) = forgotten else { break };
        app.metrics.forgot(old, forgotten.removed);
        removed += forgotten.removed;
        after = forgotten.next;
        if after.is_none() {
            break;
        }
        pause = PAUSE.max(begun.elapsed() * PAUSES);
    }
    if removed > 0 {
        tracing::info!(noun = old.word(), removed, "what ended long ago was removed");
    }
}
