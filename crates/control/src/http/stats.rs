//! Statistics of tasks: `/api/v1/tasks/stats`.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::{kind::KindName, stats::TaskStats};
use serde::Deserialize;

use super::{body::Json, document::Refusals, query::InQuery};
use crate::app::{App, Result, caller::Call, stats::Whose};

/// Of which tasks.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatsQuery {
    /// Only of this kind.
    #[param(value_type = Option<String>)]
    kind: Option<KindName>,
    /// Only on this node, by id or name.
    node: Option<String>,
    /// Of every tenant, for platform administrators; of the caller's where nothing is said.
    all_tenants: bool,
}

/// Tells what is queued and what it waits for, what is under way, what was given up, what happened in the last 1, 5 and 60
/// minutes, and how long waiting and running took: of all tasks, of each kind, and of each node.
#[utoipa::path(get, path = "/api/v1/tasks/stats", tag = "tasks", params(StatsQuery),
    responses((status = 200, description = "The figures", body = TaskStats), Refusals))]
pub(super) async fn show_task_stats(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<StatsQuery>,
) -> Result<Json<TaskStats>> {
    let whose = if query.all_tenants { Whose::All } else { Whose::Own };
    Ok(Json(app.task_stats(&call, whose, query.kind, query.node.as_deref()).await?))
}
