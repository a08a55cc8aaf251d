//! Imports: begun by an upload or by an address under `/api/v1/images/{image}`, looked at under `/api/v1/imports`.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use axum::{
    body::Body,
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
use hostler_store::BegunImport;
use http::{StatusCode, request::Parts};
use serde::Deserialize;
use tokio_util::io::StreamReader;

use super::{
    asked::{Asked, SubmitHeaders},
    blob::{RangeHeaders, length, stretch},
    body::{Json, Nothing, Strict, answer, discard, discard_rest},
    cursor::List,
    document::Refusals,
    path::InPath,
    query::{self, InQuery, PageQuery},
};
use crate::app::{App, Result, caller::Call, import::Upload, submit::Terms};

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
    /// When they are ready: `auto`, `guest-agent`, `cloud-init`, `tcp:PORT`, `marker:/PATH` or `none`.
    ready: Option<String>,
    /// Answer as if, take in no bytes, and write nothing.
    dry_run: bool,
    /// How many bytes would come, for a dry run.
    length: Option<u64>,
}

/// Takes in a whole disk as the request's body, in any format that is read, and makes an image of it. A sender that says
/// the `sha256` can go on where it broke off: `GET /api/v1/blobs/{sha256}` says how much is here, and `Content-Range`
/// where the rest begins.
#[utoipa::path(put, path = "/api/v1/images/{image}/content", tag = "images",
    params(("image" = String, Path, description = "The image's name"), UploadQuery, SubmitHeaders, RangeHeaders),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "It was over while the caller waited, or this is a dry run", body = Importing),
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
    let read = (|| {
        let asked = Asked::read(&parts, query.dry_run)?;
        let upload = query.upload(path.get("image")?, &parts)?;
        Ok::<_, crate::app::Error>((asked, upload))
    })();
    let begun = match read {
        Ok((asked, upload)) => {
            let terms = asked.terms(&said(&parts));
            begin(&app, &call, upload, terms, body).await.map(|begun| (asked, begun))
        }
        Err(error) => {
            discard(body);
            Err(error)
        }
    };
    let (asked, begun) = begun?;
    answered(&app, begun, &asked).await
}

/// The body is read only where the answer depends on it.
async fn begin(app: &Arc<App>, call: &Call, upload: Upload, terms: Terms, body: Body) -> Result<BegunImport> {
    match app.may_upload(call, &upload, &terms).await {
        Ok(None) => {
            let mut pieces = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
            let begun = app.upload(call, upload, terms.idempotency, &mut pieces).await;
            if begun.is_err() {
                discard_rest(pieces);
            }
            begun
        }
        Ok(Some(begun)) => {
            discard(body);
            Ok(begun)
        }
        Err(error) => {
            discard(body);
            Err(error)
        }
    }
}

impl UploadQuery {
    fn upload(self, name: &str, parts: &Parts) -> Result<Upload> {
        let sha256: Option<Sha256Hex> = self.sha256.as_deref().map(str::parse).transpose()?;
        let UploadQuery { format, arch, firmware, vcpus, memory_mib, disk_gib, ready, dry_run, .. } = self;
        let length = self.length.filter(|_| dry_run).or_else(|| length(&parts.headers));
        let ready = ready.as_deref().map(str::parse).transpose()?;
        let shape = NewShape { arch, firmware, vcpus, memory_mib, disk_gib, ready, ..NewShape::default() };
        let plan = plan_upload(name, sha256.clone(), format, &shape)?;
        Ok(Upload { plan, sha256, stretch: stretch(&parts.headers)?, length })
    }
}

/// What a query says beside the digest of the bytes, which is compared by itself.
fn said(parts: &Parts) -> String {
    let query = parts.uri.query().unwrap_or_default();
    let is_said = |pair: &&str| !pair.is_empty() && !pair.starts_with("sha256=") && !pair.starts_with("dry_run=");
    let said: BTreeSet<&str> = query.split('&').filter(is_said).collect();
    Vec::from_iter(said).join("&")
}

/// How an import is asked for. It is no task, and has no schedule.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BeginQuery {
    /// Answer as if, fetch nothing, and write nothing.
    dry_run: bool,
}

/// Fetches an image from an address, a file of the server, the catalogue, or parts of it from any of these.
#[utoipa::path(post, path = "/api/v1/images/{image}/import", tag = "images",
    params(("image" = String, Path, description = "The image's name"), BeginQuery, SubmitHeaders),
    request_body = NewImport,
    responses(
        (status = 200, description = "It was over while the caller waited, or this is a dry run", body = Importing),
        (status = 202, description = "It is under way", body = Importing),
        Refusals))]
pub(super) async fn import_image(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(query): InQuery<BeginQuery>,
    parts: Parts,
    body: Strict<NewImport>,
) -> Result<Response> {
    let asked = Asked::read(&parts, query.dry_run)?;
    let begun = app.import(&call, path.get("image")?, &body.value, asked.terms(&body.sha256)).await?;
    answered(&app, begun, &asked).await
}

async fn answered(app: &App, begun: BegunImport, asked: &Asked) -> Result<Response> {
    let BegunImport { import, replayed } = begun;
    if asked.is_dry_run() {
        return Ok(answer(StatusCode::OK, &Importing { import }));
    }
    let import = app.import_ended(import, asked.wait().unwrap_or(Duration::ZERO)).await?;
    let status = if import.state.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/api/v1/imports/{}", import.id);
    let mut response = answer(status, &Importing { import });
    asked.mark(&mut response, &location, replayed);
    Ok(response)
}

/// Lists imports, newest first.
#[utoipa::path(get, path = "/api/v1/imports", tag = "images", params(PageQuery),
    responses((status = 200, description = "A page of imports", body = Page<Import>), Refusals))]
pub(super) async fn list_imports(
    State(app): State<Arc<App>>,
    call: Call,
    InQuery(query): InQuery<PageQuery>,
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
