//! What agents call: `/internal/v1`, over mTLS. Bodies are read leniently. The gate has compared the certificate with
//! the path already. Never here: a route for people.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use hostler_model::{
    Code, Fence, Refusal, TaskId,
    image::Manifest,
    internal::{
        Assignments, Heartbeat, HeartbeatAnswer, Join, Joined, ProgressAnswer, ProgressReport, Receipt, Receipts,
        Renew, Report, Reports, StartReport, TaskSecret,
    },
    node::Slots,
};
use hostler_store::Claim;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::{
    PeerIdentity, blob,
    body::{Json, Lenient, PEOPLE},
    path::InPath,
    peer::InRequest,
    query::InQuery,
};
use crate::app::{App, Error, Result};

/// An inventory of some ten thousand machines fits.
const HEARTBEAT: usize = 8 << 20;
/// One result: an exec's stdout and stderr of 64 KiB each, escaped.
const RESULT: usize = 2 << 20;
/// A batch of results.
const RESULTS: usize = 64 << 20;
/// How many results a batch may have.
const BATCH: usize = 1000;
/// How many tasks one poll may get.
const TASKS: usize = 1000;
/// How long a poll waits where nothing is said, and at most: shorter than what is commonly cut off.
const WAIT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(60));

pub(super) async fn join(
    State(app): State<Arc<App>>,
    asked: InRequest,
    Lenient(join): Lenient<Join, PEOPLE>,
) -> Result<Json<Joined>> {
    Ok(Json(app.join(join, asked.origin).await?))
}

pub(super) async fn renew(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    asked: InRequest,
    Lenient(renew): Lenient<Renew, PEOPLE>,
) -> Result<Json<Joined>> {
    Ok(Json(app.renew(identity, &renew.csr_pem, asked.late, asked.origin).await?))
}

pub(super) async fn heartbeat(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    Lenient(heartbeat): Lenient<Heartbeat, HEARTBEAT>,
) -> Result<Json<HeartbeatAnswer>> {
    Ok(Json(app.heartbeat(identity, heartbeat).await?))
}

/// What a poll asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WaitQuery {
    /// Of each class that is not named.
    max: Option<usize>,
    boot: Option<usize>,
    disk: Option<usize>,
    quick: Option<usize>,
    /// An older agent does not know this class: to it, programs in guests are short tasks.
    guest: Option<usize>,
    wait_ms: Option<u64>,
    resync: bool,
    held: String,
}

impl WaitQuery {
    /// Free slots: those of the classes that are named, or `max` of each where none is, or one of each.
    fn free(&self) -> Slots {
        let named = [self.boot, self.disk, self.quick, self.guest].iter().any(Option::is_some);
        let rest = self.max.unwrap_or(if named { 0 } else { 1 });
        let of = |class: Option<usize>| class.unwrap_or(rest).min(TASKS);
        let guest = of(self.guest.or(self.quick));
        Slots { boot: of(self.boot), disk: of(self.disk), quick: of(self.quick), guest }
    }
}

pub(super) async fn wait(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    InQuery(query): InQuery<WaitQuery>,
) -> Result<Json<Assignments>> {
    let up_to = query.wait_ms.map_or(WAIT.0, Duration::from_millis).min(WAIT.1);
    let claim = Claim {
        node: identity.node,
        enrolment: identity.enrolment,
        free: query.free(),
        resync: query.resync.then(|| held(&query.held)).transpose()?,
    };
    let brought = app.dispatch.wait(claim, up_to).await?;
    Ok(Json(Assignments { tasks: app.assignments(identity.node, brought.leased)?, abort: brought.abort }))
}

pub(super) async fn end_wait(State(app): State<Arc<App>>, PeerIdentity(identity): PeerIdentity) -> Result<StatusCode> {
    app.dispatch.end(identity.node, identity.enrolment).await;
    Ok(StatusCode::NO_CONTENT)
}

