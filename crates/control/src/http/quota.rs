//! The caller's quota: `/api/v1/quota`.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::api::Quota;

use super::{body::Json, document::Refusals};
use crate::app::{App, Result, caller::Call};

/// Shows how much the caller's tenant may have and has.
#[utoipa::path(get, path = "/api/v1/quota", tag = "quota",
    responses((status = 200, description = "The quota", body = Quota), Refusals))]
pub(super) async fn show_quota(State(app): State<Arc<App>>, call: Call) -> Result<Json<Quota>> {
    Ok(Json(app.quota(&call).await?))
}
