//! Tokens by which nodes join: what is asked for, and what is shown, once. The server keeps a hash.

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, name::Name};

/// A token that is asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewJoinToken {
    /// The only name under which a node may join with it; any, if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub node: Option<Name>,
    /// Whether the node gets tasks at once. If not, an operator approves it first.
    #[serde(default = "approve")]
    pub approve: bool,
}

const fn approve() -> bool {
    true
}

impl Default for NewJoinToken {
    fn default() -> Self {
        NewJoinToken { node: None, approve: approve() }
    }
}

/// A token, the one time that it is shown.
#[derive(Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IssuedJoinToken {
    /// The token: `hst_<secret>.<fingerprint of the server's authority>`. It works once.
    pub token: String,
    /// Until when it works.
    pub expires_at: Timestamp,
    /// The only name under which a node may join with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub node: Option<Name>,
    /// Whether the node gets tasks at once.
    pub approve: bool,
}

impl std::fmt::Debug for IssuedJoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedJoinToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}
