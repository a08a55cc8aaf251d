//! A server in this process that answers as it is told, and remembers what it was asked.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use hostler_client::{Client, Patience};
use hostler_link::Link;
use hostler_model::{Clock, Code, Ids, Refusal, Timestamp, api::Problem};
use serde_json::{Value, json};

/// What a request said.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub headers: axum::http::HeaderMap,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What was asked, in order.
pub type Log = Arc<Mutex<Vec<Asked>>>;

/// A client of a server that answers the nth request with `answer(n, request)`.
pub fn client<R: IntoResponse>(answer: impl Fn(usize, &Asked) -> R + Clone + Send + Sync + 'static) -> (Client, Log) {
    let log = Log::default();
    let seen = log.clone();
    let router = Router::new().fallback(move |request: Request| {
        let asked = Asked {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            headers: request.headers().clone(),
        };
        let mut log = seen.lock().unwrap();
        log.push(asked.clone());
        let answer = answer(log.len(), &asked).into_response();
        async move { answer }
    });
    let clock = Clock::from_fn(|| Timestamp::from_micros(1_700_000_000_000_000));
    let client = Client::new(Link::service(router), "secret").with_ids(Ids::seeded(1), clock);
    (client.with_patience(Patience { attempts: 3, ..Patience::default() }), log)
}

/// An answer whose connection breaks after these bytes.
pub fn broken_after(text: &str) -> Response {
    let parts = [Ok(text.to_owned()), Err(std::io::Error::other("the connection is gone"))];
    Response::new(Body::from_stream(stream::iter(parts)))
}

/// A refusal as the server writes it.
pub fn refuse(code: Code) -> Response {
    refused(Refusal::new(code, "no").with("limit", 3))
}

/// The refusal of somebody who called too often, and may again after so long.
pub fn too_often(seconds: u64) -> Response {
    refused(Refusal::new(Code::RateLimited, "no").with("retry_after_seconds", seconds))
}

fn refused(refusal: Refusal) -> Response {
    let id = "0190f1f0-0000-7000-8000-000000000009".parse().unwrap();
    let status = axum::http::StatusCode::from_u16(refusal.code.status()).unwrap();
    let problem = Problem::of(refusal, Some(id));
    let headers = [("content-type", "application/problem+json")];
    (status, headers, serde_json::to_string(&problem).unwrap()).into_response()
}

/// A task as the server writes it.
pub fn task(state: &str) -> Value {
    json!({
        "id": "0190f1f0-0000-7000-8000-000000000001",
        "tenant": "00000000-0000-7000-8000-000000000001",
        "kind": "echo",
        "target": {},
        "params": {"message": "hi"},
        "state": state,
        "fence": {"store_epoch": 1, "attempt": 0},
        "max_attempts": 3,
        "created_by": "00000000-0000-7000-8000-000000000002",
        "created_at": "2026-01-01T00:00:00Z",
        "not_before": "2026-01-01T00:00:00Z",
        "queue_deadline": "2026-01-01T00:15:00Z",
    })
}

/// An entry of the log as the server streams it.
pub fn event(seq: i64) -> String {
    let entry = json!({
        "seq": seq, "at": "2026-01-01T00:00:00Z", "class": "event", "kind": "task.queued", "noun": "task",
        "subject": "0190f1f0-0000-7000-8000-000000000001", "data": {},
    });
    format!("id: {seq}\nevent: task.queued\ndata: {entry}\n\n")
}
