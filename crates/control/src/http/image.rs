//! Images: `/api/v1/images`.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::{
    api::Page,
    image::{Image, Manifest},
};

use super::{
    body::{Json, Strict},
    document::Refusals,
};
use crate::app::{App, Result, caller::Call};

/// Lists images.
#[utoipa::path(get, path = "/api/v1/images", tag = "images",
    responses((status = 200, description = "Every image, on one page", body = Page<Image>), Refusals))]
pub(super) async fn list_images(State(app): State<Arc<App>>, call: Call) -> Result<Json<Page<Image>>> {
    Ok(Json(Page { items: app.images(&call).await?, next_cursor: None }))
}

/// Registers an image by its manifest, once its blobs are here. The name then stands for it.
#[utoipa::path(put, path = "/api/v1/images", tag = "images", request_body = Manifest,
    responses((status = 200, description = "The image", body = Image), Refusals))]
pub(super) async fn put_image(State(app): State<Arc<App>>, call: Call, body: Strict<Manifest>) -> Result<Json<Image>> {
    Ok(Json(app.put_image(call.caller.tenant, body.value, call.actor()).await?))
}
