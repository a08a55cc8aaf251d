//! Errors as answers: the one place where an error becomes a status and a problem document (RFC 9457).
//!
//! Handlers and extractors answer with an empty response that carries the error; the gate, which knows the request's
//! id, writes the document. What is our own fault is logged here, once, and only a stable sentence leaves the server.

use std::{error::Error as _, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use hostler_model::{Code, Refusal, api::Problem, id::RequestId};
use http::{HeaderValue, StatusCode, header};

use crate::app::Error;

/// The media type of problems.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// An error on its way to the gate.
#[derive(Clone, Debug)]
struct Failure(Arc<Error>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(Failure(Arc::new(self)));
        response
    }
}

/// Writes the problem document of a response that carries an error; others pass as they are.
pub(super) fn write(mut response: Response, request: RequestId) -> Response {
    let Some(Failure(error)) = response.extensions_mut().remove::<Failure>() else { return response };
    let refusal = refusal(&error, request);
    let code = refusal.code;
    *response.status_mut() = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let again = refusal.facts.get("retry_after_seconds").and_then(serde_json::Value::as_u64);
    let problem = Problem::of(refusal, Some(request));
    *response.body_mut() = Body::from(serde_json::to_vec(&problem).unwrap_or_default());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if let Some(seconds) = again {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if code == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hostler\""));
    }
    response
}

/// A call of which some was forbidden, though its answer is none of these problems: a batch, answered one by one.
#[derive(Clone, Copy, Debug)]
struct PartlyForbidden(Code);

/// Marks an answer to a batch by the codes with which some of it was refused.
pub(super) fn mark_forbidden(response: &mut Response, mut codes: impl Iterator<Item = Code>) {
    if let Some(code) = codes.find(is_forbidden) {
        response.extensions_mut().insert(PartlyForbidden(code));
    }
}

/// How a caller was forbidden what it asked for, or some of it.
pub(super) fn forbidden(response: &Response) -> Option<Code> {
    if let Some(PartlyForbidden(code)) = response.extensions().get() {
        return Some(*code);
    }
    let Failure(error) = response.extensions().get()?;
    let Error::Refused(refusal) = &**error else { return None };
    Some(refusal.code).filter(is_forbidden)
}

/// Whether it is for who somebody is that they are refused, or for who they no longer are.
fn is_forbidden(code: &Code) -> bool {
    matches!(code, Code::Forbidden | Code::ForbiddenOwnership | Code::Unauthenticated)
}

/// What the caller is told.
fn refusal(error: &Error, request: RequestId) -> Refusal {
    match error {
        Error::Refused(refusal) => return refusal.clone(),
        Error::Store(hostler_store::Error::Closing) => {
            return Refusal::new(Code::Unavailable, "the server is going away; ask another, or again");
        }
        Error::Store(_) | Error::File { .. } | Error::Trust { .. } | Error::Fault(_) => {}
    }
    log(error, request);
    if is_full(error) {
        return Refusal::new(
            Code::StorageFull,
            "the server's disk is full, so nothing can be written down; reads still work. Free some space and repeat",
        );
    }
    if matches!(error, Error::Store(error) if error.is_outage()) {
        return Refusal::new(
            Code::Unavailable,
            "the database does not answer. Repeat in a moment; with the same Idempotency-Key nothing is done twice",
        );
    }
    Refusal::new(Code::Internal, "the server failed; its log says why, under this request's id")
}

fn is_full(error: &Error) -> bool {
    match error {
        Error::Store(hostler_store::Error::Full(_)) => true,
        Error::File { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
        Error::Store(_) | Error::Refused(_) | Error::Trust { .. } | Error::Fault(_) => false,
    }
}

fn log(error: &Error, request: RequestId) {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    tracing::error!(request.id = %request, %error, cause, "a request failed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_our_own_faults_stays_here() {
        let error = Error::Trust { doing: "sign", cause: "secret path".into() };
        let refusal = refusal(&error, RequestId(uuid::Uuid::nil()));
        assert_eq!(refusal.code, Code::Internal);
        assert!(!refusal.detail.contains("secret"));
    }

    #[test]
    fn a_full_disk_is_said_to_be_full() {
        let source = std::io::ErrorKind::StorageFull.into();
        let refusal = refusal(&Error::File { doing: "write a blob", source }, RequestId(uuid::Uuid::nil()));
        assert_eq!(refusal.code, Code::StorageFull);
        let full = hostler_db::Error::Full { path: "hostler.db".into() };
        let refusal = super::refusal(&Error::Store(full.into()), RequestId(uuid::Uuid::nil()));
        assert_eq!((refusal.code.status(), refusal.detail.contains("hostler.db")), (507, false));
    }
}
