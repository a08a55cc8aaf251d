//! The client: a link, a token, and where its keys and its patience come from.

use std::fmt;

use hostler_link::Link;
use hostler_model::{Clock, Ids};

use crate::{Patience, Token};

/// A caller of one server. Clones share the connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) link: Link,
    pub(crate) token: Token,
    pub(crate) ids: Ids,
    pub(crate) clock: Clock,
    pub(crate) patience: Patience,
    pub(crate) tenant: Option<String>,
}

impl Client {
    /// Speaks through this link with this token. An empty token is not sent.
    pub fn new(link: Link, token: impl Into<Token>) -> Client {
        Client {
            link,
            token: token.into(),
            ids: Ids::system(),
            clock: Clock::system(),
            patience: Patience::default(),
            tenant: None,
        }
    }

    /// Takes idempotency keys from these values instead of the system's.
    #[must_use]
    pub fn with_ids(self, ids: Ids, clock: Clock) -> Client {
        Client { ids, clock, ..self }
    }

    /// Works on this tenant's things, by id or name: for platform administrators.
    #[must_use]
    pub fn for_tenant(self, tenant: Option<String>) -> Client {
        Client { tenant, ..self }
    }

    /// Gives up sooner or later than the default.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Client {
        Client { patience, ..self }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("patience", &self.patience).finish_non_exhaustive()
    }
}
