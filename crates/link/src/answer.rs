//! Reading what the server said: JSON, a refusal, or bytes as they come.

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use hostler_model::{api::Problem, error::excerpt};
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use reqwest::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::LinkError;

/// The largest body that is gathered in memory: far above a full page of the longest list, far below harm.
const LARGEST_BODY: usize = 64 << 20;

/// What the server said, when it said yes.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The HTTP status, 2xx.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: T,
}

/// A body's bytes as they come, in chunks of whatever size.
pub fn chunks(body: Body) -> impl Stream<Item = Result<Bytes, LinkError>> + Send + Unpin {
    body.into_data_stream().map_err(broken)
}

/// The whole answer, its body as JSON.
pub(crate) async fn read<T: DeserializeOwned>(answer: Response<Body>) -> Result<Answer<T>, LinkError> {
    let (parts, body) = accepted(answer).await?.into_parts();
    let bytes = whole(body).await?;
    let json: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
    let body = serde_json::from_slice(json).map_err(|error| {
        let begin = excerpt(&String::from_utf8_lossy(&bytes));
        LinkError::Unreadable(format!("{error}, in an answer {} that begins {begin:?}", parts.status))
    })?;
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// The answer, unless it is a refusal.
pub(crate) async fn accepted(answer: Response<Body>) -> Result<Response<Body>, LinkError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let (parts, body) = answer.into_parts();
    let body = whole(body).await?;
    Err(refusal(parts.status, &parts.headers, &body))
}

fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> LinkError {
    if !is_problem(headers) {
        return LinkError::Unexpected { status, detail: excerpt(&String::from_utf8_lossy(body)) };
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => LinkError::Refused { status, problem: Box::new(problem) },
        Err(_) => LinkError::Unexpected { status, detail: unknown_problem(body) },
    }
}

fn is_problem(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/problem+json")
}

/// A problem with a code of a newer server: its own sentence is still the best one.
fn unknown_problem(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let text = |name: &str| value.as_ref().and_then(|value| value[name].as_str());
    match (text("code"), text("detail")) {
        (Some(code), Some(detail)) => format!("{}: {detail}", excerpt(code)),
        (_, Some(detail)) => detail.to_owned(),
        _ => excerpt(&String::from_utf8_lossy(body)),
    }
}

async fn whole(body: Body) -> Result<Bytes, LinkError> {
    match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(LinkError::Unreadable(format!("it is larger than {} MiB", LARGEST_BODY >> 20)))
        }
        Err(source) => Err(LinkError::Broken { url: "the server".to_owned(), source }),
    }
}

pub(crate) fn broken(error: reqwest::Error) -> LinkError {
    LinkError::Broken { url: "the server".to_owned(), source: error.without_url().into() }
}
