//! What an agent does not take: tasks that it does not believe, or that are over. It does nothing of them; it counts them and
//! says so with its next heartbeat, and the server writes that into the audit.
//!
//! What is said is bounded: one line for each reason, with how many there were since the last one.

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, fence::Fence, id::TaskId};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Why.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Why { $($(#[$doc])* $name,)* }

        impl Why {
            /// Every reason.
            pub const ALL: &'static [Why] = &[$(Why::$name),*];

            /// As metrics, the audit and JSON spell it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Why::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// Not a signed task at all.
    Malformed = "malformed";
    /// Signed with another algorithm, or with none.
    WrongAlgorithm = "wrong_algorithm";
    /// Signed with a key that the server does not have.
    UnknownKey = "unknown_key";
    /// Signed with a key that was revoked.
    RevokedKey = "revoked_key";
    /// Not signed by the key that it names, or changed on its way.
    BadSignature = "bad_signature";
    /// Another server's.
    WrongIssuer = "wrong_issuer";
    /// For another node.
    WrongAudience = "wrong_audience";
    /// Too late to begin.
    Expired = "expired";
    /// Of an attempt that is over, or that a later one followed.
    OldFence = "old_fence";
    /// Of before a restore of the store.
    OldStoreEpoch = "old_store_epoch";
    /// About an earlier placement of the machine.
    OldVmEpoch = "old_vm_epoch";
    /// Of the same attempt as one that was taken, and not the same.
    OtherContent = "other_content";
}

/// What was refused for one reason, since the agent last said so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub why: Why,
    /// How many.
    pub count: u64,
    /// The task of the last one, where its signature is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The attempt of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// When the last one came, by the node's clock.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_spelled_the_same_in_json() {
        for why in Why::ALL {
            assert_eq!(serde_json::to_value(why).unwrap(), why.as_str());
        }
    }
}
