//! The audit: `/api/v1/audit`, oldest first.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use hostler_model::{api::Page, event::Entry};
use http::header;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    body::Json,
    cursor::{self, List},
    document::Refusals,
    query::{InQuery, limit},
};
use crate::app::{App, Error, Result, caller::Call};

/// Which entries.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Those above this number; the cursor comes first.
    #[param(minimum = 0)]
    after: Option<i64>,
}

/// Lists who did what, oldest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "events", params(AuditQuery),
    responses((status = 200, description = "A page of audit entries", body = Page<Entry>), Refusals))]
pub(super) async fn list_audit(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<AuditQuery>,
) -> Result<Json<Page<Entry>>> {
    let limit = limit(query.limit)?;
    let after = match query.cursor {
        Some(cursor) => number(cursor::read(List::Audit, &cursor)?),
        None => query.after.unwrap_or(0).max(0),
    };
    let entries = app.audit(&call, after, limit + 1).await?;
    Ok(Json(cursor::page(List::Audit, entries, limit, |entry| Uuid::from_u128(entry.seq as u128))))
}

/// What of the chain.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// Behind this entry, at which a link ends; 0: from the beginning.
    #[param(minimum = 0)]
    after: i64,
    /// How many links at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
}

/// Exports the log's chain as JSON lines that can be verified without this server: `from`, `link`s, `checkpoint`s, and at its
/// end `stray` and `end`. Audit entries are whole; of all others there is the hash.
#[utoipa::path(get, path = "/api/v1/audit/export", tag = "events", params(ExportQuery),
    responses((status = 200, description = "A piece of the chain, a JSON document on each line", body = String,
        content_type = "application/x-ndjson"), Refusals))]
pub(super) async fn export_audit(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<ExportQuery>,
) -> Result<Response> {
    let mut text = String::new();
    for line in app.chain(&call, query.after.max(0), limit(query.limit)?).await? {
        text += &serde_json::to_string(&line).map_err(|_| Error::Fault("a piece of the chain cannot be written"))?;
        text.push('\n');
    }
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response())
}

/// Shows the certificate of the authority whose key signs the chain's checkpoints, PEM.
#[utoipa::path(get, path = "/api/v1/audit/authority", tag = "events",
    responses((status = 200, description = "The certificate", body = String, content_type = "application/x-pem-file"),
        Refusals))]
pub(super) async fn show_authority(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], app.authority.get().ca_pem().to_owned()).into_response()
}

/// A number travels in a cursor as an id does.
fn number(id: Uuid) -> i64 {
    i64::try_from(id.as_u128()).unwrap_or(i64::MAX)
}
