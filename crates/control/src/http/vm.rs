//! Machines: `/api/v1/vms`. Each change of one is a task of the matching kind.

pub(super) mod edit;

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    VmId,
    api::{NewExec, NewVm, Page, TargetRef},
    kind::{KindName, VmCreateParams, VmExecParams},
    vm::{Vm, VmState},
};
use hostler_store::VmFilter;
use serde::Deserialize;

use super::{
    asked::{Asked, SubmitHeaders, SubmitQuery},
    body::{Json, Nothing, Strict},
    cursor::{self, List},
    document::{Filed, Refusals},
    etag::{IfMatch, tagged},
    path::InPath,
    query::{InQuery, before, limit},
};
use crate::app::{App, Result, caller::Call};

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
    responses(Filed, Refusals))]
pub(super) async fn create_vm(
    State(app): State<Arc<App>>,
    call: Call,
    asked: Asked,
    body: Strict<NewVm>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmCreate, TargetRef::default(), &body).await
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
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders,
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the machine as it was read: refused with 412 when it was changed since")),
    responses(Filed, Refusals))]
pub(super) async fn delete_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    IfMatch(if_match): IfMatch,
    asked: Asked,
    body: Strict<Nothing>,
) -> Result<Response> {
    asked.matching(if_match).submit(&app, &call, KindName::VmDelete, path.on_vm()?, &body).await
}

/// Runs a program in a guest: a list of arguments, never a shell line.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/exec", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    request_body = VmExecParams,
    responses(Filed, Refusals))]
pub(super) async fn exec_in_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewExec>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmExec, path.on_vm()?, &body).await
}
