//! Editing and renaming a machine. An edit is a JSON merge patch (RFC 7396); what its host must do becomes a task.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    api::Submitted,
    edit::VmPatch,
    kind::{KindName, VmRenameParams},
    vm::Vm,
};
use hostler_store::Edited;

use super::super::{
    asked::{Asked, SubmitHeaders, SubmitQuery, mark_replay},
    body::Strict,
    document::{Filed, Refusals},
    etag::{IfMatch, tagged},
    path::InPath,
};
use crate::app::{App, Result, caller::Call};

/// Edits a machine: what is not named stays, null removes. Labels, protection and the time to live are changed at once;
/// processors, memory, disk and port forwards are brought to its host by a task, whose output says of each whether it
/// took effect or waits for the next start.
#[utoipa::path(patch, path = "/api/v1/vms/{vm}", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders,
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the machine as it was read: refused with 412 when it was changed since")),
    request_body(content = VmPatch, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, description = "The machine as it is now; as `{task, vm}` where the caller waited for its host, or for a dry run that would ask it", body = Vm,
            headers(("ETag" = Option<String>, description = "Its generation"))),
        (status = 202, description = "The host is being asked", body = Submitted,
            headers(("Location" = String, description = "The task"))),
        Refusals))]
pub(in super::super) async fn patch_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    IfMatch(if_match): IfMatch,
    asked: Asked,
    body: Strict<VmPatch>,
) -> Result<Response> {
    let asked = asked.matching(if_match);
    let terms = asked.terms(&body.sha256);
    match app.edit_vm(&call, path.get("vm")?, body.value, terms).await? {
        Edited::Record { vm, replayed } => {
            let mut response = tagged(&vm);
            mark_replay(&mut response, replayed);
            Ok(response)
        }
        Edited::Task(accepted) => asked.answer(&app, *accepted).await,
    }
}

/// Renames a machine. The name is changed with the answer; the task tells its node, which uses it from the next start on.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/rename", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    request_body = VmRenameParams,
    responses(Filed, Refusals))]
pub(in super::super) async fn rename_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<VmRenameParams>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmRename, path.on_vm()?, &body).await
}
