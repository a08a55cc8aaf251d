//! Nodes, as people see them: `/api/v1/nodes`.

pub(super) mod drain;
pub(super) mod edit;

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::{
    api::{Page, TargetRef},
    broker::{ChangeTransport, NewPlainNode},
    kind::KindName,
    node::{Node, NodeEvent},
};
use hostler_store::Queue;
use http::StatusCode;

use super::{
    asked::{Asked, SubmitHeaders, SubmitQuery},
    body::{Json, Nothing, Strict},
    document::{Filed, Refusals},
    etag::tagged_node,
    path::InPath,
};
use crate::app::{App, Result, caller::Call};

/// Lists nodes.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "nodes",
    responses((status = 200, description = "Every node, on one page", body = Page<Node>), Refusals))]
pub(super) async fn list_nodes(State(app): State<Arc<App>>, call: Call) -> Result<Json<Page<Node>>> {
    Ok(Json(Page { items: app.nodes(&call).await?, next_cursor: None }))
}

/// Shows a node.
#[utoipa::path(get, path = "/api/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The node", body = Node,
        headers(("ETag" = Option<String>, description = "Its generation"))), Refusals))]
pub(super) async fn show_node(State(app): State<Arc<App>>, call: Call, path: InPath) -> Result<Response> {
    Ok(tagged_node(&app.shown_node(&call, path.get("node")?).await?))
}

/// Accepts a node that joined.
#[utoipa::path(post, path = "/api/v1/nodes/{node}/approve", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The node as it is now", body = Node), Refusals))]
pub(super) async fn approve_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Node>> {
    change(&app, &call, &path, NodeEvent::Approve).await
}

/// Places no new machines on a node.
#[utoipa::path(post, path = "/api/v1/nodes/{node}/cordon", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The node as it is now", body = Node), Refusals))]
pub(super) async fn cordon_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Node>> {
    change(&app, &call, &path, NodeEvent::Cordon).await
}

/// Places new machines on a node again.
#[utoipa::path(post, path = "/api/v1/nodes/{node}/uncordon", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The node as it is now", body = Node), Refusals))]
pub(super) async fn uncordon_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Node>> {
    change(&app, &call, &path, NodeEvent::Uncordon).await
}

/// Makes a node's certificate good for nothing, at once: nothing that it says or asks is taken by any server, what it waits for
/// ends, and its connections are cut within a second. Machines there go on, and are unknown once the node has been silent for
/// long enough. It may join again with a new token.
#[utoipa::path(post, path = "/api/v1/nodes/{node}/revoke", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The node as it is now", body = Node), Refusals))]
pub(super) async fn revoke_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Node>> {
    Ok(Json(app.revoke_node(&call, path.get("node")?).await?))
}

/// Lets a node look at everything on its host and tell at once.
#[utoipa::path(post, path = "/api/v1/nodes/{node}/refresh", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name"), SubmitQuery, SubmitHeaders),
    responses(Filed, Refusals))]
pub(super) async fn refresh_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    asked: Asked,
    body: Strict<Nothing>,
) -> Result<Response> {
    let target = TargetRef { vm: None, node: Some(path.get("node")?.to_owned()) };
    asked.submit(&app, &call, KindName::InventoryRefresh, target, &body).await
}

/// Leases nothing more to a node until it is resumed. What it has under way goes on, and what is to be stopped and undone
/// still reaches it. Its tasks stay queued, and their time in the queue goes on. Asked again, nothing changes.
#[utoipa::path(post, path = "/api/v1/nodes/{node}/pause", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The node as it is now", body = Node), Refusals))]
pub(super) async fn pause_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Node>> {
    Ok(Json(app.queue_node(&call, path.get("node")?, Queue::Paused).await?))
}

/// Leases to a node again.
#[utoipa::path(post, path = "/api/v1/nodes/{node}/resume", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The node as it is now", body = Node), Refusals))]
pub(super) async fn resume_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Node>> {
    Ok(Json(app.queue_node(&call, path.get("node")?, Queue::Open).await?))
}

/// Adds a node whose agent is somebody else's: a consumer of the message broker that takes tasks in plain form. It never
/// joins, and is heard by the broker only.
#[utoipa::path(post, path = "/api/v1/nodes", tag = "nodes", request_body = NewPlainNode,
    responses((status = 201, description = "The node", body = Node), Refusals))]
pub(super) async fn add_node(
    State(app): State<Arc<App>>,
    call: Call,
    body: Strict<NewPlainNode>,
) -> Result<(StatusCode, Json<Node>)> {
    Ok((StatusCode::CREATED, Json(app.add_plain_node(&call, body.value).await?)))
}

/// Sends a node's tasks by another road from now on. Between the roads of our own agents each agent decides for itself when
/// it starts; `plain` hands the node over to a consumer of the message broker that is not ours.
#[utoipa::path(put, path = "/api/v1/nodes/{node}/transport", tag = "nodes", request_body = ChangeTransport,
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The node as it is now", body = Node), Refusals))]
pub(super) async fn reroute_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    body: Strict<ChangeTransport>,
) -> Result<Json<Node>> {
    Ok(Json(app.reroute_node(&call, path.get("node")?, body.value.transport).await?))
}

async fn change(app: &App, call: &Call, path: &InPath, event: NodeEvent) -> Result<Json<Node>> {
    Ok(Json(app.change_node(call, path.get("node")?, event).await?))
}
