//! What an agent does not take: tasks that it does not believe, or that are over. It does nothing of them; it counts them and
//! says so with its next heartbeat, and the server writes that into the audit.
//!
//! What is said is bounded: one line for each reason, with how many there were in all since the agent began to count. The server
//! writes down what is more than it had heard, so nothing is counted twice or lost when a heartbeat is, or its answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

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

/// What was refused for one reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub why: Why,
    /// How many: where the agent says it, in all; where it is written down, more than before.
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

/// What an agent says of all that it refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// Which count: one that begins anew, because a host's journal is gone or it became another node, has another.
    pub count: Uuid,
    /// One line for each reason.
    pub refused: Vec<Refused>,
}

/// What the server heard of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Heard {
    /// Of which count; none before the first.
    count: Option<Uuid>,
    /// How many, in all.
    of: BTreeMap<Why, u64>,
}

impl Heard {
    /// What is more than was heard before, each with how many more. Of several lines with one reason the first counts.
    pub fn news(&mut self, said: &Counted) -> Vec<Refused> {
        if self.count != Some(said.count) {
            *self = Heard { count: Some(said.count), of: BTreeMap::new() };
        }
        let mut news = Vec::new();
        for line in &said.refused {
            let before = self.of.entry(line.why).or_default();
            if line.count > *before && !news.iter().any(|known: &Refused| known.why == line.why) {
                news.push(Refused { count: line.count - *before, ..*line });
                *before = line.count;
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(count: u128, lines: &[(Why, u64)]) -> Counted {
        let line = |(why, count): &(Why, u64)| Refused {
            why: *why,
            count: *count,
            task: None,
            fence: None,
            at: Timestamp::from_micros(1),
        };
        Counted { count: Uuid::from_u128(count), refused: lines.iter().map(line).collect() }
    }

    fn news(heard: &mut Heard, said: &Counted) -> Vec<(Why, u64)> {
        heard.news(said).iter().map(|line| (line.why, line.count)).collect()
    }

    #[test]
    fn what_is_said_again_is_no_news_and_what_was_not_heard_is_told_with_the_next() {
        let mut heard = Heard::default();
        let three = said(1, &[(Why::Expired, 3)]);
        assert_eq!(news(&mut heard, &three), [(Why::Expired, 3)]);
        assert_eq!(news(&mut heard, &three), []);
        // What this one says is lost; the next says it, too.
        let mut other = heard.clone();
        news(&mut other, &said(1, &[(Why::Expired, 4)]));
        let later = said(1, &[(Why::Expired, 6), (Why::Malformed, 1)]);
        assert_eq!(news(&mut heard, &later), [(Why::Expired, 3), (Why::Malformed, 1)]);
        // An older one that comes late is no news, and one of another count is all news.
        assert_eq!(news(&mut heard, &three), []);
        assert_eq!(news(&mut heard, &said(2, &[(Why::Expired, 2)])), [(Why::Expired, 2)]);
        let twice = said(2, &[(Why::Expired, 3), (Why::Expired, 9)]);
        assert_eq!(news(&mut heard, &twice), [(Why::Expired, 1)]);
        let kept: Heard = serde_json::from_str(&serde_json::to_string(&heard).unwrap()).unwrap();
        assert_eq!(kept, heard);
    }

    #[test]
    fn a_reason_is_spelled_the_same_in_json() {
        for why in Why::ALL {
            assert_eq!(serde_json::to_value(why).unwrap(), why.as_str());
        }
    }
}
