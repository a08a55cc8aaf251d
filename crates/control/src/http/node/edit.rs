//! Editing a node's record: a JSON merge patch (RFC 7396).

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hostler_model::node::{Node, NodePatch};

use super::super::{
    body::Strict,
    document::Refusals,
    etag::{IfMatch, tagged_node},
    path::InPath,
};
use crate::app::{App, Result, caller::Call};

/// Edits a node: its labels, and how much may be promised there. What is not named stays, null removes. It counts from the
/// next placement on; what is there stays there.
#[utoipa::path(patch, path = "/api/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "Its id or name"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the node as it was read: refused with 412 when it was changed since")),
    request_body(content = NodePatch, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, description = "The node as it is now", body = Node,
            headers(("ETag" = Option<String>, description = "Its generation"))),
        Refusals))]
pub(in super::super) async fn patch_node(
    State(app): State<Arc<App>>,
    call: Call,
    path: InPath,
    IfMatch(if_match): IfMatch,
    body: Strict<NodePatch>,
) -> Result<Response> {
    Ok(tagged_node(&app.edit_node(&call, path.get("node")?, body.value, if_match).await?))
}
