//! The keys that sign tasks: `/api/v1/keys`.

use hostler_model::{
    Code,
    api::Page,
    key::{KeyEvent, Retired, Rotated, SigningKey},
};

use crate::{
    Client, ClientError,
    call::{Call, segment},
};

impl Client {
    /// All keys, newest first: the server gives them on one page.
    pub async fn keys(&self) -> Result<Vec<SigningKey>, ClientError> {
        let page: Page<SigningKey> = self.call(Call::get("/api/v1/keys")).await?;
        Ok(page.items)
    }

    /// Makes another key, which does not sign yet. Asked again after a broken connection, it may make two.
    pub async fn stage_key(&self) -> Result<SigningKey, ClientError> {
        self.call(Call::post("/api/v1/keys")).await
    }

    /// Lets another master key wrap the keys under which values are sealed.
    pub async fn rotate_master_key(&self) -> Result<Rotated, ClientError> {
        self.call(Call::post("/api/v1/master-key/rotate")).await
    }

    /// Removes the master keys that wrap nothing any more.
    pub async fn retire_master_keys(&self) -> Result<Retired, ClientError> {
        self.call(Call::post("/api/v1/master-key/retire")).await
    }

    /// What an operator does to a key; answers how it is now.
    pub async fn change_key(&self, kid: &str, event: KeyEvent) -> Result<SigningKey, ClientError> {
        let path = format!("/api/v1/keys/{}/{}", segment(kid, Code::KeyNotFound)?, event.as_str());
        self.call(Call::post(path)).await
    }
}
