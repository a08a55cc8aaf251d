//! Events and the audit: the log, read from a number on. A follower reads the store at its own pace, so that nothing is
//! skipped; one that does not take what it is given is let go, and comes back with the last number that it saw.

use std::{sync::Arc, time::Duration};

use hostler_model::{
    Code, Refusal,
    event::{Class, Entry},
};
use hostler_store::LogFilter;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    App, Result,
    bell::LOOK,
    caller::{Call, Reach},
};

/// How many entries are read at once.
const PAGE: usize = 256;
/// How many entries wait for a slow follower.
const AHEAD: usize = 64;
/// How long a follower may take no entry before it is let go.
const PATIENCE: Duration = Duration::from_secs(30);

/// A log that is followed.
#[derive(Debug)]
pub struct Following {
    /// Entries above this number come; whoever comes back before the first one came resumes from here.
    pub after: i64,
    /// The entries.
    pub entries: mpsc::Receiver<Entry>,
}

impl App {
    /// Audit entries with a number above `after`, oldest first.
    pub async fn audit(&self, call: &Call, after: i64, limit: usize) -> Result<Vec<Entry>> {
        let filter = LogFilter { class: Some(Class::Audit), ..visible(call) };
        Ok(self.store.log(filter, after, limit).await?)
    }

    /// Events as they come, from the number after `after` on, or from now on. The stream ends with the credential, and when
    /// the server goes away, the store fails, or the follower is too slow.
    pub async fn follow(self: &Arc<Self>, call: &Call, after: Option<i64>, subject: Option<Uuid>) -> Result<Following> {
        let head = self.store.log_head().await?;
        let after = after.unwrap_or(head);
        if after < 0 || after > head {
            let detail = format!("the log's last number is {head}; {after} was never given out");
            return Err(Refusal::new(Code::CursorInvalid, detail).with("last", head).into());
        }
        let filter = LogFilter { class: Some(Class::Event), subject, ..visible(call) };
        let (sender, entries) = mpsc::channel(AHEAD);
        let (app, caller) = (self.clone(), call.caller.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = app.no_longer(&caller) => {}
                () = feed(&app, &filter, after, &sender) => {}
            }
        });
        Ok(Following { after, entries })
    }
}

/// What of the log exists for this caller.
pub(super) fn visible(call: &Call) -> LogFilter {
    let tenant = match call.reach {
        Reach::Tenant(tenant) => Some(tenant),
        Reach::Platform(_) => None,
    };
    LogFilter { tenant, ..LogFilter::default() }
}

async fn feed(app: &App, filter: &LogFilter, mut after: i64, to: &mpsc::Sender<Entry>) {
    let mut on_log = app.bell.on_log();
    loop {
        on_log.mark_unchanged();
        let step = tokio::select! {
            biased;
            () = app.closing.cancelled() => return,
            step = pass_on(app, filter, after, to) => step,
        };
        let Some(step) = step else { return };
        after = step.after;
        if step.more {
            continue;
        }
        tokio::select! {
            biased;
            _ = tokio::time::timeout(LOOK, on_log.changed()) => {}
            () = to.closed() => return,
            () = app.closing.cancelled() => return,
        }
    }
}

struct Step {
    after: i64,
    more: bool,
}

/// One page; `None` when this is the end.
async fn pass_on(app: &App, filter: &LogFilter, after: i64, to: &mpsc::Sender<Entry>) -> Option<Step> {
    // Asked for first: what the filter leaves out below it need not be read again.
    let head = app.store.log_head().await.ok()?;
    if head <= after {
        return Some(Step { after, more: false });
    }
    let entries = app.store.log(filter.clone(), after, PAGE).await.ok()?;
    let more = entries.len() == PAGE;
    let last = entries.last().map_or(after, |entry| entry.seq);
    for entry in entries {
        to.send_timeout(entry, PATIENCE).await.ok()?;
    }
    Some(Step { after: if more { last } else { last.max(head) }, more })
}
