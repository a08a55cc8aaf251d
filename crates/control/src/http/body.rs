//! Bodies: read up to a limit, JSON in UTF-8. People's are read strictly (an unknown field is refused and named),
//! agents' leniently, so that versions can mix.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use hostler_model::{Code, Refusal};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;

use crate::app::{App, Error, Result, caller::Call};

/// How much a person's body may have.
pub(super) const PEOPLE: usize = 1 << 20;
/// How long a body may take to arrive, whatever its size: a sender that dribbles holds a place that others wait for.
const ARRIVAL: Duration = Duration::from_secs(30);
/// How much of the largest body arrives in each second beyond that, over the slowest link that is put up with.
const SLOWEST: u64 = 256 << 10;
/// How long a body that was refused is thrown away unread, so that its sender gets to read the refusal.
const DISCARD: Duration = Duration::from_secs(2);

/// A body from a person, and its sha256 in hex.
#[derive(Debug)]
pub(super) struct Strict<T, const LIMIT: usize = PEOPLE> {
    pub(super) value: T,
    pub(super) sha256: String,
}

impl<T: DeserializeOwned, const LIMIT: usize> FromRequest<Arc<App>> for Strict<T, LIMIT> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        let call = request.extensions().get::<Call>().cloned();
        let bytes = read(request, LIMIT).await?;
        if let Some(call) = &call {
            app.still(call).await?;
        }
        // Where nothing must be said, nothing need be sent.
        let text = if bytes.is_empty() { "{}" } else { text(&bytes)? };
        let value = serde_json::from_str(text).map_err(not_json)?;
        Ok(Strict { value: app.read(call.as_ref(), &value).await?, sha256: hex::encode(Sha256::digest(&bytes)) })
    }
}

/// A body that must be empty, or an empty object.
#[derive(Debug, Serialize, serde::Deserialize)]
pub(super) struct Nothing {}

/// A body from an agent, of at most `LIMIT` bytes.
#[derive(Debug)]
pub(super) struct Lenient<T, const LIMIT: usize>(pub(super) T);

impl<T: DeserializeOwned, const LIMIT: usize> FromRequest<Arc<App>> for Lenient<T, LIMIT> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self> {
        let bytes = read(request, LIMIT).await?;
        let value = serde_json::from_str(text(&bytes)?).map_err(|error| match error.is_data() {
            true => Refusal::new(Code::ValidationError, error.to_string()),
            false => not_json(error),
        })?;
        Ok(Lenient(value))
    }
}

async fn read(request: Request, limit: usize) -> Result<Bytes> {
    let (parts, body) = request.into_parts();
    if announced(&parts.headers).is_some_and(|length| length > limit as u64) {
        discard(body);
        return Err(too_large(limit).into());
    }
    let within = arrival(limit);
    let bytes = tokio::time::timeout(within, collect(body, limit)).await.map_err(|_| too_slow(within))??;
    if !bytes.is_empty() && !is_json(&parts.headers) {
        return Err(
            Refusal::new(Code::MalformedBody, "the body must be JSON: send `Content-Type: application/json`").into()
        );
    }
    Ok(bytes)
}

async fn collect(body: Body, limit: usize) -> std::result::Result<Bytes, Refusal> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Err(_) => Err(Refusal::new(Code::MalformedBody, "the body broke off before its end")),
    }
}

/// How long a body of at most so many bytes may take.
fn arrival(limit: usize) -> Duration {
    ARRIVAL + Duration::from_secs(limit as u64 / SLOWEST)
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `application/json` or `application/<something>+json`, in UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let media = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Refusal::new(Code::MalformedBody, format!("the body is not UTF-8: byte {at} is wrong")).with("byte", at).into()
    })
}

fn not_json(error: serde_json::Error) -> Refusal {
    Refusal::new(Code::MalformedBody, format!("the body is not JSON: {error}"))
        .with("line", error.line())
        .with("column", error.column())
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("the body is larger than {limit} bytes")).with("limit_bytes", limit)
}

fn too_slow(within: Duration) -> Refusal {
    let seconds = within.as_secs();
    Refusal::new(Code::MalformedBody, format!("the body did not arrive within {seconds} s; send it again, faster"))
        .with("limit_seconds", seconds)
}

/// Takes the rest of a body and throws it away, for a while: a connection that is closed while its peer still sends is
/// reset, and the peer may never see the answer.
pub(super) fn discard(body: Body) {
    if !body.is_end_stream() {
        tokio::spawn(tokio::time::timeout(DISCARD, drain(body)));
    }
}

/// The same for a body of which some was read.
pub(super) fn discard_rest(mut body: impl AsyncRead + Send + Unpin + 'static) {
    tokio::spawn(tokio::time::timeout(
        DISCARD,
        async move { tokio::io::copy(&mut body, &mut tokio::io::sink()).await },
    ));
}

/// Takes the rest of a body and throws it away.
pub(super) async fn drain(mut body: Body) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// A JSON answer.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        answer(StatusCode::OK, &self.0)
    }
}

/// A JSON answer with a status.
pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    let Ok(bytes) = serde_json::to_vec(value) else {
        return Error::Fault("an answer could not be written as JSON").into_response();
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get().cloned().ok_or(Error::Fault("a request without a caller passed the gate"))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_dribbles_is_not_waited_for_without_end() {
        let every_second = stream::repeat(()).then(async |()| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b" "))
        });
        let begun = tokio::time::Instant::now();
        let refused = read(Request::new(Body::from_stream(every_second)), PEOPLE).await.unwrap_err();
        assert!(matches!(refused, Error::Refused(refusal) if refusal.code == Code::MalformedBody));
        assert_eq!(begun.elapsed().as_secs(), 34);
    }
}
