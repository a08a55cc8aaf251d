//! Machines: `/api/v1/vms`. Each change of one is a task of the matching kind.

pub(super) mod edit;

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    VmId,
    api::{NewExec, NewTask, NewVm, Page, Submitted, TargetRef},
    kind::{KindName, VmCreateParams, VmExecParams},
    vm::{Vm, VmState},
};
use hostler_store::VmFilter;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    asked::{Asked, SubmitHeaders, SubmitQuery},
    body::{Json, Nothing, Strict},
    cursor::{self, List},
    document::Refusals,
    etag::tagged,
    path::InPath,
    query::{InQuery, before, limit},
};
use crate::app::{App, Error, Result, caller::Call};

/// Which machines.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VmsQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only in this state; all that are not deleted where nothing is said.
    state: Option<VmState>,
    /// Only on this node, by id or name.
    node: Option<String>,
}

/// Lists machines, newest first.
#[utoipa::path(get, path = "/api/v1/vms", tag = "vms", params(VmsQuery),
    responses((status = 200, description = "A page of machines", body = Page<Vm>), Refusals))]
pub(super) async fn list_vms(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<VmsQuery>,
) -> Result<Json<Page<Vm>>> {
    let limit = limit(query.limit)?;
    let before = before::<VmId>(List::Vms, query.cursor.as_deref())?;
    let node = match query.node {
        Some(node) => Some(app.node(&node).await?.id),
        None => None,
    };
    let filter = VmFilter { tenant: None, state: query.state, node };
    let vms = app.vms(&call, filter, before, limit + 1).await?;
    Ok(Json(cursor::page(List::Vms, vms, limit, |vm| vm.id.0)))
}

/// Makes a machine.
#[utoipa::path(post, path = "/api/v1/vms", tag = "vms", params(SubmitQuery, SubmitHeaders), request_body = VmCreateParams,
    responses(
        (status = 200, description = "It is ready, or failed, while the caller waited; or this is a dry run", body = Submitted),
        (status = 202, description = "It is being made", body = Submitted,
            headers(
                ("Location" = String, description = "The task"),
                ("Preference-Applied" = Option<String>, description = "How long was waited, if that was asked"),
                ("Idempotency-Replayed" = Option<String>, description = "`true` when this is the first answer under the key once more"))),
        Refusals))]
pub(super) async fn create_vm(
    State(app): State<Arc<App>>,
    call: Call,
    asked: Asked,
    body: Strict<NewVm>,
) -> Result<Response> {
    let new = task(KindName::VmCreate, TargetRef::default(), &body.value)?;
    let accepted = app.submit(&call, new, asked.terms(&body.sha256)).await?;
    asked.answer(&app, accepted).await
}

/// Shows a machine.
#[utoipa::path(get, path = "/api/v1/vms/{vm}", tag = "vms", params(("vm" = String, Path, description = "Its id or name")),
    responses(
        (status = 200, description = "The machine", body = Vm, headers(("ETag" = String, description = "Its generation"))),
        Refusals))]
pub(super) async fn show_vm(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Response> {
    Ok(tagged(&app.vm(&call, path.get("vm")?).await?))
}

/// Ends a machine and removes what it had. Tasks before it on the same machine are aborted.
#[utoipa::path(delete, path = "/api/v1/vms/{vm}", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    responses(
        (status = 200, description = "It ended while the caller waited, or this is a dry run", body = Submitted),
        (status = 202, description = "It is being deleted", body = Submitted,
            headers(
                ("Location" = String, description = "The task"),
                ("Preference-Applied" = Option<String>, description = "How long was waited, if that was asked"),
                ("Idempotency-Replayed" = Option<String>, description = "`true` when this is the first answer under the key once more"))),
        Refusals))]
pub(super) async fn delete_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<Nothing>,
) -> Result<Response> {
    submit_plain(&app, &call, KindName::VmDelete, &path, asked, &body).await
}

/// Runs a program in a guest: a list of arguments, never a shell line.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/exec", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    request_body = VmExecParams,
    responses(
        (status = 200, description = "It ended while the caller waited, or this is a dry run", body = Submitted),
        (status = 202, description = "It is written down", body = Submitted,
            headers(
                ("Location" = String, description = "The task"),
                ("Preference-Applied" = Option<String>, description = "How long was waited, if that was asked"),
                ("Idempotency-Replayed" = Option<String>, description = "`true` when this is the first answer under the key once more"))),
        Refusals))]
pub(super) async fn exec_in_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewExec>,
) -> Result<Response> {
    submit(&app, &call, KindName::VmExec, &path, asked, &body).await
}

/// Submits a task on the machine of the path, with the body as its parameters.
pub(super) async fn submit<T: Serialize>(
    app: &Arc<App>,
    call: &Call,
    kind: KindName,
    path: &InPath,
    asked: Asked,
    body: &Strict<T>,
) -> Result<Response> {
    let new = task(kind, target(path)?, &body.value)?;
    let accepted = app.submit(call, new, asked.terms(&body.sha256)).await?;
    asked.answer(app, accepted).await
}

/// Submits a task on the machine of the path that needs no parameters.
pub(super) async fn submit_plain(
    app: &Arc<App>,
    call: &Call,
    kind: KindName,
    path: &InPath,
    asked: Asked,
    body: &Strict<Nothing>,
) -> Result<Response> {
    let new = NewTask::new(kind, target(path)?, empty());
    let accepted = app.submit(call, new, asked.terms(&body.sha256)).await?;
    asked.answer(app, accepted).await
}

fn target(path: &InPath) -> Result<TargetRef> {
    Ok(TargetRef { vm: Some(path.get("vm")?.to_owned()), node: None })
}

fn task(kind: KindName, target: TargetRef, params: &impl Serialize) -> Result<NewTask> {
    let params = serde_json::to_value(params).map_err(|_| Error::Fault("parameters could not be written as JSON"))?;
    Ok(NewTask::new(kind, target, params))
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}
