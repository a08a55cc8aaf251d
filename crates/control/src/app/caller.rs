//! Who calls, and on whose things: from a credential to a [`Caller`], and from what the caller asks for to what the call
//! reaches. Never here: who may call which route (`http/access.rs`), and what a role or a scope allows (the model).

mod known;

use std::net::IpAddr;

use hostler_model::{
    Code, Refusal, TenantId, Timestamp,
    api::strict,
    caller::{Access, Caller},
    error::excerpt,
    event::Actor,
    id::RequestId,
};
use hostler_trust::{AccessRefusal, ApiToken, SecretHash, access_token::said_issuer};
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::known::BELIEVED;
pub use self::known::Belief;
pub(crate) use self::known::{Known, forget};
use super::{App, Error, Result, login::Sent, not_found};
use crate::oidc::{Oidc, OidcRefusal};

/// By which names a body may say whose it is.
const TENANT_FIELDS: [&str; 3] = ["tenant", "tenant_id", "tenantId"];

/// What a call reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// One tenant's things, and no others.
    Tenant(TenantId),
    /// Everybody's. What it makes or lists is this tenant's, where the credential is of one.
    Platform(Option<TenantId>),
}

/// One call: who, on whose things, and in which request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who.
    pub caller: Caller,
    /// How old the answer is by which the credential is believed.
    pub belief: Belief,
    /// On whose things.
    pub reach: Reach,
    /// In which request.
    pub request: RequestId,
    /// From which address; that of a proxy, where one is between.
    pub source: Option<IpAddr>,
}

impl Call {
    /// For the audit.
    pub fn actor(&self) -> Actor {
        actor(&self.caller, self.request, self.source)
    }

    /// The tenant that this is for: what is made belongs to it, what is listed is its own.
    ///
    /// # Errors
    /// `TENANT_ID_REQUIRED` for a platform's administrator who is of no tenant and names none.
    pub fn tenant(&self) -> Result<TenantId, Refusal> {
        match self.reach {
            Reach::Tenant(tenant) | Reach::Platform(Some(tenant)) => Ok(tenant),
            Reach::Platform(None) => {
                let detail = "your credential is of no tenant; name the one that this is for with `?tenant=NAME`";
                Err(Refusal::new(Code::TenantIdRequired, detail))
            }
        }
    }

    /// Whether a thing of this tenant exists for this call.
    pub fn may_see(&self, tenant: TenantId) -> bool {
        match self.reach {
            Reach::Tenant(own) => own == tenant,
            Reach::Platform(_) => true,
        }
    }

    /// Refuses what the route alone does not decide, such as a task of a kind that asks for more.
    pub fn require(&self, access: Access) -> Result<(), Refusal> {
        self.caller.may(access)
    }
}

/// Whose a token is.
enum Origin<'a> {
    /// A secret of ours, by its hash.
    Opaque(SecretHash),
    /// Signed by our issuer.
    Signed,
    /// Said to be of this provider.
    Provider(&'a Oidc),
}

/// A credential that is believed.
#[derive(Debug)]
pub struct Believed {
    /// Whose it is.
    pub caller: Caller,
    /// How old the answer is.
    pub belief: Belief,
    /// What a provider says of its holder, where it was asked just now.
    pub sent: Option<Sent>,
}

/// A credential that is not believed.
#[derive(Debug)]
pub struct Disbelieved {
    /// Why not.
    pub error: Error,
    /// Whose it was, where somebody has the right one and it is no longer good.
    pub holder: Option<Box<Caller>>,
}

impl<E: Into<Error>> From<E> for Disbelieved {
    fn from(error: E) -> Disbelieved {
        Disbelieved { error: error.into(), holder: None }
    }
}

/// Who is behind a caller's doing, for the audit.
pub(crate) fn actor(caller: &Caller, request: RequestId, source: Option<IpAddr>) -> Actor {
    let method = if caller.token.is_some() { "token" } else { "provider" };
    Actor {
        principal: caller.principal,
        role: caller.role().as_str().to_owned(),
        request: Some(request),
        credential: caller.token,
        method: Some(method.to_owned()),
        source,
    }
}

