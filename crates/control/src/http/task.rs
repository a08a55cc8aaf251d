//! Tasks: `/api/v1/tasks`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    Code, TaskId, VmId,
    api::{NewTask, Page},
    kind::{KindInfo, KindName},
    proof::TaskProof,
    task::{Task, TaskState},
};
use hostler_store::TaskFilter;
use serde::Deserialize;

use super::{
    asked::{Asked, SubmitHeaders, SubmitQuery},
    body::{Json, Nothing, Strict},
    cursor::{self, List},
    document::{Filed, Refusals},
    path::InPath,
    query::{InQuery, before, limit},
};
use crate::app::{App, Result, caller::Call};

/// Which tasks.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TasksQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only in this state.
    state: Option<TaskState>,
    /// Only of this kind.
    #[param(value_type = Option<String>)]
    kind: Option<KindName>,
    /// Only about this VM, by id.
    vm: Option<VmId>,
    /// Only failed with this code.
    code: Option<Code>,
}

/// Lists tasks, newest first.
#[utoipa::path(get, path = "/api/v1/tasks", tag = "tasks", params(TasksQuery),
    responses((status = 200, description = "A page of tasks", body = Page<Task>), Refusals))]
pub(super) async fn list_tasks(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<TasksQuery>,
) -> Result<Json<Page<Task>>> {
    let limit = limit(query.limit)?;
    let before = before(List::Tasks, query.cursor.as_deref())?;
    let filter =
        TaskFilter { tenant: None, state: query.state, kind: query.kind, vm: query.vm, code: query.code, dead: false };
    let tasks = app.tasks(&call, filter, before, limit + 1).await?;
    Ok(Json(cursor::page(List::Tasks, tasks, limit, |task| task.id.0)))
}

/// Lists the kinds of tasks, and what holds for each where nothing else is asked for.
#[utoipa::path(get, path = "/api/v1/tasks/kinds", tag = "tasks",
    responses((status = 200, description = "All of them, on one page", body = Page<KindInfo>), Refusals))]
pub(super) async fn list_kinds() -> Json<Page<KindInfo>> {
    Json(Page { items: KindInfo::all(), next_cursor: None })
}

/// Submits a task.
#[utoipa::path(post, path = "/api/v1/tasks", tag = "tasks", params(SubmitQuery, SubmitHeaders), request_body = NewTask,
    responses(Filed, Refusals))]
pub(super) async fn submit_task(
    State(app): State<Arc<App>>,
    call: Call,
    asked: Asked,
    body: Strict<NewTask>,
) -> Result<Response> {
    let accepted = app.submit(&call, body.value, asked.terms(&body.sha256)).await?;
    asked.answer(&app, accepted).await
}

/// Shows a task.
#[utoipa::path(get, path = "/api/v1/tasks/{task}", tag = "tasks", params(("task" = TaskId, Path, description = "Its id")),
    responses((status = 200, description = "The task", body = Task), Refusals))]
pub(super) async fn show_task(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Json<Task>> {
    Ok(Json(app.task(&call, path.task()?).await?))
}

/// Shows what a task's node last reported of it, signed by that node: whoever keeps the authority's certificate (`ca.pem`)
/// verifies it without this server. 404 where nothing was reported, or by an agent that has no certificate of ours.
#[utoipa::path(get, path = "/api/v1/tasks/{task}/proof", tag = "tasks",
    params(("task" = TaskId, Path, description = "Its id")),
    responses((status = 200, description = "The proof", body = TaskProof), Refusals))]
pub(super) async fn show_proof(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Json<TaskProof>> {
    Ok(Json(app.task_proof(&call, path.task()?).await?))
}

/// Asks that a task be stopped and undone. One that has ended is refused with 409.
#[utoipa::path(post, path = "/api/v1/tasks/{task}/cancel", tag = "tasks",
    params(("task" = TaskId, Path, description = "Its id")),
    responses((status = 200, description = "The task as it is now", body = Task), Refusals))]
pub(super) async fn cancel_task(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Task>> {
    Ok(Json(app.cancel(&call, path.task()?).await?))
}

/// Ends a task that is being stopped, without its node's word. Only for a node that will not come back: what the task
/// did there is not undone, and one that still works on it is not stopped. A task that is not aborting is refused with
/// 409.
#[utoipa::path(post, path = "/api/v1/tasks/{task}/force", tag = "tasks",
    params(("task" = TaskId, Path, description = "Its id")),
    responses((status = 200, description = "The task as it ended", body = Task), Refusals))]
pub(super) async fn force_task(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Task>> {
    Ok(Json(app.force(&call, path.task()?).await?))
}

/// Submits a new task like one that failed or was cancelled.
#[utoipa::path(post, path = "/api/v1/tasks/{task}/retry", tag = "tasks",
    params(("task" = TaskId, Path, description = "Its id"), SubmitQuery, SubmitHeaders),
    responses(Filed, Refusals))]
pub(super) async fn retry_task(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<Nothing>,
) -> Result<Response> {
    let accepted = app.retry(&call, path.task()?, asked.terms(&body.sha256)).await?;
    asked.answer(&app, accepted).await
}
