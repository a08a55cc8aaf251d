//! What the caller may have and has: `/api/v1/quota`.

use hostler_model::api::Quota;

use crate::{Client, ClientError, call::Call};

impl Client {
    /// The limits of the caller's tenant, and its book.
    pub async fn quota(&self) -> Result<Quota, ClientError> {
        self.call(Call::get("/api/v1/quota")).await
    }
}