impl App {
    /// The caller behind a bearer token. Every token that is not known gets the same answer; who has one whose time is up or
    /// that was revoked had the right one, and is told so.
    pub async fn authenticate(&self, token: &str) -> Result<Believed, Disbelieved> {
        let origin = self.origin(token)?;
        let hash = match origin {
            Origin::Opaque(hash) => hash,
            Origin::Signed | Origin::Provider(_) => SecretHash::of(token.as_bytes()),
        };
        let hash = hash.to_string();
        let believed = match self.known.find(&hash) {
            Some((belief, caller)) => Believed { caller, belief, sent: None },
            None => {
                let belief = self.known.ask();
                let (caller, sent) = match origin {
                    Origin::Opaque(_) | Origin::Signed => (self.look_up(&hash).await?, None),
                    Origin::Provider(provider) => self.sent_by(provider, token, &hash).await?,
                };
                self.known.keep(hash, belief, caller.clone());
                Believed { caller, belief, sent }
            }
        };
        match self.in_time(&believed.caller) {
            Ok(()) => Ok(believed),
            Err(refusal) => Err(Disbelieved { error: refusal.into(), holder: Some(Box::new(believed.caller)) }),
        }
    }

    /// Refuses a call whose credential is no longer good: while its body came its time may be up, or somebody revoked it.
    pub async fn still(&self, call: &Call) -> Result<()> {
        if self.known.holds(call.belief) {
            Ok(self.in_time(&call.caller)?)
        } else {
            self.look_again(&call.caller).await
        }
    }

    /// Returns when a caller's credential is no longer good, or cannot be looked up any more: when its time is up, and when
    /// it was revoked. That is looked up whenever credentials were revoked, and every few seconds, for hints can be lost.
    pub(super) async fn no_longer(&self, caller: &Caller) {
        let mut revocations = self.known.revocations();
        loop {
            revocations.mark_unchanged();
            if self.look_again(caller).await.is_err() {
                return;
            }
            let left = caller.expires_at.map_or(BELIEVED, |until| until.since(self.clock.now()));
            // Either way it is time to look.
            let _ = tokio::time::timeout(left.min(BELIEVED), revocations.changed()).await;
        }
    }

    /// Looks once more whether a caller's credential is good. What a provider issued ends by itself.
    async fn look_again(&self, caller: &Caller) -> Result<()> {
        self.in_time(caller)?;
        let Some(id) = caller.token else { return Ok(()) };
        match self.store.token(id).await?.ok_or_else(unknown)?.revoked_at {
            Some(since) => Err(revoked(since).into()),
            None => Ok(()),
        }
    }

    fn in_time(&self, caller: &Caller) -> Result<(), Refusal> {
        match caller.expires_at.filter(|until| *until <= self.clock.now()) {
            Some(until) => Err(expired(until)),
            None => Ok(()),
        }
    }

