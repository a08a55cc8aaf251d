//! The fence: what makes an attempt the current one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::Refusal;

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

/// As it is written: `epoch.attempt`.
impl FromStr for Fence {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Fence, Refusal> {
        let read = || {
            let (store_epoch, attempt) = text.split_once('.')?;
            Some(Fence { store_epoch: store_epoch.parse().ok()?, attempt: attempt.parse().ok()? })
        };
        read().ok_or_else(|| Refusal::field("fence", "a fence is written epoch.attempt, such as 1.3"))
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.store_epoch, self.attempt)
    }
}
