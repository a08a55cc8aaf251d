//! The power of a machine: `/api/v1/vms/{vm}/start` and its like. Each is a task of the kind that it is named after.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    api::{NewReboot, NewStart, NewStop},
    kind::{KindName, VmRebootParams, VmStartParams, VmStopParams},
};

use super::{
    asked::{Asked, SubmitHeaders, SubmitQuery},
    body::{Nothing, Strict},
    document::{Filed, Refusals},
    path::InPath,
};
use crate::app::{App, Result, caller::Call};

/// Starts a machine that is stopped or in error, and waits until its guest answers.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/start", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    request_body = VmStartParams,
    responses(Filed, Refusals))]
pub(super) async fn start_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewStart>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmStart, path.on_vm()?, &body).await
}

/// Stops a machine: its guest is asked to turn itself off, and when its time is up its process is ended. Its disk stays, and so does its charge.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/stop", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    request_body = VmStopParams,
    responses(Filed, Refusals))]
pub(super) async fn stop_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewStop>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmStop, path.on_vm()?, &body).await
}

/// Restarts a machine: its guest is asked to, and when its time is up, or with `hard`, the reset button is pressed.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/reboot", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    request_body = VmRebootParams,
    responses(Filed, Refusals))]
pub(super) async fn reboot_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewReboot>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmReboot, path.on_vm()?, &body).await
}

/// Holds a machine's processors. Its memory stays where it is.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/pause", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    responses(Filed, Refusals))]
pub(super) async fn pause_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<Nothing>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmPause, path.on_vm()?, &body).await
}

/// Lets a paused machine's processors run again.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/resume", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    responses(Filed, Refusals))]
pub(super) async fn resume_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<Nothing>,
) -> Result<Response> {
    asked.submit(&app, &call, KindName::VmResume, path.on_vm()?, &body).await
}
