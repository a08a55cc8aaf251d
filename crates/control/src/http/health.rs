//! Health, metrics, the doctor and this API's own document.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use hostler_model::api::Diagnosis;
use http::header;
use serde::Serialize;

use super::{body::Json, document::Refusals};
use crate::app::{App, Result};

/// The media type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How the server is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// `ok`
    status: &'static str,
    /// The server's version.
    version: &'static str,
}

const OK: Json<Health> = Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") });

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, description = "It does", body = Health)))]
pub(super) async fn show_health() -> Json<Health> {
    OK
}

/// Whether the server can do its work: the store answers and the server is not going away.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, description = "It can", body = Health), Refusals))]
pub(super) async fn show_ready(State(app): State<Arc<App>>) -> Result<Json<Health>> {
    app.ready().await?;
    Ok(OK)
}

/// Recomputes the books and the log's chain and compares them with what is kept.
#[utoipa::path(get, path = "/api/v1/doctor", tag = "health",
    responses((status = 200, description = "What was looked at", body = Diagnosis), Refusals))]
pub(super) async fn show_diagnosis(State(app): State<Arc<App>>) -> Result<Json<Diagnosis>> {
    Ok(Json(app.doctor().await?))
}

/// Counters and gauges, as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "OpenMetrics text", content_type = "application/openmetrics-text", body = String), Refusals))]
pub(super) async fn show_metrics(State(app): State<Arc<App>>) -> Result<Response> {
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], app.measurements().await?).into_response())
}

/// This API's document.
#[utoipa::path(get, path = "/openapi.json", tag = "health",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object), Refusals))]
pub(super) async fn show_document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::document::text()).into_response()
}
