//! The audit: `/api/v1/audit`, oldest first.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::{api::Page, event::Entry};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    body::Json,
    cursor::{self, List},
    document::Refusals,
    query::{InQuery, limit},
};
use crate::app::{App, Result, caller::Call};

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

/// A number travels in a cursor as an id does.
fn number(id: Uuid) -> i64 {
    i64::try_from(id.as_u128()).unwrap_or(i64::MAX)
}
