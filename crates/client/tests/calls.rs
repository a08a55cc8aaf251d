//! Calls: keys, repetitions, what becomes of refusals, lists.

mod common;

use axum::{
    http::StatusCode,
    response::{Html, IntoResponse},
};
use common::{broken_after, client, refuse, task, too_often};
use hostler_client::{ClientError, Submit, TaskQuery};
use hostler_model::{
    Code,
    api::{NewTask, TargetRef},
    task::TaskState,
};
use serde_json::json;
use std::time::Duration;

fn echo() -> NewTask {
    NewTask::new("echo", TargetRef::default(), json!({"message": "hi"}))
}

#[tokio::test(start_paused = true)]
async fn a_submission_whose_answer_is_lost_is_sent_again_under_its_key() {
    let (client, log) = client(|n, _| match n {
        1 => broken_after("{\"task\":"),
        _ => (StatusCode::ACCEPTED, json!({"task": task("queued")}).to_string()).into_response(),
    });
    let submitted = client.submit_task(&echo(), &Submit::default()).await.unwrap();
    assert_eq!(submitted.task.state, TaskState::Queued);
    let log = log.lock().unwrap();
    let keys: Vec<_> = log.iter().map(|asked| asked.header("idempotency-key").unwrap()).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn each_submission_has_a_key_of_its_own_or_the_callers() {
    let (client, log) = client(|_, _| json!({"task": task("queued")}).to_string());
    for _ in 0..2 {
        client.submit_task(&echo(), &Submit::default()).await.unwrap();
    }
    let mine = Submit { idempotency_key: Some("mine".into()), ..Submit::default() };
    client.delete_vm("web-1", &mine).await.unwrap();
    let log = log.lock().unwrap();
    assert_ne!(log[0].header("idempotency-key"), log[1].header("idempotency-key"));
    assert_eq!(log[2].header("idempotency-key"), Some("mine"));
    assert_eq!((log[2].method.as_str(), log[2].target.as_str()), ("DELETE", "/api/v1/vms/web-1"));
}

#[tokio::test]
async fn waiting_and_dry_runs_are_asked_for_as_the_api_says() {
    let (client, log) = client(|_, _| json!({"task": task("succeeded")}).to_string());
    client.submit_task(&echo(), &Submit::waiting(Duration::from_secs(20))).await.unwrap();
    client.submit_task(&echo(), &Submit::dry()).await.unwrap();
    let log = log.lock().unwrap();
    assert_eq!((log[0].header("prefer"), log[0].target.as_str()), (Some("wait=20"), "/api/v1/tasks"));
    assert_eq!((log[1].header("prefer"), log[1].target.as_str()), (None, "/api/v1/tasks?dry_run=true"));
    assert_eq!(log[0].header("authorization"), Some("Bearer secret"));
}

#[tokio::test]
async fn a_refusal_keeps_its_code_its_facts_and_its_request() {
    let (client, log) = client(|_, _| refuse(Code::QuotaExceeded));
    let error = client.submit_task(&echo(), &Submit::default()).await.unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!((problem.code, problem.facts["limit"].as_i64()), (Code::QuotaExceeded, Some(3)));
    assert!(error.request_id().is_some());
    assert_eq!(log.lock().unwrap().len(), 1, "a refusal is final");
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_asked_again() {
    let (client, log) = client(|n, _| match n {
        1 | 2 => refuse(Code::Overloaded),
        _ => json!({"task": task("queued")}).to_string().into_response(),
    });
    client.submit_task(&echo(), &Submit::default()).await.unwrap();
    assert_eq!(log.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_calls_too_often_is_asked_again_when_the_server_says_so() {
    let (client, log) = client(|n, _| match n {
        1 => too_often(7),
        _ => json!({"task": task("queued")}).to_string().into_response(),
    });
    let began = tokio::time::Instant::now();
    client.submit_task(&echo(), &Submit::default()).await.unwrap();
    assert_eq!((log.lock().unwrap().len(), began.elapsed().as_secs()), (2, 7));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_client_is_patient() {
    let (client, log) = client(|_, _| too_often(3600));
    let error = client.submit_task(&echo(), &Submit::default()).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, Code::RateLimited);
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_something_else_is_unreadable() {
    let (client, _) = client(|_, _| (StatusCode::NOT_FOUND, Html("<h1>nginx</h1>")));
    let error = client.quota().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreadable { .. }), "{error:?}");
    assert_eq!(error.status(), Some(404));
    assert!(error.to_string().contains("GET /api/v1/quota"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let (client, log) = client(|_, _| broken_after(""));
    assert!(client.nodes().await.unwrap_err().is_unreachable());
    assert_eq!(log.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_is_not_sent() {
    let (client, log) = client(|_, _| "");
    let error = client.delete_vm("../tasks", &Submit::default()).await.unwrap_err();
    assert_eq!(error.problem().map(|problem| problem.code), Some(Code::VmNotFound));
    assert!(log.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_list_is_read_to_its_end_or_to_its_limit() {
    let (client, log) = client(|n, _| match n {
        1 | 3 => json!({"items": [task("queued"), task("running")], "next_cursor": "a b"}).to_string(),
        _ => json!({"items": [task("failed")]}).to_string(),
    });
    let which = TaskQuery { state: Some(TaskState::Failed), ..TaskQuery::default() };
    assert_eq!(client.tasks(&which, None).await.unwrap().len(), 3);
    assert_eq!(client.tasks(&which, Some(2)).await.unwrap().len(), 2);
    let log = log.lock().unwrap();
    let targets: Vec<&str> = log.iter().map(|asked| asked.target.as_str()).collect();
    assert_eq!(
        targets,
        [
            "/api/v1/tasks?state=failed&limit=100",
            "/api/v1/tasks?state=failed&limit=100&cursor=a%20b",
            "/api/v1/tasks?state=failed&limit=2",
        ]
    );
}

#[tokio::test]
async fn a_probe_may_say_anything_and_its_version() {
    let (client, _) = client(|n, _| match n {
        1 => "ok".to_owned(),
        _ => json!({"status": "ok", "version": "0.1.0"}).to_string(),
    });
    let health = client.health().await.unwrap();
    assert_eq!((health.said.as_str(), health.version), ("ok", None));
    assert_eq!(client.ready().await.unwrap().version.as_deref(), Some("0.1.0"));
}

#[tokio::test]
async fn the_version_is_asked_of_the_probe() {
    let (client, log) = client(|_, _| json!({"status": "ok", "version": "0.1.0"}).to_string());
    assert_eq!(client.version().await.unwrap().as_deref(), Some("0.1.0"));
    assert_eq!(log.lock().unwrap()[0].target, "/healthz");
}

#[tokio::test]
async fn a_task_is_ended_by_force_through_its_own_route() {
    let (client, log) = client(|_, _| task("cancelled").to_string());
    let id = "0190f1f0-0000-7000-8000-000000000001".parse().unwrap();
    assert_eq!(client.force_task(id).await.unwrap().state, TaskState::Cancelled);
    let log = log.lock().unwrap();
    let expected = ("POST", "/api/v1/tasks/0190f1f0-0000-7000-8000-000000000001/force");
    assert_eq!((log[0].method.as_str(), log[0].target.as_str()), expected);
}
