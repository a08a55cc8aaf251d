//! Tokens by which nodes join: what is asked for, what is shown, once, and what one is good for. The server keeps a hash.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    error::{Code, Refusal},
    id::{EnrolmentId, NodeId, TokenId},
    name::Name,
};

/// A token that is asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewJoinToken {
    /// The only name under which a node may join with it; any that no node has, if none is given. To join again in the place
    /// of a node that is known takes a token with its name.
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
    /// Its id, by which the audit names it: when it was made, by whom it was used, and whom it was refused.
    pub id: TokenId,
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
        f.debug_struct("IssuedJoinToken")
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A token as the server knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct KnownJoinToken {
    /// Its id.
    pub id: TokenId,
    /// The only name that it is good for; `None`: any that no node has.
    pub node: Option<Name>,
    /// Whether the node is approved at once.
    pub approve: bool,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// What became of it, where it is not good for another join.
    pub spent: Option<Spent>,
}

/// What became of a token.
#[derive(Clone, PartialEq, Debug)]
pub enum Spent {
    /// A node joined with it.
    Used {
        /// sha256 of the public key that was certified, in hex.
        key: String,
        /// Which node.
        node: NodeId,
        /// Under which enrolment.
        enrolment: EnrolmentId,
    },
    /// It was made good for nothing: its node was revoked or removed, or the store restored.
    Void,
}

/// What a token is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Good {
    /// A node joins with it.
    Join,
    /// The host that joined with it asks once more, because it has not heard the answer.
    Again {
        /// As which node.
        node: NodeId,
        /// Under which enrolment.
        enrolment: EnrolmentId,
    },
}

impl KnownJoinToken {
    /// What it is good for, for a host of this name that has this key, if for anything.
    pub fn judge(&self, name: &Name, key: &str, now: Timestamp) -> Result<Good, Refusal> {
        if self.node.as_ref().is_some_and(|own| own != name) {
            return Err(refused(name, "this join token is for a node of another name"));
        }
        let good = match &self.spent {
            None => Good::Join,
            Some(Spent::Used { key: used, node, enrolment }) if used == key => {
                Good::Again { node: *node, enrolment: *enrolment }
            }
            Some(Spent::Used { .. } | Spent::Void) => return Err(used_before(name)),
        };
        if self.expires_at <= now {
            return Err(refused(name, "this join token has expired"));
        }
        Ok(good)
    }

    /// Refuses to put a host in the place of a node that is known: to take over its work, its machines and their secrets is
    /// worth a token that somebody made for just that node.
    pub fn takes_place(&self, of: &Name) -> Result<(), Refusal> {
        if self.node.as_ref() == Some(of) {
            return Ok(());
        }
        let detail = format!(
            "a node named {of} is there already, and this join token does not name it: it is good for new nodes only; join \
             under another name, or, if this host is to take that node's place, make a token with `hostler node token {of}`"
        );
        Err(Refusal::new(Code::JoinTokenInvalid, detail).with("name", of.as_str()))
    }
}

/// A token of which nothing is known.
pub fn unknown(name: &Name) -> Refusal {
    refused(name, "this join token is not known")
}

/// A token that was used by somebody else.
pub fn used_before(name: &Name) -> Refusal {
    refused(name, "this join token was used before")
}

fn refused(name: &Name, why: &str) -> Refusal {
    let detail = format!("{why}; make another with `hostler node token {name}`");
    Refusal::new(Code::JoinTokenInvalid, detail).with("name", name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ids;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn token(node: Option<&str>, spent: Option<Spent>) -> KnownJoinToken {
        let id = Ids::seeded(1).next(NOW);
        let expires_at = Timestamp::from_micros(2_000_000);
        KnownJoinToken { id, node: node.map(name), approve: true, expires_at, spent }
    }

    #[test]
    fn only_a_token_with_its_name_takes_a_nodes_place() {
        assert_eq!(token(Some("a"), None).takes_place(&name("a")), Ok(()));
        let refusal = token(None, None).takes_place(&name("a")).unwrap_err();
        assert!(refusal.detail.contains("hostler node token a"), "{}", refusal.detail);
    }

    #[test]
    fn who_used_it_may_ask_again_with_the_same_key_and_in_time() {
        let ids = Ids::seeded(2);
        let (node, enrolment) = (ids.next(NOW), ids.next(NOW));
        let used = token(None, Some(Spent::Used { key: "k".into(), node, enrolment }));
        assert_eq!(used.judge(&name("a"), "k", NOW), Ok(Good::Again { node, enrolment }));
        assert!(used.judge(&name("a"), "other", NOW).unwrap_err().detail.contains("used before"));
        assert!(used.judge(&name("a"), "k", used.expires_at).unwrap_err().detail.contains("expired"));
        assert!(token(None, Some(Spent::Void)).judge(&name("a"), "k", NOW).is_err());
        assert_eq!(token(Some("a"), None).judge(&name("a"), "k", NOW), Ok(Good::Join));
        assert!(token(Some("a"), None).judge(&name("b"), "k", NOW).unwrap_err().detail.contains("another name"));
    }
}
