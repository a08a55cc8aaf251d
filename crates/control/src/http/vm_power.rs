//! The power of a machine: `/api/v1/vms/{vm}/start` and its like. Each is a task of the kind that it is named after.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    api::{NewReboot, NewStart, NewStop, Submitted},
    kind::{KindName, VmRebootParams, VmStartParams, VmStopParams},
};

use super::{
    asked::{Asked, SubmitHeaders, SubmitQuery},
    body::{Nothing, Strict},
    document::Refusals,
    path::InPath,
    vm::{submit, submit_plain},
};
use crate::app::{App, Result, caller::Call};

/// Starts a machine that is stopped or in error, and waits until its guest answers.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/start", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    request_body = VmStartParams,
    responses(
        (status = 200, description = "It ended while the caller waited, or this is a dry run", body = Submitted),
        (status = 202, description = "It is being started", body = Submitted,
            headers(
                ("Location" = String, description = "The task"),
                ("Preference-Applied" = Option<String>, description = "How long was waited, if that was asked"),
                ("Idempotency-Replayed" = Option<String>, description = "`true` when this is the first answer under the key once more"))),
        Refusals))]
pub(super) async fn start_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewStart>,
) -> Result<Response> {
    submit(&app, &call, KindName::VmStart, &path, asked, &body).await
}

/// Stops a machine: its guest is asked to turn itself off, and when its time is up its process is ended. Its disk stays, and so does its charge.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/stop", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    request_body = VmStopParams,
    responses(
        (status = 200, description = "It ended while the caller waited, or this is a dry run", body = Submitted),
        (status = 202, description = "It is being stopped", body = Submitted,
            headers(
                ("Location" = String, description = "The task"),
                ("Preference-Applied" = Option<String>, description = "How long was waited, if that was asked"),
                ("Idempotency-Replayed" = Option<String>, description = "`true` when this is the first answer under the key once more"))),
        Refusals))]
pub(super) async fn stop_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewStop>,
) -> Result<Response> {
    submit(&app, &call, KindName::VmStop, &path, asked, &body).await
}

/// Restarts a machine: its guest is asked to, and when its time is up, or with `hard`, the reset button is pressed.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/reboot", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    request_body = VmRebootParams,
    responses(
        (status = 200, description = "It ended while the caller waited, or this is a dry run", body = Submitted),
        (status = 202, description = "It is being restarted", body = Submitted,
            headers(
                ("Location" = String, description = "The task"),
                ("Preference-Applied" = Option<String>, description = "How long was waited, if that was asked"),
                ("Idempotency-Replayed" = Option<String>, description = "`true` when this is the first answer under the key once more"))),
        Refusals))]
pub(super) async fn reboot_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<NewReboot>,
) -> Result<Response> {
    submit(&app, &call, KindName::VmReboot, &path, asked, &body).await
}

/// Holds a machine's processors. Its memory stays where it is.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/pause", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    responses(
        (status = 200, description = "It ended while the caller waited, or this is a dry run", body = Submitted),
        (status = 202, description = "It is being paused", body = Submitted,
            headers(
                ("Location" = String, description = "The task"),
                ("Preference-Applied" = Option<String>, description = "How long was waited, if that was asked"),
                ("Idempotency-Replayed" = Option<String>, description = "`true` when this is the first answer under the key once more"))),
        Refusals))]
pub(super) async fn pause_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<Nothing>,
) -> Result<Response> {
    submit_plain(&app, &call, KindName::VmPause, &path, asked, &body).await
}

/// Lets a paused machine's processors run again.
#[utoipa::path(post, path = "/api/v1/vms/{vm}/resume", tag = "vms",
    params(("vm" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    responses(
        (status = 200, description = "It ended while the caller waited, or this is a dry run", body = Submitted),
        (status = 202, description = "It is being resumed", body = Submitted,
            headers(
                ("Location" = String, description = "The task"),
                ("Preference-Applied" = Option<String>, description = "How long was waited, if that was asked"),
                ("Idempotency-Replayed" = Option<String>, description = "`true` when this is the first answer under the key once more"))),
        Refusals))]
pub(super) async fn resume_vm(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<Nothing>,
) -> Result<Response> {
    submit_plain(&app, &call, KindName::VmResume, &path, asked, &body).await
}
