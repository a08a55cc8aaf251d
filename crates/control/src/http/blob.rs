//! The bytes of images, streamed both ways: `PUT /api/v1/blobs/{sha256}` from people, `GET …/blobs/{sha256}` to nodes.

use std::{io, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use futures_util::TryStreamExt;
use hostler_model::image::Sha256Hex;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{
    body::{self, answer},
    document::Refusals,
    path::InPath,
};
use crate::app::{App, Error, Result, caller::Call};

/// A piece that is read from the disk at once.
const PIECE: usize = 256 << 10;

/// A blob that is here.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Blob {
    /// Its digest.
    sha256: Sha256Hex,
    /// Its length in bytes.
    size: u64,
}

/// Takes in the bytes of one file of an image. They must have the digest that the path names.
#[utoipa::path(put, path = "/api/v1/blobs/{sha256}", tag = "images",
    params(("sha256" = Sha256Hex, Path, description = "The digest")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "It was here already", body = Blob),
        (status = 201, description = "It is here now", body = Blob),
        Refusals))]
pub(super) async fn put_blob(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    request: Request,
) -> Result<Response> {
    let sha256: Sha256Hex = path.get("sha256")?.parse()?;
    if let Some(size) = app.blobs.size(&sha256).await? {
        app.blobs.touch(&sha256).await;
        // Its sender has not read the answer yet, and may not be able to before it has sent all.
        body::discard(request.into_body());
        return Ok(answer(StatusCode::OK, &Blob { sha256, size }));
    }
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let tenant = call.caller.tenant;
    let _place = app.blobs.room.send(tenant)?;
    app.store.may_add_images(tenant, length.unwrap_or(1)).await.map_err(Error::from)??;
    let charge = app.charge(tenant).await?;
    let pieces = request.into_body().into_data_stream().map_err(io::Error::other);
    let name = app.ids.next(app.clock.now());
    let size = app.blobs.put(&sha256, name, charge, StreamReader::new(pieces)).await?;
    Ok(answer(StatusCode::CREATED, &Blob { sha256, size }))
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
