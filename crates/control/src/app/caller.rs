//! Who calls, and on whose things: from a credential to a [`Caller`], and from what the caller asks for to what the call
//! reaches. Never here: who may call which route (`http/access.rs`), and what a role or a scope allows (the model).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hostler_model::{
    Code, Refusal, TenantId, Timestamp,
    api::strict,
    caller::{Access, Caller},
    error::excerpt,
    event::Actor,
    id::RequestId,
};
use hostler_store::Wakes;
use hostler_trust::{AccessRefusal, ApiToken, SecretHash, access_token::said_issuer};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{App, Result, not_found};
use crate::oidc::{Oidc, OidcRefusal};

/// How long a token that was looked up is believed without asking again. One that is revoked works no longer on the server
/// that revoked it, and on others until they hear of it: this long at most, counted from when they asked.
const BELIEVED: Duration = Duration::from_secs(5);
/// How many tokens are remembered; beyond that all are forgotten.
const REMEMBERED: usize = 4096;
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
    /// On whose things.
    pub reach: Reach,
    /// In which request.
    pub request: RequestId,
}

impl Call {
    /// For the audit.
    pub fn actor(&self) -> Actor {
        Actor {
            principal: self.caller.principal,
            role: self.caller.role().as_str().to_owned(),
            request: Some(self.request),
        }
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

/// Credentials that were looked up a moment ago, by their hash.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<String, (Instant, Caller)>>);

impl Known {
    fn find(&self, hash: &str) -> Option<Caller> {
        let known = self.lock();
        let (at, caller) = known.get(hash)?;
        (at.elapsed() < BELIEVED).then(|| caller.clone())
    }

    /// Remembers what was asked at that time.
    fn keep(&self, hash: String, asked: Instant, caller: Caller) {
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(hash, (asked, caller));
    }

    /// Forgets all: some were revoked.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Caller)>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Forgets what is remembered whenever the store says that credentials were revoked, here or by another server. Hints can
/// be lost: what was lost is believed for [`BELIEVED`] at most.
pub(crate) async fn forget(known: Arc<Known>, mut wakes: Receiver<Wakes>, closing: CancellationToken) {
    loop {
        let wake = tokio::select! {
            biased;
            () = closing.cancelled() => return,
            wake = wakes.recv() => wake,
        };
        match wake {
            Ok(wake) if wake.credentials || wake.all => known.forget(),
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => known.forget(),
            Err(RecvError::Closed) => return,
        }
    }
}

impl App {
    /// The caller behind a bearer token. Every token that is not known gets the same answer; who has one whose time is up or
    /// that was revoked had the right one, and is told so.
    pub async fn authenticate(&self, token: &str) -> Result<Caller> {
        let origin = self.origin(token)?;
        let hash = match origin {
            Origin::Opaque(hash) => hash,
            Origin::Signed | Origin::Provider(_) => SecretHash::of(token.as_bytes()),
        };
        let hash = hash.to_string();
        let caller = match self.known.find(&hash) {
            Some(caller) => caller,
            None => {
                let asked = Instant::now();
                let caller = match origin {
                    Origin::Opaque(_) | Origin::Signed => self.look_up(&hash).await?,
                    Origin::Provider(provider) => self.sent_by(provider, token).await?,
                };
                self.known.keep(hash, asked, caller.clone());
                caller
            }
        };
        match caller.expires_at.filter(|until| *until <= self.clock.now()) {
            Some(until) => Err(expired(until).into()),
            None => Ok(caller),
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
    async fn look_up(&self, hash: &str) -> Result<Caller> {
        let (caller, revoked_at) = self.store.authenticate(hash.to_owned()).await?.ok_or_else(unknown)?;
        match revoked_at {
            Some(since) => Err(revoked(since).into()),
            None => Ok(caller),
        }
    }

    /// The caller whom an identity provider sends.
    async fn sent_by(&self, provider: &Oidc, token: &str) -> Result<Caller> {
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
        Ok(provider.caller(&stated, &claimed, tenant))
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
