//! Nodes: `/api/v1/nodes`.

use hostler_model::{
    Code,
    api::Page,
    node::Node,
};

use crate::{
    Client, ClientError, Paging,
    call::{Call, segment},
};

impl Client {
    /// One node, by id or name.
    pub async fn node(&self, node: &str) -> Result<Node, ClientError> {
        self.call(Call::get(format!("/api/v1/nodes/{}", segment(node, Code::NodeNotFound)?))).await
    }

    /// A page of nodes.
    pub async fn nodes_page(&self, paging: &Paging) -> Result<Page<Node>, ClientError> {
        self.page(Call::get("/api/v1/nodes"), paging).await
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        self.every(Call::get("/api/v1/nodes"), None).await
    }
}
