//! Images: `/api/v1/images`, and the catalogue of well-known ones. How one comes from outside is in `import.rs`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    api::Page,
    catalogue::KnownImage,
    image::{Image, ImageInfo, ImageTasks, Manifest, NewAlias, NewPull},
};
use http::StatusCode;

use super::{
    asked::scheduled,
    body::{Json, Nothing, Strict, answer},
    document::Refusals,
    path::InPath,
    query::InQuery,
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
    Ok(Json(app.put_image(call.tenant()?, body.value, call.actor()).await?))
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

scheduled! {
    /// Where from, and when nodes remove it.
    DeleteQuery {
        /// Only from this node's cache, by id or name.
        node: Option<String>,
    }
}

/// Removes a name of an image; with its last name, or by its digest, the image. Refused while machines are made of it. A
/// schedule is for the nodes that have it: the name, and the image, go at once.
#[utoipa::path(delete, path = "/api/v1/images/{image}", tag = "images",
    params(("image" = String, Path, description = "Its name or digest"), DeleteQuery),
    responses(
        (status = 200, description = "It is gone, or the name is; nodes that have it remove it", body = ImageTasks),
        (status = 202, description = "The one node that was named removes it from its cache", body = ImageTasks),
        Refusals))]
pub(super) async fn delete_image(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(query): InQuery<DeleteQuery>,
    _: Strict<Nothing>,
) -> Result<Response> {
    let image = path.get("image")?;
    let when = query.when();
    Ok(match &query.node {
        Some(node) => answer(StatusCode::ACCEPTED, &app.evict_image(&call, image, node, &when).await?),
        None => answer(StatusCode::OK, &app.delete_image(&call, image, &when).await?),
    })
}

scheduled! {
    /// When nodes fetch it.
    PullQuery {}
}

/// Brings an image to nodes before machines need it.
#[utoipa::path(post, path = "/api/v1/images/{image}/pull", tag = "images",
    params(("image" = String, Path, description = "Its name or digest"), PullQuery),
    request_body = NewPull,
    responses((status = 202, description = "A task for each node that lacks it", body = ImageTasks), Refusals))]
pub(super) async fn pull_image(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(query): InQuery<PullQuery>,
    body: Strict<NewPull>,
) -> Result<Response> {
    let tasks = app.pull_image(&call, path.get("image")?, body.value.node.as_deref(), &query.when()).await?;
    Ok(answer(StatusCode::ACCEPTED, &tasks))
}

/// Lists the well-known images that can be imported by name.
#[utoipa::path(get, path = "/api/v1/catalogue", tag = "images",
    responses((status = 200, description = "All of them, on one page", body = Page<KnownImage>), Refusals))]
pub(super) async fn list_catalogue(State(app): State<Arc<App>>) -> Json<Page<KnownImage>> {
    Json(Page { items: app.sources.catalogue.images().to_vec(), next_cursor: None })
}
