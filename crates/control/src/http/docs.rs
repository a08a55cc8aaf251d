//! The API's document for people: Swagger UI, out of the binary. It loads nothing from anywhere else.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::Path,
    response::{IntoResponse, Redirect, Response},
};
use hostler_model::{Code, Refusal, error::excerpt};
use http::{HeaderValue, header};
use utoipa_swagger_ui::{Config, serve};

use super::document::Refusals;
use crate::app::{Error, Result};

/// The page runs its own scripts only and talks to this server only. Its icons are in the page, and so are some styles.
const POLICY: &str =
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'";

static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::from("/openapi.json").deep_linking(true).display_request_duration(true).filter(true);
    Arc::new(config.doc_expansion("none").persist_authorization(false))
});

/// Leads to the page.
#[utoipa::path(get, path = "/docs", tag = "health",
    responses((status = 303, description = "Where the page is",
        headers(("Location" = String, description = "The page"))), Refusals))]
pub(super) async fn show_docs() -> Redirect {
    Redirect::to("/docs/index.html")
}

/// The page that shows this API's document, and its scripts and styles. A browser asks for a name and a password: any
/// name, and the token as the password.
#[utoipa::path(get, path = "/docs/{file}", tag = "health",
    params(("file" = String, Path, description = "`index.html` or what it asks for")),
    responses((status = 200, description = "The file", content_type = "text/html", body = String), Refusals))]
pub(super) async fn show_docs_file(Path(file): Path<String>) -> Result<Response> {
    let found = serve(&file, CONFIG.clone()).map_err(|_| Error::Fault("the documentation's page cannot be written"))?;
    let found = found.filter(|_| !file.is_empty()).ok_or_else(|| {
        let detail = format!("there is no page {}; /docs/index.html is the one to open", excerpt(&file));
        Refusal::new(Code::NotFound, detail)
    })?;
    let mut response = found.bytes.into_owned().into_response();
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&found.content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}
