//! Dead letters: `/api/v1/tasks/dead`. And batches of tasks: `/api/v1/tasks/batch`.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use hostler_model::{
    Code, Refusal, VmId,
    api::{Answered, Answers, Letters, NewTasks, Page},
    kind::KindName,
    task::Task,
};
use hostler_store::TaskFilter;
use serde::Deserialize;

use super::{
    asked::{Asked, SubmitHeaders, SubmitQuery},
    body::{Json, Strict},
    cursor::{self, List},
    document::Refusals,
    problem,
    query::{InQuery, before, limit},
};
use crate::app::{App, Result, caller::Call};

/// How much a batch may have.
const BATCH_BYTES: usize = 8 << 20;
/// How many tasks a batch may have.
const BATCH: usize = 1000;

/// Which letters.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LettersQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only of this kind.
    #[param(value_type = Option<String>)]
    kind: Option<KindName>,
    /// Only about this VM, by id.
    vm: Option<VmId>,
    /// Only failed with this code.
    code: Option<Code>,
}

/// Lists dead letters, newest first: tasks that failed although another try may help, or of which nobody knows what they
/// did. They wait for somebody to decide.
#[utoipa::path(get, path = "/api/v1/tasks/dead", tag = "tasks", params(LettersQuery),
    responses((status = 200, description = "A page of tasks", body = Page<Task>), Refusals))]
pub(super) async fn list_letters(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<LettersQuery>,
) -> Result<Json<Page<Task>>> {
    let limit = limit(query.limit)?;
    let before = before(List::Letters, query.cursor.as_deref())?;
    let filter = TaskFilter { kind: query.kind, vm: query.vm, code: query.code, dead: true, ..TaskFilter::default() };
    let tasks = app.tasks(&call, filter, before, limit + 1).await?;
    Ok(Json(cursor::page(List::Letters, tasks, limit, |task| task.id.0)))
}

/// Does dead letters again: for each a new task with `retry_of`. Those that are named, or up to 500 that a filter finds.
#[utoipa::path(post, path = "/api/v1/tasks/dead/retry", tag = "tasks", request_body = Letters,
    responses((status = 200, description = "An answer for each", body = Answers), Refusals))]
pub(super) async fn retry_letters(State(app): State<Arc<App>>, call: Call, body: Strict<Letters>) -> Result<Response> {
    let (answers, more) = app.retry_letters(&call, &body.value).await?;
    Ok(answered(answers, more))
}

/// Lets dead letters be: they leave the list; the tasks, their history and their logs stay.
#[utoipa::path(post, path = "/api/v1/tasks/dead/purge", tag = "tasks", request_body = Letters,
    responses((status = 200, description = "An answer for each", body = Answers), Refusals))]
pub(super) async fn purge_letters(State(app): State<Arc<App>>, call: Call, body: Strict<Letters>) -> Result<Response> {
    let (answers, more) = app.purge_letters(&call, &body.value).await?;
    Ok(answered(answers, more))
}

/// Submits up to 1,000 tasks, which are written down together. Each is answered by itself and in its order: one that is
/// refused does not keep the others. One `Idempotency-Key` stands for the whole: a repeat gets the first answers, and
/// what was refused is judged anew.
#[utoipa::path(post, path = "/api/v1/tasks/batch", tag = "tasks", params(SubmitQuery, SubmitHeaders),
    request_body = NewTasks,
    responses((status = 200, description = "An answer for each", body = Answers), Refusals))]
pub(super) async fn submit_batch(
    State(app): State<Arc<App>>,
    call: Call,
    asked: Asked,
    body: Strict<NewTasks, BATCH_BYTES>,
) -> Result<Response> {
    let tasks = body.value.tasks;
    if tasks.is_empty() || tasks.len() > BATCH {
        let detail = format!("a batch has 1 to {BATCH} tasks, and this one has {}", tasks.len());
        return Err(Refusal::field("tasks", detail).into());
    }
    let answers = app.submit_batch(&call, &tasks, &asked.terms(&body.sha256)).await?;
    Ok(answered(answers, false))
}

/// An answer for each. What was forbidden reaches the audit, as it would alone.
fn answered(answers: Vec<Answered>, more: bool) -> Response {
    let codes: Vec<Code> = answers.iter().filter_map(|one| Some(one.problem.as_ref()?.code)).collect();
    let mut response = Json(Answers { answers, more }).into_response();
    problem::mark_forbidden(&mut response, codes.into_iter());
    response
}
