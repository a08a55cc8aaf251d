//! Draining a node, and removing one.

use std::sync::Arc;

use axum::extract::State;
use hostler_model::node::{Node, NodeEvent, Removal};
use hostler_store::Force;
use serde::Deserialize;

use super::super::{
    body::{Json, Nothing, Strict},
    document::Refusals,
    path::InPath,
    query::InQuery,
};
use crate::app::{App, Result, caller::Call};

/// Empties a node: nothing new comes there, what nobody has begun goes elsewhere, and the rest ends where it is: nothing
/// moves a disk between hosts. What is left is in `drain`, with why; when nothing is, the node is drained. `uncordon` ends it.
#[utoipa::path(post, path = "/api/v1/nodes/{node}/drain", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The node as it is now", body = Node), Refusals))]
pub(in super::super) async fn drain_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    _: Strict<Nothing>,
) -> Result<Json<Node>> {
    let node = path.get("node")?;
    app.change_node(&call, node, NodeEvent::Drain).await?;
    Ok(Json(app.shown_node(&call, node).await?))
}

/// How a node is removed.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct RemoveQuery {
    /// The host is gone for good: its tasks are ended, its machines and snapshots given up, their room and quota given back.
    /// Only of a node that is lost.
    force: bool,
    /// Answer as if, and change nothing.
    dry_run: bool,
}

/// Removes a node. Refused while its agent is heard and it is not drained, and while something is left there, unless `force`
/// says that the host is gone for good. Its certificate is worth nothing from then on; to come back it joins anew.
#[utoipa::path(delete, path = "/api/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name"), RemoveQuery),
    responses((status = 200, description = "What was removed", body = Removal), Refusals))]
pub(in super::super) async fn remove_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    InQuery(RemoveQuery { force, dry_run }): InQuery<RemoveQuery>,
    _: Strict<Nothing>,
) -> Result<Json<Removal>> {
    let force = if force { Force::Yes } else { Force::No };
    Ok(Json(app.remove_node(&call, path.get("node")?, force, dry_run).await?))
}
