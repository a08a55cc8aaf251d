//! Service accounts, for which programs' tokens stand: `/api/v1/service-accounts`.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::{
    api::Page,
    token::{NewServiceAccount, ServiceAccount},
};
use http::StatusCode;

use super::{
    body::{Json, Nothing, Strict},
    document::Refusals,
    path::InPath,
};
use crate::app::{App, Result, caller::Call};

/// Makes a service account in the tenant. Its tokens are made with `POST /api/v1/tokens`.
#[utoipa::path(post, path = "/api/v1/service-accounts", tag = "tokens", request_body = NewServiceAccount,
    responses((status = 201, description = "The account", body = ServiceAccount), Refusals))]
pub(super) async fn make_service_account(
    State(app): State<Arc<App>>,
    call: Call,
    body: Strict<NewServiceAccount>,
) -> Result<(StatusCode, Json<ServiceAccount>)> {
    Ok((StatusCode::CREATED, Json(app.make_service_account(&call, body.value).await?)))
}

/// Lists the tenant's service accounts, by name.
#[utoipa::path(get, path = "/api/v1/service-accounts", tag = "tokens",
    responses((status = 200, description = "All of them, on one page", body = Page<ServiceAccount>), Refusals))]
pub(super) async fn list_service_accounts(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Json<Page<ServiceAccount>>> {
    Ok(Json(Page { items: app.service_accounts(&call).await?, next_cursor: None }))
}

/// Deletes a service account and revokes all its tokens at once.
#[utoipa::path(delete, path = "/api/v1/service-accounts/{account}", tag = "tokens",
    params(("account" = String, Path, description = "Its name")),
    responses((status = 200, description = "The account as it was", body = ServiceAccount), Refusals))]
pub(super) async fn delete_service_account(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<ServiceAccount>> {
    Ok(Json(app.delete_service_account(&call, path.get("account")?).await?))
}
