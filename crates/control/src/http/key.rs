//! The keys that sign tasks: `/api/v1/keys`. Only their public parts are shown.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::{
    api::Page,
    key::{KeyEvent, Retired, Rotated, SigningKey},
};
use http::StatusCode;

use super::{
    body::{Json, Nothing, Strict},
    document::Refusals,
    path::InPath,
};
use crate::app::{App, Result, caller::Call};

/// Lists the keys that sign tasks, or did, newest first.
#[utoipa::path(get, path = "/api/v1/keys", tag = "keys",
    responses((status = 200, description = "Every key, on one page", body = Page<SigningKey>), Refusals))]
pub(super) async fn list_keys(State(app): State<Arc<App>>) -> Result<Json<Page<SigningKey>>> {
    Ok(Json(Page { items: app.keys().await?, next_cursor: None }))
}

/// Makes another key. It signs nothing before it is activated; agents learn it with their next heartbeat.
#[utoipa::path(post, path = "/api/v1/keys", tag = "keys",
    responses((status = 201, description = "The key", body = SigningKey), Refusals))]
pub(super) async fn stage_key(
    State(app): State<Arc<App>>,
    call: Call,
    _: Strict<Nothing>,
) -> Result<(StatusCode, Json<SigningKey>)> {
    Ok((StatusCode::CREATED, Json(app.stage_key(&call).await?)))
}

/// Lets another master key wrap the keys under which values are sealed, and wraps them all anew. Those before it stay in the
/// file until they are retired: servers that have not read it again need them, and so do backups. `KEY_STATE_CONFLICT` while
/// another rotation is under way.
#[utoipa::path(post, path = "/api/v1/master-key/rotate", tag = "keys",
    responses((status = 200, description = "What wraps now, and how many keys", body = Rotated), Refusals))]
pub(super) async fn rotate_master_key(
    State(app): State<Arc<App>>,
    call: Call,
    _: Strict<Nothing>,
) -> Result<Json<Rotated>> {
    Ok(Json(app.rotate_master(&call).await?))
}

/// Removes the master keys that wrap nothing any more from the file. Backups that were taken under them can then be read only
/// with an earlier copy of it.
#[utoipa::path(post, path = "/api/v1/master-key/retire", tag = "keys",
    responses((status = 200, description = "What wraps, and what was removed", body = Retired), Refusals))]
pub(super) async fn retire_master_keys(
    State(app): State<Arc<App>>,
    call: Call,
    _: Strict<Nothing>,
) -> Result<Json<Retired>> {
    Ok(Json(app.retire_masters(&call).await?))
}

/// Signs with a key from now on. The one that signed until now is in grace: what it signed is still believed.
#[utoipa::path(post, path = "/api/v1/keys/{key}/activate", tag = "keys",
    params(("key" = String, Path, description = "Its kid")),
    responses((status = 200, description = "The key as it is now", body = SigningKey), Refusals))]
pub(super) async fn activate_key(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<SigningKey>> {
    Ok(Json(app.change_key(&call, path.get("key")?, KeyEvent::Activate).await?))
}

/// Believes a key no longer. Tasks that it signed must have been begun by then: an offer by the message broker lives as long
/// as its task may wait.
#[utoipa::path(post, path = "/api/v1/keys/{key}/retire", tag = "keys",
    params(("key" = String, Path, description = "Its kid")),
    responses((status = 200, description = "The key as it is now", body = SigningKey), Refusals))]
pub(super) async fn retire_key(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<SigningKey>> {
    Ok(Json(app.change_key(&call, path.get("key")?, KeyEvent::Retire).await?))
}

/// Refuses whatever a key signed, whenever it did: somebody else may have it. Where it signs, another takes its place at once:
/// the newest that is staged, or a new one. Agents hear of it with their next heartbeat.
#[utoipa::path(post, path = "/api/v1/keys/{key}/revoke", tag = "keys",
    params(("key" = String, Path, description = "Its kid")),
    responses((status = 200, description = "The key as it is now", body = SigningKey), Refusals))]
pub(super) async fn revoke_key(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<SigningKey>> {
    Ok(Json(app.change_key(&call, path.get("key")?, KeyEvent::Revoke).await?))
}
