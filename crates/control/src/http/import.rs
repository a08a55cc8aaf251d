//! Imports: begun by an upload or by an address under `/api/v1/images/{image}`, looked at under `/api/v1/imports`.

use std::{io, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    response::Response,
};
use futures_util::TryStreamExt;
use hostler_model::{
    api::Page,
    disk::SourceFormat,
    id::ImportId,
    image::{Firmware, Sha256Hex},
    import::{Import, Importing, NewImport, NewShape, plan_upload},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio_util::io::StreamReader;

use super::{
    asked::{self, SubmitHeaders},
    body::{Json, Nothing, Strict, answer, discard},
    cursor::List,
    document::Refusals,
    path::InPath,
    query::{self, InQuery},
};
use crate::app::{App, Result, caller::Call};

/// What is said of an upload.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadQuery {
    /// What the bytes must be; recorded where nothing is said.
    sha256: Option<String>,
    /// Their format; told from the first bytes where nothing is said, but for `raw`.
    format: Option<SourceFormat>,
    /// The processor architecture; `x86_64` where nothing is said.
    arch: Option<String>,
    /// What starts the disk; BIOS where nothing is said.
    firmware: Option<Firmware>,
    /// Virtual processors of machines that do not say.
    vcpus: Option<i64>,
    /// Their memory in MiB.
    memory_mib: Option<i64>,
    /// Their disk in GiB.
    disk_gib: Option<i64>,
}

/// Takes in a whole disk as the request's body, in any format that is read, and makes an image of it.
#[utoipa::path(put, path = "/api/v1/images/{image}/content", tag = "images",
    params(("image" = String, Path, description = "The image's name"), UploadQuery, SubmitHeaders),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "It was over while the caller waited", body = Importing),
        (status = 202, description = "The bytes are here, and are being made an image", body = Importing),
        Refusals))]
pub(super) async fn upload_image(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(query): InQuery<UploadQuery>,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let planned = (|| {
        let sha256: Option<Sha256Hex> = query.sha256.as_deref().map(str::parse).transpose()?;
        let UploadQuery { format, arch, firmware, vcpus, memory_mib, disk_gib, .. } = query;
        let shape = NewShape { arch, firmware, vcpus, memory_mib, disk_gib, ..NewShape::default() };
        plan_upload(path.get("image")?, sha256, format, &shape).map_err(crate::app::Error::from)
    })();
    let plan = match planned {
        Ok(plan) => plan,
        Err(error) => {
            discard(body);
            return Err(error);
        }
    };
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let pieces = body.into_data_stream().map_err(io::Error::other);
    let import = app.upload(&call, plan, length, StreamReader::new(pieces)).await?;
    begun(&app, import, &parts.headers).await
}

/// Fetches an image from an address, a file of the server, the catalogue, or parts of it from any of these.
#[utoipa::path(post, path = "/api/v1/images/{image}/import", tag = "images",
    params(("image" = String, Path, description = "The image's name"), SubmitHeaders),
    request_body = NewImport,
    responses(
        (status = 200, description = "It was over while the caller waited", body = Importing),
        (status = 202, description = "It is under way", body = Importing),
        Refusals))]
pub(super) async fn import_image(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    headers: HeaderMap,
    body: Strict<NewImport>,
) -> Result<Response> {
    let import = app.import(&call, path.get("image")?, &body.value).await?;
    begun(&app, import, &headers).await
}

async fn begun(app: &App, import: Import, headers: &HeaderMap) -> Result<Response> {
    let import = app.import_ended(import, asked::wait(headers).unwrap_or(Duration::ZERO)).await?;
    let status = if import.state.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = HeaderValue::from_str(&format!("/api/v1/imports/{}", import.id));
    let mut response = answer(status, &Importing { import });
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Which imports to list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImportQuery {
    /// How many a page has, 1 to 500; 50 where nothing is said.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists imports, newest first.
#[utoipa::path(get, path = "/api/v1/imports", tag = "images", params(ImportQuery),
    responses((status = 200, description = "A page of imports", body = Page<Import>), Refusals))]
pub(super) async fn list_imports(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<ImportQuery>,
) -> Result<Json<Page<Import>>> {
    let limit = query::limit(query.limit)?;
    let before = query::before::<ImportId>(List::Imports, query.cursor.as_deref())?;
    let imports = app.imports(&call, before, limit + 1).await?;
    Ok(Json(super::cursor::page(List::Imports, imports, limit, |import| import.id.0)))
}

/// Shows how far an import is.
#[utoipa::path(get, path = "/api/v1/imports/{import}", tag = "images",
    params(("import" = String, Path, description = "Its id")),
    responses((status = 200, description = "The import", body = Import), Refusals))]
pub(super) async fn show_import(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Json<Import>> {
    Ok(Json(app.one_import(&call, path.get("import")?).await?))
}

/// Stops an import; nothing of it is kept. One that is over is answered as it is.
#[utoipa::path(post, path = "/api/v1/imports/{import}/cancel", tag = "images",
    params(("import" = String, Path, description = "Its id")),
    responses((status = 200, description = "The import as it is now", body = Import), Refusals))]
pub(super) async fn cancel_import(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Import>> {
    Ok(Json(app.cancel_import(&call, path.get("import")?).await?))
}
