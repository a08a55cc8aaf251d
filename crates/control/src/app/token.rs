//! Tokens of people and programs, and service accounts: made, listed, revoked. What may be granted to one is decided in
//! `model/token.rs`. Never here: how a token that is shown is read again (`caller.rs`).

use hostler_model::{
    Code, Refusal, TenantId, TokenId,
    caller::{Access, Audience, Caller},
    name::Name,
    role::Role,
    scope::Scope,
    token::{
        Holder, IssuedToken, LoginByOidc, LoginWays, NewServiceAccount, NewToken, ServiceAccount, Token, TokenFormat,
        Whoami, grant,
    },
};
use hostler_store::{NewApiToken, Revoke, TokensOf};
use hostler_trust::{ApiToken, SecretHash};
use serde_json::Value;

use super::{
    App, Error, Result,
    caller::{Call, Reach},
    not_found,
};

/// Who may look after a tenant's tokens, and not only their own.
const ALL: Access = Access::Tenant { from: Role::TenantAdmin, scope: Scope::TokenRead };
/// Who may make tokens for a service account.
const FOR_ACCOUNTS: Access = Access::Tenant { from: Role::TenantAdmin, scope: Scope::TokenWrite };

impl App {
    /// Makes a token. It is in this answer and nowhere else.
    pub async fn make_token(&self, call: &Call, new: NewToken) -> Result<IssuedToken> {
        let now = self.clock.now();
        let account = match &new.service_account {
            None => None,
            Some(name) => {
                call.require(FOR_ACCOUNTS)?;
                Some(self.service_account(call, name).await?)
            }
        };
        let tenant = match &account {
            Some(account) => Some(account.tenant),
            None => own_tenant(call)?,
        };
        let holder = account.as_ref().map_or(Holder::Maker, Holder::Account);
        let caller = grant(&call.caller, tenant, holder, &new, now)?;
        let id = self.ids.next(now);
        let (token, token_hash) = self.written(id, &caller, new.format)?;
        let made_with = call.caller.token;
        let NewToken { label, format, .. } = new;
        let row = NewApiToken { id, token_hash, caller, account, label, format, made_with, actor: call.actor() };
        Ok(IssuedToken { token, about: self.store.create_api_token(row).await?? })
    }

    /// A token's text, and what is kept of it.
    fn written(&self, id: TokenId, caller: &Caller, format: TokenFormat) -> Result<(String, String)> {
        match format {
            TokenFormat::Opaque => {
                let token = ApiToken::generate(&self.ids);
                Ok((token.reveal(), token.hash().to_string()))
            }
            TokenFormat::Jwt => {
                self.look_at_keys();
                let until = caller.expires_at.ok_or(Error::Fault("a token without an end was to be signed"))?;
                let signed = self.access.issue(id, caller, self.clock.now(), until);
                let failed = |error: hostler_trust::access_token::TokenKeyError| Error::Trust {
                    doing: "sign a token",
                    cause: error.to_string(),
                };
                let token = signed.map_err(failed)?;
                let hash = SecretHash::of(token.as_bytes()).to_string();
                Ok((token, hash))
            }
        }
    }

    /// Tokens that this caller may see, newest first: those of the tenant for who answers for it, else one's own.
    pub async fn tokens(&self, call: &Call, before: Option<TokenId>, limit: usize) -> Result<Vec<Token>> {
        let of = match call.reach {
            Reach::Platform(_) => TokensOf::All,
            Reach::Tenant(tenant) if call.require(ALL).is_ok() => TokensOf::Tenant(tenant),
            Reach::Tenant(_) => TokensOf::Principal(call.caller.principal),
        };
        Ok(self.store.tokens(of, before, limit).await?)
    }

    /// A token that this caller may see.
    pub async fn token(&self, call: &Call, text: &str) -> Result<Token> {
        let unknown = || not_found(Code::TokenNotFound, "token", text);
        let id: TokenId = text.parse().map_err(|_| unknown())?;
        let found = self.store.token(id).await?.filter(|token| sees(call, token));
        Ok(found.ok_or_else(unknown)?)
    }

