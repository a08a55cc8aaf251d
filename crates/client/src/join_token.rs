//! Tokens by which nodes join: `/api/v1/join-tokens`.

use hostler_model::join_token::{IssuedJoinToken, NewJoinToken};

use crate::{Client, ClientError, call::Call};

impl Client {
    /// Makes a token by which one node may join. Asked again after a broken connection, it may make two: one is never
    /// seen, and ends by itself.
    pub async fn make_join_token(&self, new: &NewJoinToken) -> Result<IssuedJoinToken, ClientError> {
        self.call(Call::post("/api/v1/join-tokens").json(new)?).await
    }
}
