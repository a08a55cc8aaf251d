//! The logs of tasks: `/api/v1/tasks/{task}/log`.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use hostler_model::{Refusal, TaskId, task_log::TaskLog};
use serde::Deserialize;

use super::{body::Json, document::Refusals, path::InPath, query::InQuery};
use crate::app::{App, Result, caller::Call};

/// How many lines an answer has where nothing is said, and at most.
const LINES: (usize, usize) = (200, 1000);
/// The longest wait, in seconds: shorter than what proxies commonly cut off.
const WAIT: u64 = 60;

/// Which lines.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Only lines with a larger number: `next` of the answer before.
    #[param(minimum = 0, default = 0)]
    after: i64,
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 200)]
    limit: Option<usize>,
    /// Where there is nothing yet: wait this many seconds for more, at most 60.
    #[param(minimum = 0, maximum = 60, default = 0)]
    wait: u64,
}

/// Lines that a task's handlers wrote for people, and the marks of its attempts. The last 1,000 lines and 256 KiB of a
/// task are kept. To follow, ask again with `after` = `next` and `wait`, until `ended`.
#[utoipa::path(get, path = "/api/v1/tasks/{task}/log", tag = "tasks",
    params(("task" = TaskId, Path, description = "Its id"), LogQuery),
    responses((status = 200, description = "Lines, oldest first", body = TaskLog), Refusals))]
pub(super) async fn read_task_log(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(query): InQuery<LogQuery>,
) -> Result<Json<TaskLog>> {
    if query.after < 0 {
        return Err(Refusal::field("after", "it is the number of a line, or 0 for all").into());
    }
    let limit = query.limit.unwrap_or(LINES.0);
    if limit == 0 || limit > LINES.1 {
        return Err(Refusal::field("limit", format!("{limit} is not between 1 and {}", LINES.1)).into());
    }
    if query.wait > WAIT {
        return Err(Refusal::field("wait", format!("{} is not between 0 and {WAIT} seconds", query.wait)).into());
    }
    let wait = Duration::from_secs(query.wait);
    Ok(Json(app.task_log(&call, path.task()?, query.after, limit, wait).await?))
}
