//! Tokens by which nodes join: `/api/v1/join-tokens`.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::join_token::{IssuedJoinToken, NewJoinToken};
use http::StatusCode;

use super::{
    body::{Json, Strict},
    document::Refusals,
};
use crate::app::{App, Result, caller::Call};

/// Makes a token by which one node may join. It works once, within 15 minutes, and is shown only here. One that names a
/// node is good for that name only, and lets a host take the place of the node that has it; one that names none is good for
/// new nodes.
#[utoipa::path(post, path = "/api/v1/join-tokens", tag = "nodes", request_body = NewJoinToken,
    responses((status = 201, description = "The token", body = IssuedJoinToken), Refusals))]
pub(super) async fn make_join_token(
    State(app): State<Arc<App>>,
    call: Call,
    body: Strict<NewJoinToken>,
) -> Result<(StatusCode, Json<IssuedJoinToken>)> {
    Ok((StatusCode::CREATED, Json(app.make_join_token(body.value, call.actor()).await?)))
}
