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

/// Makes a token by which one node may join. It works once, within 15 minutes, and is shown only here.
#[utoipa::path(post, path = "/api/v1/join-tokens", tag = "nodes", request_body = NewJoinToken,
    responses((status = 201, description = "The token", body = IssuedJoinToken), Refusals))]
pub(super) async fn make_join_token(
    State(app): State<Arc<App>>,
    call: Call,
    body: Strict<NewJoinToken>,
) -> Result<(StatusCode, Json<IssuedJoinToken>)> {
    let asked = body.value;
    let (node, approve) = (asked.node.clone(), asked.approve);
    let (token, expires_at) = app.make_join_token(asked, call.actor()).await?;
    Ok((StatusCode::CREATED, Json(IssuedJoinToken { token: token.reveal(), expires_at, node, approve })))
}