/// `task:epoch.attempt,…`
fn held(text: &str) -> Result<Vec<(TaskId, Fence)>> {
    text.split(',').filter(|item| !item.is_empty()).map(held_one).collect()
}

fn held_one(text: &str) -> Result<(TaskId, Fence)> {
    let read = || {
        let (task, fence) = text.split_once(':')?;
        Some((task.parse().ok()?, fence.parse().ok()?))
    };
    read().ok_or_else(|| Refusal::field("held", "each item is task:epoch.attempt").into())
}

pub(super) async fn progress(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    path: InPath,
    Lenient(report): Lenient<ProgressReport, PEOPLE>,
) -> Result<Json<ProgressAnswer>> {
    Ok(Json(app.progress(identity, path.task()?, report).await?))
}

pub(super) async fn started(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    path: InPath,
    Lenient(report): Lenient<StartReport, PEOPLE>,
) -> Result<Json<Assignments>> {
    let leased = app.start(identity, path.task()?, report.fence).await?;
    Ok(Json(Assignments { tasks: app.assignments(identity.node, vec![leased])?, abort: Vec::new() }))
}

/// Under which attempt a text is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct SecretQuery {
    fence: String,
}

pub(super) async fn secret(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    path: InPath,
    InQuery(query): InQuery<SecretQuery>,
) -> Result<Json<TaskSecret>> {
    let text = app.reveal(identity, path.task()?, query.fence.parse()?, path.get("secret")?.parse()?).await?;
    Ok(Json(TaskSecret { text }))
}

pub(super) async fn result(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    path: InPath,
    Lenient(reports): Lenient<Reports, RESULT>,
) -> Result<Json<Receipt>> {
    let task = path.task()?;
    let [Report { fence, .. }] = reports.results[..] else {
        return Err(Refusal::field("results", "exactly one belongs here; many go to `results`").into());
    };
    if reports.results.iter().any(|report| report.task != task) {
        return Err(Refusal::field("task", "the path names another task than the result does").into());
    }
    let mut receipts = app.settle(identity, reports).await?;
    match receipts.pop().ok_or(Error::Fault("the store answered fewer items than it was asked"))? {
        Receipt::Settled => Ok(Json(Receipt::Settled)),
        Receipt::Stale => {
            let detail = format!("the attempt {fence} is not the current one; its result changed nothing");
            Err(Refusal::new(Code::StaleFence, detail).into())
        }
        Receipt::Unknown => Err(Refusal::new(Code::TaskNotFound, format!("there is no task {task}")).into()),
    }
}

pub(super) async fn results(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    Lenient(reports): Lenient<Reports, RESULTS>,
) -> Result<Json<Receipts>> {
    if reports.results.len() > BATCH {
        return Err(Refusal::field("results", format!("a batch has at most {BATCH}")).into());
    }
    Ok(Json(Receipts { receipts: app.settle(identity, reports).await? }))
}

pub(super) async fn manifest(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    path: InPath,
) -> Result<Json<Manifest>> {
    app.working(identity).await?;
    Ok(Json(app.manifest(path.get("digest")?).await?))
}

pub(super) async fn bytes(
    State(app): State<Arc<App>>,
    PeerIdentity(identity): PeerIdentity,
    path: InPath,
    headers: HeaderMap,
) -> Result<Response> {
    app.working(identity).await?;
    blob::serve(&app, path.get("sha256")?, &headers).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_read_or_refused() {
        let id = "01900000-0000-7000-8000-000000000042";
        let read = held(&format!("{id}:1.3,")).unwrap();
        assert_eq!(read, [(id.parse().unwrap(), Fence { store_epoch: 1, attempt: 3 })]);
        assert_eq!(held("").unwrap(), []);
        for bad in [id, "x:1.1", &format!("{id}:1")] {
            assert!(held(bad).is_err(), "{bad}");
        }
    }
}
