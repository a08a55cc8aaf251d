//! The fence: what makes an attempt the current one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// (store epoch, attempt). An agent refuses a fence it has passed; the store settles only under the current one.
/// The store epoch rises when a store was restored into the past, so that attempts handed out before cannot collide.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct Fence {
    /// The store's epoch.
    pub store_epoch: u32,
    /// The attempt, from 1; 0 is "never leased".
    pub attempt: u32,
}

impl Fence {
    /// The next attempt in the same store epoch.
    #[must_use]
    pub fn next(self) -> Fence {
        Fence { attempt: self.attempt + 1, ..self }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.store_epoch, self.attempt)
    }
}
