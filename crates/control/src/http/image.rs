//! Images: `/api/v1/images`, and the catalogue of well-known ones. How one comes from outside is in `import.rs`.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::{
    api::Page,
    catalogue::{CATALOGUE, Known},
    image::{Image, ImageInfo, Manifest, NewAlias},
};

use super::{
    body::{Json, Nothing, Strict},
    document::Refusals,
    path::InPath,
};
use crate::app::{App, Result, caller::Call};

/// Lists images.
#[utoipa::path(get, path = "/api/v1/images", tag = "images",
    responses((status = 200, description = "Every image, on one page", body = Page<ImageInfo>), Refusals))]
pub(super) async fn list_images(State(app): State<Arc<App>>, call: Call) -> Result<Json<Page<ImageInfo>>> {
    Ok(Json(Page { items: app.images(&call).await?, next_cursor: None }))
}

/// Registers an image by its manifest, once its blobs are here. The name then stands for it.
#[utoipa::path(put, path = "/api/v1/images", tag = "images", request_body = Manifest,
    responses((status = 200, description = "The image", body = Image), Refusals))]
pub(super) async fn put_image(State(app): State<Arc<App>>, call: Call, body: Strict<Manifest>) -> Result<Json<Image>> {
    Ok(Json(app.put_image(call.caller.tenant, body.value, call.actor()).await?))
}

/// Shows an image, what stands for it, which nodes have it.
#[utoipa::path(get, path = "/api/v1/images/{image}", tag = "images",
    params(("image" = String, Path, description = "Its name or digest")),
    responses((status = 200, description = "The image", body = ImageInfo), Refusals))]
pub(super) async fn show_image(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Json<ImageInfo>> {
    Ok(Json(app.image_info(&call, path.get("image")?).await?))
}

/// Lets a name stand for an image from now on, whatever it stood for before.
#[utoipa::path(put, path = "/api/v1/images/{image}", tag = "images",
    params(("image" = String, Path, description = "The name")),
    request_body = NewAlias,
    responses((status = 200, description = "The image", body = ImageInfo), Refusals))]
pub(super) async fn name_image(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    body: Strict<NewAlias>,
) -> Result<Json<ImageInfo>> {
    Ok(Json(app.name_image(&call, path.get("image")?, &body.value.image).await?))
}

/// Removes a name of an image; with its last name, or by its digest, the image. Refused while machines are made of it.
#[utoipa::path(delete, path = "/api/v1/images/{image}", tag = "images",
    params(("image" = String, Path, description = "Its name or digest")),
    responses((status = 200, description = "The image, with the names that it still has", body = ImageInfo), Refusals))]
pub(super) async fn delete_image(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<ImageInfo>> {
    Ok(Json(app.delete_image(&call, path.get("image")?).await?))
}

/// Lists the well-known images that can be imported by name.
#[utoipa::path(get, path = "/api/v1/catalogue", tag = "images",
    responses((status = 200, description = "All of them, on one page", body = Page<Known>), Refusals))]
pub(super) async fn list_catalogue() -> Json<Page<Known>> {
    Json(Page { items: CATALOGUE.to_vec(), next_cursor: None })
}
