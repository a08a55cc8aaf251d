//! Tokens by which nodes join: made for an administrator, shown once, kept as a hash. Never here: their use (`node.rs`).

use std::time::Duration;

use hostler_model::{Timestamp, event::Actor, join_token::NewJoinToken};
use hostler_store::NewJoinToken as Row;
use hostler_trust::JoinToken;

use super::{App, Result};

/// How long a token works: long enough to carry it to a host and start an agent there, short enough to be of no use to
/// who finds it later.
pub const VALIDITY: Duration = Duration::from_secs(15 * 60);

impl App {
    /// Makes a token, and says until when it works.
    pub async fn make_join_token(&self, asked: NewJoinToken, actor: Actor) -> Result<(JoinToken, Timestamp)> {
        let token = JoinToken::generate(&self.ids, self.authority.fingerprint());
        let expires_at = self.clock.now().plus(VALIDITY);
        let row = Row {
            token_hash: token.hash().to_string(),
            node_name: asked.node,
            expires_at,
            approve: asked.approve,
            actor,
        };
        self.store.create_join_token(row).await?;
        Ok((token, expires_at))
    }
}
