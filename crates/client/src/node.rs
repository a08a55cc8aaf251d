//! Nodes: `/api/v1/nodes`.

use hostler_model::{Code, api::Page, node::Node};

use crate::{
    Client, ClientError,
    call::{Call, segment},
};

impl Client {
    /// One node, by id or name.
    pub async fn node(&self, node: &str) -> Result<Node, ClientError> {
        self.call(Call::get(format!("/api/v1/nodes/{}", segment(node, Code::NodeNotFound)?))).await
    }

    /// All nodes: the server gives them on one page.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        let page: Page<Node> = self.call(Call::get("/api/v1/nodes")).await?;
        Ok(page.items)
    }
}
