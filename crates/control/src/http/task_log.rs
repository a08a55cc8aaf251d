//! The logs of tasks: `/api/v1/tasks/{task}/log`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::StreamExt;
use hostler_model::{
    Refusal, TaskId,
    task_log::{Line, TaskLog},
};
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    body::Json,
    document::Refusals,
    event::{KEEP_ALIVE, last_event},
    path::InPath,
    query::InQuery,
};
use crate::app::{App, Result, caller::Call, task_log::Followed};

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
/// task are kept. To follow, ask again with `after` = `next` and `wait`, until `ended`; or accept `text/event-stream`: then
/// each line comes as an event `line` whose id is its number, and after the last one an event `end` with the task's state.
#[utoipa::path(get, path = "/api/v1/tasks/{task}/log", tag = "tasks",
    params(("task" = TaskId, Path, description = "Its id"), LogQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "In a stream: the number of the last line that was seen; it comes before `after`")),
    responses(
        (status = 200, description = "Lines, oldest first",
            content((TaskLog = "application/json"), (Line = "text/event-stream"))),
        Refusals))]
pub(super) async fn read_task_log(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(query): InQuery<LogQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    if streams(&headers) {
        return follow(&app, &call, path.task()?, &query, &headers).await;
    }
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
    Ok(Json(app.task_log(&call, path.task()?, query.after, limit, wait).await?).into_response())
}

/// Whether the caller wants a stream.
fn streams(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|media| {
        let media = media.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("text/event-stream")
    })
}

async fn follow(app: &Arc<App>, call: &Call, id: TaskId, query: &LogQuery, headers: &HeaderMap) -> Result<Response> {
    if query.limit.is_some() || query.wait > 0 {
        let field = if query.limit.is_some() { "limit" } else { "wait" };
        return Err(Refusal::field(field, "a stream goes on until the task ends; leave it out").into());
    }
    let after = last_event(headers)?.unwrap_or(query.after);
    if after < 0 {
        return Err(Refusal::field("after", "it is the number of a line, or 0 for all").into());
    }
    let followed = app.follow_task_log(call, id, after).await?;
    let events = ReceiverStream::new(followed).map(|followed| Ok::<_, Infallible>(event(&followed)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn event(followed: &Followed) -> Event {
    let event = match followed {
        Followed::Line(line) => Event::default().id(line.number.to_string()).event("line").json_data(line),
        Followed::End(state) => Event::default().event("end").json_data(json!({"state": state})),
    };
    event.unwrap_or_else(|_| Event::default().comment("a line could not be written"))
}
