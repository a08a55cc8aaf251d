//! What is on hosts and no record knows: `/api/v1/unassigned`.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::{
    api::Page,
    unassigned::{NewClaim, Unassigned},
    vm::Vm,
};

use super::{
    body::{Json, Strict},
    document::Refusals,
};
use crate::app::{App, Result, caller::Call};

/// Lists the machines that nodes have told of and that no record knows.
#[utoipa::path(get, path = "/api/v1/unassigned", tag = "nodes",
    responses((status = 200, description = "Every one, on one page", body = Page<Unassigned>), Refusals))]
pub(super) async fn list_unassigned(State(app): State<Arc<App>>) -> Result<Json<Page<Unassigned>>> {
    Ok(Json(Page { items: app.unassigned().await?, next_cursor: None }))
}

/// Makes such a machine a tenant's: a record of what its host says of it, charged to the tenant and the node. Asked once
/// more it is as it was.
#[utoipa::path(post, path = "/api/v1/unassigned/claim", tag = "nodes", request_body = NewClaim,
    responses((status = 200, description = "The machine", body = Vm), Refusals))]
pub(super) async fn claim_unassigned(
    State(app): State<Arc<App>>,
    call: Call,
    body: Strict<NewClaim>,
) -> Result<Json<Vm>> {
    Ok(Json(app.claim(&call, body.value).await?))
}
