//! The bytes of images, streamed both ways: `PUT /api/v1/blobs/{sha256}` from people, `GET …/blobs/{sha256}` to nodes.

use std::{io, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use futures_util::TryStreamExt;
use hostler_model::{image::Sha256Hex, import::Stretch};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{
    body::{self, Json, answer},
    document::Refusals,
    path::InPath,
};
use crate::app::{App, Result, blob::Sent, caller::Call};

/// A piece that is read from the disk at once.
const PIECE: usize = 256 << 10;

/// A blob that is here for this tenant, or that part of it which is: bytes that only others have sent are not.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Blob {
    /// Its digest.
    sha256: Sha256Hex,
    /// How many of its bytes are here.
    size: u64,
    /// Whether these are all.
    complete: bool,
}

/// The header of a body that is a piece, for the document.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the document's view of a header that is read by hand")]
pub(super) struct RangeHeaders {
    /// Where the body belongs, where it is not the whole: no later than where the bytes end that are here.
    #[param(rename = "Content-Range", example = "bytes 1000-1999/2000")]
    content_range: Option<String>,
}

/// Where the body belongs.
pub(super) fn stretch(headers: &HeaderMap) -> Result<Stretch> {
    let Some(range) = headers.get(header::CONTENT_RANGE) else { return Ok(Stretch::default()) };
    Ok(Stretch::read(range.to_str().unwrap_or_default())?)
}

/// How long the body is said to be.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Takes in the bytes of one file of an image, whole or a piece. They must have the digest that the path names.
#[utoipa::path(put, path = "/api/v1/blobs/{sha256}", tag = "images",
    params(("sha256" = Sha256Hex, Path, description = "The digest"), RangeHeaders),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "It was here already", body = Blob),
        (status = 201, description = "It is here now", body = Blob),
        (status = 202, description = "The piece is here, and more are to come", body = Blob),
        Refusals))]
pub(super) async fn put_blob(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    request: Request,
) -> Result<Response> {
    let sha256: Sha256Hex = path.get("sha256")?.parse()?;
    let (headers, body) = (request.headers().clone(), request.into_body());
    let tenant = call.tenant()?;
    if let Some(size) = app.blob_of(tenant, &sha256).await? {
        // Its sender has not read the answer yet, and may not be able to before it has sent all.
        body::discard(body);
        return Ok(answer(StatusCode::OK, &Blob { sha256, size, complete: true }));
    }
    let read = stretch(&headers).map(|stretch| (stretch, length(&headers)));
    let may = match read {
        Ok((stretch, length)) => app.may_send(&call, stretch, length).await.map(|()| stretch),
        Err(error) => Err(error),
    };
    let stretch = match may {
        Ok(stretch) => stretch,
        Err(error) => {
            body::discard(body);
            return Err(error);
        }
    };
    let mut pieces = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let taken = app.take_upload(&call, &sha256, stretch, &mut pieces).await;
    if taken.is_err() {
        body::discard_rest(pieces);
    }
    match taken? {
        Sent::Part(size) => Ok(answer(StatusCode::ACCEPTED, &Blob { sha256, size, complete: false })),
        Sent::Whole(received) => {
            let size = received.length;
            app.still(&call).await?;
            app.blobs.keep_of(tenant, received).await?;
            Ok(answer(StatusCode::CREATED, &Blob { sha256, size, complete: true }))
        }
    }
}

/// Shows how much of a file is here: a sender that was interrupted goes on from there.
#[utoipa::path(get, path = "/api/v1/blobs/{sha256}", tag = "images",
    params(("sha256" = Sha256Hex, Path, description = "The digest")),
    responses((status = 200, description = "How many of its bytes are here, which may be none", body = Blob), Refusals))]
pub(super) async fn show_blob(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Json<Blob>> {
    let sha256: Sha256Hex = path.get("sha256")?.parse()?;
    let tenant = call.tenant()?;
    let whole = app.blob_of(tenant, &sha256).await?;
    let size = match whole {
        Some(size) => size,
        None => app.blobs.sent(tenant, &sha256).await,
    };
    Ok(Json(Blob { sha256, size, complete: whole.is_some() }))
}

/// A blob as nodes fetch it: all of it, or from where they broke off.
pub(super) async fn serve(app: &App, sha256: &str, asked: &HeaderMap) -> Result<Response> {
    let sha256: Sha256Hex = sha256.parse()?;
    let from = from(asked);
    let (file, length) = app.blobs.open_from(&sha256, from).await?;
    let from = if from < length { from } else { 0 };
    let mut response = Response::new(Body::from_stream(ReaderStream::with_capacity(file, PIECE)));
    if from > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        if let Ok(range) = format!("bytes {from}-{}/{length}", length - 1).parse() {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length - from));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// `Range: bytes=N-`, the only form that nodes use; any other is as none.
fn from(asked: &HeaderMap) -> u64 {
    let range = asked.get(header::RANGE).and_then(|range| range.to_str().ok());
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    from.unwrap_or(0)
}