    /// Whose a token is. A JWT of ours must have been signed by us, or it is not looked for.
    fn origin(&self, token: &str) -> Result<Origin<'_>, Refusal> {
        let Some(issuer) = said_issuer(token) else {
            return Ok(Origin::Opaque(token.parse::<ApiToken>().map_err(|_| unknown())?.hash()));
        };
        if issuer != self.access.name() {
            let provider = self.oidc.as_ref().filter(|provider| provider.config().issuer == issuer);
            return provider.map(Origin::Provider).ok_or_else(unknown);
        }
        self.look_at_keys();
        match self.access.verify(token, self.clock.now()) {
            Ok(_) | Err(AccessRefusal::Expired) => Ok(Origin::Signed),
            Err(_) => Err(unknown()),
        }
    }

    /// The caller behind a token that the store knows.
    async fn look_up(&self, hash: &str) -> Result<Caller, Disbelieved> {
        let (caller, revoked_at) = self.store.authenticate(hash.to_owned()).await?.ok_or_else(unknown)?;
        match revoked_at {
            Some(since) => Err(Disbelieved { error: revoked(since).into(), holder: Some(Box::new(caller)) }),
            None => Ok(caller),
        }
    }

    /// The caller whom an identity provider sends, and what it says of them.
    async fn sent_by(&self, provider: &Oidc, token: &str, hash: &str) -> Result<(Caller, Option<Sent>)> {
        let refused = |refusal: OidcRefusal| {
            let code = match refusal {
                OidcRefusal::Token(_) | OidcRefusal::Claims(_) => Code::Unauthenticated,
                OidcRefusal::Away(_) => Code::Unavailable,
            };
            Refusal::new(code, refusal.to_string())
        };
        let stated = provider.believe(token, self.clock.now()).await.map_err(refused)?;
        let claimed = provider.claimed(&stated).map_err(refused)?;
        let tenant = match &claimed.tenant {
            None => None,
            Some(text) => {
                let found = self.store.find_tenant(text.clone()).await?;
                let detail = || {
                    format!("your identity provider's token is for the tenant {:?}, which is not here", excerpt(text))
                };
                Some(found.ok_or_else(|| Refusal::new(Code::Unauthenticated, detail()))?)
            }
        };
        let caller = provider.caller(&stated, &claimed, tenant);
        let issuer = provider.config().issuer.clone();
        Ok((caller, Some(Sent { token_hash: hash.to_owned(), issuer, subject: stated.subject })))
    }

    /// Takes up keys that were added to the folder. When it fails those that are known stay.
    pub(super) fn look_at_keys(&self) {
        if let Err(error) = self.access.look(self.clock.now()) {
            tracing::error!(%error, "the keys that sign access tokens cannot be read again");
        }
    }

    /// What a caller reaches who names this tenant, or none. Another tenant is not there for anybody but those who answer
    /// for the platform; and they reach only that one, once they name it.
    pub async fn reach(&self, caller: &Caller, named: Option<&str>) -> Result<Reach> {
        let Some(text) = named else {
            return match caller.tenant {
                tenant if caller.is_global() => Ok(Reach::Platform(tenant)),
                Some(tenant) => Ok(Reach::Tenant(tenant)),
                None => Err(nobodys().into()),
            };
        };
        match self.store.find_tenant(text.to_owned()).await? {
            Some(found) if caller.is_global() || caller.tenant == Some(found) => Ok(Reach::Tenant(found)),
            Some(_) | None => Err(not_found(Code::NotFound, "tenant", text).into()),
        }
    }

    /// What a body says, strictly. It may say whose it is, as long as that is whose the call is.
    pub async fn read<T: DeserializeOwned>(&self, call: Option<&Call>, body: &Value) -> Result<T> {
        let refusal = match strict(body) {
            Ok(read) => return Ok(read),
            Err(refusal) => refusal,
        };
        let mut rest = body.clone();
        let take = |fields: &mut serde_json::Map<String, Value>| {
            TENANT_FIELDS.into_iter().filter_map(|field| Some((field, fields.remove(field)?))).collect()
        };
        let said: Vec<(&str, Value)> = rest.as_object_mut().map(take).unwrap_or_default();
        let Some(call) = call.filter(|_| !said.is_empty()) else { return Err(refusal.into()) };
        for (field, tenant) in &said {
            self.owned(call, field, tenant).await?;
        }
        Ok(strict(&rest)?)
    }

    /// Refuses a body that says that it is another tenant's.
    async fn owned(&self, call: &Call, field: &str, said: &Value) -> Result<()> {
        let own = call.tenant()?;
        let Some(text) = said.as_str() else {
            return Err(Refusal::field(field, "a tenant's id or name belongs here").into());
        };
        if self.store.find_tenant(text.to_owned()).await? == Some(own) {
            return Ok(());
        }
        let detail =
            format!("{field}: this call is for the tenant {own}, and its body names another; leave the field out");
        Err(Refusal::new(Code::ForbiddenOwnership, detail).with("field", field).with("tenant", own.to_string()).into())
    }
}

fn unknown() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the bearer token is not known here; it may be mistyped or revoked")
}

fn revoked(since: Timestamp) -> Refusal {
    Refusal::new(Code::Unauthenticated, format!("the bearer token was revoked at {since}; make a new one"))
        .with("revoked_at", since.to_string())
}

fn expired(until: Timestamp) -> Refusal {
    Refusal::new(Code::Unauthenticated, format!("the bearer token was good until {until}; make a new one"))
        .with("expired_at", until.to_string())
}

fn nobodys() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the credential says of no tenant that it is for; ask for one that does")
}
