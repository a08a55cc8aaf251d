//! Snapshots: `/api/v1/snapshots`, and those of one machine. Each change of one is a task of the matching kind.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    SnapshotId,
    api::{NewRestore, NewSnapshot, Page, TargetRef},
    kind::KindName,
    snapshot::{Snapshot, SnapshotState},
};
use hostler_store::SnapshotFilter;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    asked::{Asked, SubmitHeaders, SubmitQuery},
    body::{Json, Nothing, Strict},
    cursor::{self, List},
    document::{Filed, Refusals},
    path::InPath,
    query::{InQuery, before, limit},
};
use crate::app::{App, Result, caller::Call};

/// Which snapshots.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SnapshotsQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only in this state; all that are not deleted where nothing is said.
    state: Option<SnapshotState>,
}

/// Lists snapshots, newest first.
#[utoipa::path(get, path = "/api/v1/snapshots", tag = "snapshots", params(SnapshotsQuery),
    responses((status = 200, description = "A page of snapshots", body = Page<Snapshot>), Refusals))]
pub(super) async fn list_snapshots(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<SnapshotsQuery>,
) -> Result<Json<Page<Snapshot>>> {
    list(&app, &call, query, SnapshotFilter::default()).await
}

/// Lists a machine's snapshots, newest first.
#[utoipa::path(get, path = "/api/v1/vms/{vm}/snapshots", tag = "snapshots",
    params(("vm" = String, Path, description = "The machine's id or name"), SnapshotsQuery),
    responses((status = 200, description = "A page of snapshots", body = Page<Snapshot>), Refusals))]
pub(super) async fn list_vm_snapshots(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(query): InQuery<SnapshotsQuery>,
) -> Result<Json<Page<Snapshot>>> {
    let vm = app.vm(&call, path.get("vm")?).await?;
    list(&app, &call, query, SnapshotFilter { vm: Some(vm.id), ..SnapshotFilter::default() }).await
}

async fn list(app: &App, call: &Call, query: SnapshotsQuery, filter: SnapshotFilter) -> Result<Json<Page<Snapshot>>> {
    let limit = limit(query.limit)?;
    let before = before::<SnapshotId>(List::Snapshots, query.cursor.as_deref())?;
    let filter = SnapshotFilter { state: query.state, ..filter };
    let snapshots = app.snapshots(call, filter, before, limit + 1).await?;
    Ok(Json(cursor::page(List::Snapshots, snapshots, limit, |snapshot| snapshot.id.0)))
}

/// Takes a snapshot of a machine: of its disk, or of its memory and its disk. The machine goes on.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/snapshots", tag = "snapshots",
    params(("vm" = String, Path, description = "The machine's id or name"), SubmitQuery, SubmitHeaders),
    request_body = NewSnapshot,
    responses(Filed, Refusals))]
pub(super) async fn take_snapshot(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewSnapshot>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmSnapshot, path.on_vm()?, &body).await
}

/// Puts a machine back to one of its snapshots, in place. What it did since is lost.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/restore", tag = "snapshots",
    params(("vm" = String, Path, description = "The machine's id or name"), SubmitQuery, SubmitHeaders),
    request_body = NewRestore,
    responses(Filed, Refusals))]
pub(super) async fn restore_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewRestore>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmRestore, path.on_vm()?, &body).await
}

/// Shows a snapshot.
#[utoipa::path(get, path = "/api/v1/snapshots/{snapshot}", tag = "snapshots",
    params(("snapshot" = String, Path, description = "Its id")),
    responses((status = 200, description = "The snapshot", body = Snapshot), Refusals))]
pub(super) async fn show_snapshot(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Json<Snapshot>> {
    Ok(Json(app.snapshot(&call, path.get("snapshot")?).await?))
}

/// Removes a snapshot. The machine stays as it is.
#[utoipa::path(delete, path = "/api/v1/snapshots/{snapshot}", tag = "snapshots",
    params(("snapshot" = String, Path, description = "Its id"), SubmitQuery, SubmitHeaders),
    responses(Filed, Refusals))]
pub(super) async fn delete_snapshot(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<Nothing>,
) -> Result<Response> {
    let snapshot = app.snapshot(&call, path.get("snapshot")?).await?;
    let target = TargetRef { vm: Some(snapshot.vm.to_string()), node: None };
    let body: Strict<Value> = Strict { value: json!({"snapshot": snapshot.id}), sha256: body.sha256 };
    asked.submit(&app, &call, KindName::SnapshotDelete, target, &body).await
}
