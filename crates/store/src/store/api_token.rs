//! The store's face for the tokens of people and programs, and for service accounts.

use hostler_model::{
    Code, PrincipalId, Refusal, TenantId, Timestamp, TokenId,
    caller::Caller,
    event::Actor,
    name::Name,
    token::{ServiceAccount, Token},
};
use serde_json::json;

use super::Store;
use crate::{
    Answer, NewApiToken, Result, TokensOf,
    api_token::{self, Which},
    service_account,
    step::tenant::no_tenant,
    work::Work,
};

/// Which tokens go with one that is revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revoke {
    /// None.
    One,
    /// Those that were made with it, and with those.
    WithMade,
}

impl Store {
    /// Writes a token down; only its hash is kept.
    pub async fn create_api_token(&self, token: NewApiToken) -> Result<Answer<Token>> {
        self.step("store.token", move |work| {
            let (caller, id, now) = (&token.caller, token.id, work.now);
            if let Some(account) = &token.account
                && service_account::one(work.tx, account.id)?.is_none()
            {
                return Ok(Err(no_account(account.name.as_str())));
            }
            // It was good when the call began; what was revoked since leaves nothing behind.
            if let Some(maker) = token.made_with
                && !is_good(work, maker)?
            {
                return Ok(Err(no_maker()));
            }
            if let Some(tenant) = caller.tenant
                && work.tenant(tenant)?.is_none()
            {
                return Ok(Err(no_tenant(tenant)));
            }
            api_token::prune(work.tx, caller.principal, now)?;
            if api_token::good(work.tx, caller.principal, now)? >= api_token::MOST {
                return Ok(Err(too_many("tokens", api_token::MOST, "revoke those that nobody uses")));
            }
            api_token::insert(work.tx, &token, now)?;
            let data = json!({
                "label": token.label, "role": caller.role, "audience": caller.audience, "scopes": caller.scopes,
                "for": caller.principal, "expires_at": caller.expires_at,
            });
            work.audit(&token.actor, caller.tenant, "token", "token.create", id.0, data);
            Ok(api_token::one(work.tx, id)?.ok_or_else(no_token))
        })
        .await
    }

    /// Whom a token stands for, also one whose time is up; and since when it is revoked.
    pub async fn authenticate(&self, token_hash: String) -> Result<Option<(Caller, Option<Timestamp>)>> {
        self.read(move |tx| api_token::caller(tx, &token_hash)).await
    }

    /// One token.
    pub async fn token(&self, id: TokenId) -> Result<Option<Token>> {
        self.read(move |tx| api_token::one(tx, id)).await
    }

    /// Tokens, newest first.
    pub async fn tokens(&self, of: TokensOf, before: Option<TokenId>, limit: usize) -> Result<Vec<Token>> {
        self.read(move |tx| api_token::list(tx, of, before, limit)).await
    }

    /// Revokes a token. Revoked again, it stays as it is.
    pub async fn revoke_token(&self, id: TokenId, how: Revoke, actor: Actor) -> Result<Answer<Token>> {
        self.step("store.token", move |work| {
            if api_token::one(work.tx, id)?.is_none() {
                return Ok(Err(no_token()));
            }
            let which = match how {
                Revoke::One => Which::One(id),
                Revoke::WithMade => Which::WithMade(id),
            };
            let revoked = api_token::revoke(work.tx, which, work.now)?;
            work.credentials_changed();
            let token = api_token::one(work.tx, id)?;
            let tenant = token.as_ref().and_then(|token| token.tenant);
            let data = json!({"with_made": how == Revoke::WithMade, "revoked": revoked});
            work.audit(&actor, tenant, "token", "token.revoke", id.0, data);
            Ok(token.ok_or_else(no_token))
        })
        .await
    }

    /// Makes a service account.
    pub async fn create_service_account(
        &self,
        account: ServiceAccount,
        actor: Actor,
    ) -> Result<Answer<ServiceAccount>> {
        self.step("store.token", move |work| {
            let account = ServiceAccount { created_at: work.now, ..account };
            if work.tenant(account.tenant)?.is_none() {
                return Ok(Err(no_tenant(account.tenant)));
            }
            if let Some(other) = service_account::named(work.tx, account.tenant, &account.name)? {
                let detail = format!("a service account named {} exists; choose another name", account.name);
                return Ok(Err(Refusal::new(Code::NameTaken, detail).with("id", other.id.to_string())));
            }
            if service_account::of_tenant(work.tx, account.tenant)?.len() >= service_account::MOST {
                let what = "delete those that nobody uses";
                return Ok(Err(too_many("service accounts", service_account::MOST, what)));
            }
            service_account::insert(work.tx, &account)?;
            let data = json!({"name": account.name, "role": account.role});
            work.audit(&actor, Some(account.tenant), "service_account", "service_account.create", account.id.0, data);
            Ok(Ok(account))
        })
        .await
    }

    /// A tenant's service accounts, by name.
    pub async fn service_accounts(&self, tenant: TenantId) -> Result<Vec<ServiceAccount>> {
        self.read(move |tx| service_account::of_tenant(tx, tenant)).await
    }

    /// A tenant's service account, by name.
    pub async fn service_account(&self, tenant: TenantId, name: Name) -> Result<Option<ServiceAccount>> {
        self.read(move |tx| service_account::named(tx, tenant, &name)).await
    }

    /// The service account that a principal is, if it is one.
    pub async fn account_of(&self, principal: PrincipalId) -> Result<Option<ServiceAccount>> {
        self.read(move |tx| service_account::one(tx, principal)).await
    }

    /// Takes a service account away, and revokes all its tokens.
    pub async fn delete_service_account(
        &self,
        tenant: TenantId,
        name: Name,
        actor: Actor,
    ) -> Result<Answer<ServiceAccount>> {
        self.step("store.token", move |work| {
            let Some(account) = service_account::named(work.tx, tenant, &name)? else {
                return Ok(Err(no_account(name.as_str())));
            };
            service_account::delete(work.tx, account.id, work.now)?;
            let revoked = api_token::revoke(work.tx, Which::AllOf(account.id), work.now)?;
            work.credentials_changed();
            let data = json!({"name": account.name, "revoked": revoked});
            work.audit(&actor, Some(tenant), "service_account", "service_account.delete", account.id.0, data);
            Ok(Ok(account))
        })
        .await
    }
}

/// Whether a token lets anybody in now, and the service account that it stands for, where it is one's, is still there.
fn is_good(work: &Work<'_>, id: TokenId) -> hostler_db::Result<bool> {
    let Some(token) = api_token::one(work.tx, id)?.filter(|token| token.is_good(work.now)) else { return Ok(false) };
    Ok(token.service_account.is_none() || service_account::one(work.tx, token.principal)?.is_some())
}

fn no_maker() -> Refusal {
    let detail = "the token that this one was to be made with is no longer good; log in again, or make another one";
    Refusal::new(Code::Unauthenticated, detail)
}

fn no_token() -> Refusal {
    Refusal::new(Code::TokenNotFound, "there is no such token; `hostler token list` shows those there are")
}

fn no_account(name: &str) -> Refusal {
    let detail = format!("there is no service account {name:?}; `hostler service-account list` shows those there are");
    Refusal::new(Code::ServiceAccountNotFound, detail).with("service_account", name)
}

fn too_many(what: &str, most: usize, next: &str) -> Refusal {
    Refusal::new(Code::QuotaExceeded, format!("there are {most} {what} already, and there may be no more; {next}"))
        .with("limit", most)
}