    /// Revokes a token at once, and those that were made with it where that is asked.
    pub async fn revoke_token(&self, call: &Call, text: &str, how: Revoke) -> Result<Token> {
        let id = self.token(call, text).await?.id;
        let revoked = self.store.revoke_token(id, how, call.actor()).await??;
        self.known.forget();
        Ok(revoked)
    }

    /// Makes a service account of the tenant's.
    pub async fn make_service_account(&self, call: &Call, new: NewServiceAccount) -> Result<ServiceAccount> {
        let has = call.caller.role();
        if new.role > has {
            let detail = format!("an account cannot have more than your own role {has}; you asked for {}", new.role);
            let refusal = Refusal::new(Code::Forbidden, detail);
            return Err(refusal.with("needed_role", new.role.as_str()).with("role", has.as_str()).into());
        }
        let now = self.clock.now();
        let account = ServiceAccount {
            id: self.ids.next(now),
            tenant: call.tenant()?,
            name: new.name,
            role: new.role,
            created_at: now,
            created_by: call.caller.principal,
        };
        Ok(self.store.create_service_account(account, call.actor()).await??)
    }

    /// The tenant's service accounts, by name.
    pub async fn service_accounts(&self, call: &Call) -> Result<Vec<ServiceAccount>> {
        Ok(self.store.service_accounts(call.tenant()?).await?)
    }

    /// Takes a service account away and revokes all its tokens at once.
    pub async fn delete_service_account(&self, call: &Call, text: &str) -> Result<ServiceAccount> {
        let name: Name = text.parse().map_err(|_| no_account(text))?;
        let account = self.service_account(call, &name).await?;
        // Who may not give an account its role may not take it away either.
        if account.role > call.caller.role() {
            return Err(no_account(text).into());
        }
        let deleted = self.store.delete_service_account(account.tenant, name, call.actor()).await??;
        self.known.forget();
        Ok(deleted)
    }

    /// The keys by which access tokens are verified, with those that were added a moment ago.
    pub fn token_keys(&self) -> Value {
        self.look_at_keys();
        self.access.jwks()
    }

    /// How one logs in here.
    pub fn login_ways(&self) -> LoginWays {
        let oidc = self.oidc.as_ref().and_then(|provider| {
            let config = provider.config();
            Some(LoginByOidc { issuer: config.issuer.clone(), client_id: config.client.clone()? })
        });
        LoginWays { oidc }
    }

    /// Who the credential says that one is.
    pub async fn whoami(&self, call: &Call) -> Result<Whoami> {
        let Caller { principal, token, audience, tenant, scopes, expires_at, .. } = call.caller.clone();
        let service_account = self.store.account_of(principal).await?.map(|account| account.name);
        let role = call.caller.role();
        Ok(Whoami { principal, service_account, token, audience, tenant, role, scopes, expires_at })
    }

    async fn service_account(&self, call: &Call, name: &Name) -> Result<ServiceAccount> {
        let found = self.store.service_account(call.tenant()?, name.clone()).await?;
        Ok(found.ok_or_else(|| no_account(name.as_str()))?)
    }
}

/// Of which tenant one's own token is: one's own, and no other, also for who may work on others' things.
fn own_tenant(call: &Call) -> Result<Option<TenantId>, Refusal> {
    match call.reach {
        Reach::Tenant(tenant) if call.caller.tenant != Some(tenant) => {
            let detail = "your own token cannot be of another tenant; name a service account of it instead";
            Err(Refusal::field("service_account", detail))
        }
        Reach::Tenant(_) | Reach::Platform(_) => Ok(call.caller.tenant),
    }
}

/// Whether a token is there for this call. One for the platform's work is so for its holder and for those who answer for the
/// platform.
fn sees(call: &Call, token: &Token) -> bool {
    let (own, of_tenant) = (token.principal == call.caller.principal, token.audience == Audience::Tenant);
    match call.reach {
        Reach::Platform(_) => true,
        Reach::Tenant(tenant) => token.tenant == Some(tenant) && (own || (of_tenant && call.require(ALL).is_ok())),
    }
}

fn no_account(name: &str) -> Refusal {
    not_found(Code::ServiceAccountNotFound, "service-account", name)
}
