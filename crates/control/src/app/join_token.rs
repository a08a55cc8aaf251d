//! Tokens by which nodes join: made for an administrator, shown once, kept as a hash. Never here: their use (`node.rs`).

use std::time::Duration;

use hostler_model::{
    event::Actor,
    join_token::{IssuedJoinToken, NewJoinToken},
};
use hostler_store::NewJoinToken as Row;
use hostler_trust::JoinToken;

use super::{App, Result};

/// How long a token works: long enough to carry it to a host and start an agent there, short enough to be of no use to
/// who finds it later.
pub const VALIDITY: Duration = Duration::from_secs(15 * 60);

impl App {
    /// Makes a token, to be shown now and never again.
    pub async fn make_join_token(&self, asked: NewJoinToken, actor: Actor) -> Result<IssuedJoinToken> {
        let token = JoinToken::generate(&self.ids, self.authority.get().fingerprint());
        let (id, NewJoinToken { node, approve }) = (self.ids.next(self.clock.now()), asked);
        let row = Row {
            id,
            token_hash: token.hash().to_string(),
            node_name: node.clone(),
            validity: VALIDITY,
            approve,
            actor,
        };
        // By the clock that judges it when it is used.
        let expires_at = self.store.create_join_token(row).await?;
        Ok(IssuedJoinToken { id, token: token.reveal(), expires_at, node, approve })
    }
}
