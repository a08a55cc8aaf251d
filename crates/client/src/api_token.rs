//! Tokens of people and programs, and service accounts: `/api/v1/tokens`, `/api/v1/service-accounts`, `/api/v1/whoami`.

use hostler_model::{
    Code,
    api::Page,
    token::{IssuedToken, LoginWays, NewServiceAccount, NewToken, ServiceAccount, Token, Whoami},
};

use crate::{
    Client, ClientError,
    call::{Call, segment},
};

const TOKENS: &str = "/api/v1/tokens";
const ACCOUNTS: &str = "/api/v1/service-accounts";

impl Client {
    /// Makes a token, which is in this answer and nowhere else. It is not asked for twice.
    pub async fn make_token(&self, new: &NewToken) -> Result<IssuedToken, ClientError> {
        self.once(Call::post(TOKENS).json(new)?).await
    }

    /// The newest `most` tokens that the caller may see, or all of them.
    pub async fn tokens(&self, most: Option<usize>) -> Result<Vec<Token>, ClientError> {
        self.every(Call::get(TOKENS), most).await
    }

    /// Revokes a token, and what was made with it where that is asked.
    pub async fn revoke_token(&self, id: &str, with_made: bool) -> Result<Token, ClientError> {
        let call = Call::delete(format!("{TOKENS}/{}", segment(id, Code::TokenNotFound)?));
        self.call(call.query("with_made", with_made.then_some(true))).await
    }

    /// Makes a service account.
    pub async fn make_service_account(&self, new: &NewServiceAccount) -> Result<ServiceAccount, ClientError> {
        self.once(Call::post(ACCOUNTS).json(new)?).await
    }

    /// The tenant's service accounts, by name.
    pub async fn service_accounts(&self) -> Result<Vec<ServiceAccount>, ClientError> {
        let page: Page<ServiceAccount> = self.call(Call::get(ACCOUNTS)).await?;
        Ok(page.items)
    }

    /// Deletes a service account and revokes all its tokens.
    pub async fn delete_service_account(&self, name: &str) -> Result<ServiceAccount, ClientError> {
        self.once(Call::delete(format!("{ACCOUNTS}/{}", segment(name, Code::ServiceAccountNotFound)?))).await
    }

    /// How one logs in.
    pub async fn login_ways(&self) -> Result<LoginWays, ClientError> {
        self.call(Call::get("/api/v1/login")).await
    }

    /// Who the token says that one is.
    pub async fn whoami(&self) -> Result<Whoami, ClientError> {
        self.call(Call::get("/api/v1/whoami")).await
    }
}
