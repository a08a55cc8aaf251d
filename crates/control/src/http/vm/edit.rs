//! Editing a machine: `PATCH /api/v1/vms/{vm}`, a JSON merge patch.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{edit::VmPatch, vm::Vm};

use super::super::{
    asked::{Asked, SubmitQuery},
    body::Strict,
    document::Refusals,
    etag::{IfMatch, tagged},
    path::InPath,
};
use crate::app::{App, Result, caller::Call};

/// Edits a machine: what is not named stays, null removes.
#[utoipa::path(patch, path = "/api/v1/vms/{vm}", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery,
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the machine as it was read: refused with 412 when it was changed since")),
    request_body(content = VmPatch, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, description = "The machine as it is now, or would be", body = Vm,
            headers(("ETag" = String, description = "Its generation"))),
        Refusals))]
pub(in super::super) async fn patch_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    IfMatch(if_match): IfMatch,
    asked: Asked,
    body: Strict<VmPatch>,
) -> Result<Response> {
    let vm = app.edit_vm(&call, path.get("vm")?, body.value, if_match, asked.is_dry_run()).await?;
    Ok(tagged(&vm))
}
