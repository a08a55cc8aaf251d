//! Tokens of people and programs: `/api/v1/tokens`, and whose one's own is: `/api/v1/whoami`.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use hostler_model::{
    api::Page,
    token::{IssuedToken, LoginWays, NewToken, Token, Whoami},
};
use hostler_store::Revoke;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::{
    body::{Json, Nothing, Strict, answer},
    cursor::{self, List},
    document::Refusals,
    path::InPath,
    query::{InQuery, before, limit},
};
use crate::app::{App, Result, caller::Call};

/// Which tokens.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TokensQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What goes with one.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RevokeQuery {
    /// Whether those that were made with it are revoked as well, and those that were made with those.
    with_made: bool,
}

/// Makes a token: for oneself, or for a service account (role tenant-admin). It grants nothing that the credential which
/// makes it does not have, and is shown only here.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, description = "The token", body = IssuedToken), Refusals))]
pub(super) async fn make_token(State(app): State<Arc<App>>, call: Call, body: Strict<NewToken>) -> Result<Response> {
    let issued = app.make_token(&call, body.value).await?;
    let mut response = answer(StatusCode::CREATED, &issued);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Lists tokens, newest first, also those that were revoked or whose time was up within the last 30 days: the tenant's for
/// its administrators, else one's own.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", params(TokensQuery),
    responses((status = 200, description = "A page of tokens", body = Page<Token>), Refusals))]
pub(super) async fn list_tokens(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<TokensQuery>,
) -> Result<Json<Page<Token>>> {
    let limit = limit(query.limit)?;
    let before = before(List::Tokens, query.cursor.as_deref())?;
    let tokens = app.tokens(&call, before, limit + 1).await?;
    Ok(Json(cursor::page(List::Tokens, tokens, limit, |token| token.id.0)))
}

/// Shows a token: what it is, never itself.
#[utoipa::path(get, path = "/api/v1/tokens/{token}", tag = "tokens",
    params(("token" = String, Path, description = "Its id")),
    responses((status = 200, description = "The token", body = Token), Refusals))]
pub(super) async fn show_token(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Json<Token>> {
    Ok(Json(app.token(&call, path.get("token")?).await?))
}

/// Revokes a token at once: this server refuses it from now on, others within 5 seconds.
#[utoipa::path(delete, path = "/api/v1/tokens/{token}", tag = "tokens",
    params(("token" = String, Path, description = "Its id"), RevokeQuery),
    responses((status = 200, description = "The token as it is now", body = Token), Refusals))]
pub(super) async fn revoke_token(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(query): InQuery<RevokeQuery>,
    _: Strict<Nothing>,
) -> Result<Json<Token>> {
    let how = if query.with_made { Revoke::WithMade } else { Revoke::One };
    Ok(Json(app.revoke_token(&call, path.get("token")?, how).await?))
}

/// Says who the credential stands for, and what it may.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "tokens",
    responses((status = 200, description = "The caller", body = Whoami), Refusals))]
pub(super) async fn whoami(State(app): State<Arc<App>>, call: Call) -> Result<Json<Whoami>> {
    Ok(Json(app.whoami(&call).await?))
}

/// Says how one logs in: by an identity provider, where there is one. A token always does.
#[utoipa::path(get, path = "/api/v1/login", tag = "tokens",
    responses((status = 200, description = "The ways", body = LoginWays), Refusals))]
pub(super) async fn show_login(State(app): State<Arc<App>>) -> Json<LoginWays> {
    Json(app.login_ways())
}

/// Publishes the keys by which access tokens of this issuer are verified: a JWK set (RFC 7517). An old key stays in it as
/// long as a token that it signed can be good.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "tokens",
    responses((status = 200, description = "The keys", body = Object), Refusals))]
pub(super) async fn show_jwks(State(app): State<Arc<App>>) -> Response {
    let mut response = Json(app.token_keys()).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=30"));
    response
}
