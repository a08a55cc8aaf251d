//! Nodes: `/api/v1/nodes`.

use hostler_model::{
    Code,
    api::{Page, Submitted},
    broker::{ChangeTransport, NewPlainNode, Transport},
    node::{Node, NodePatch},
};

use crate::{
    Client, ClientError, Submit,
    call::{Call, segment},
};

/// What an operator decides about a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It may work.
    Approve,
    /// No new machines there.
    Cordon,
    /// New machines there again.
    Uncordon,
    /// Its certificate is good for nothing.
    Revoke,
    /// Nothing more is leased to it, but what is to be undone.
    Pause,
    /// It is leased to again.
    Resume,
}

impl Decision {
    fn verb(self) -> &'static str {
        match self {
            Decision::Approve => "approve",
            Decision::Cordon => "cordon",
            Decision::Uncordon => "uncordon",
            Decision::Revoke => "revoke",
            Decision::Pause => "pause",
            Decision::Resume => "resume",
        }
    }
}

impl Client {
    /// One node, by id or name.
    pub async fn node(&self, node: &str) -> Result<Node, ClientError> {
        self.call(Call::get(format!("/api/v1/nodes/{}", segment(node, Code::NodeNotFound)?))).await
    }

    /// What an operator decides about a node; answers how it is now.
    pub async fn change_node(&self, node: &str, decision: Decision) -> Result<Node, ClientError> {
        let path = format!("/api/v1/nodes/{}/{}", segment(node, Code::NodeNotFound)?, decision.verb());
        self.call(Call::post(path)).await
    }

    /// Edits a node's record; answers how it is now.
    pub async fn edit_node(&self, node: &str, patch: &NodePatch) -> Result<Node, ClientError> {
        self.call(Call::patch(format!("/api/v1/nodes/{}", segment(node, Code::NodeNotFound)?)).json(patch)?).await
    }

    /// Adds a node whose agent is somebody else's. Asked again, the name is taken.
    pub async fn add_plain_node(&self, new: &NewPlainNode) -> Result<Node, ClientError> {
        self.call(Call::post("/api/v1/nodes").json(new)?).await
    }

    /// Sends a node's tasks by another road; answers how it is now.
    pub async fn reroute_node(&self, node: &str, transport: Transport) -> Result<Node, ClientError> {
        let path = format!("/api/v1/nodes/{}/transport", segment(node, Code::NodeNotFound)?);
        self.call(Call::put(path).json(&ChangeTransport { transport })?).await
    }

    /// Lets a node look at everything on its host and tell at once.
    pub async fn refresh_node(&self, node: &str, how: &Submit) -> Result<Submitted, ClientError> {
        let path = format!("/api/v1/nodes/{}/refresh", segment(node, Code::NodeNotFound)?);
        self.submit(Call::post(path), how).await
    }

    /// All nodes: the server gives them on one page.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        let page: Page<Node> = self.call(Call::get("/api/v1/nodes")).await?;
        Ok(page.items)
    }
}
