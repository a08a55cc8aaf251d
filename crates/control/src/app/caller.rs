//! Who calls: from a bearer token to a principal, a tenant and a role. Other kinds of credential (JWT, OIDC) end in the
//! same [`Caller`]. Never here: which route needs which role (`http/access.rs`).

use std::{collections::HashMap, sync::Mutex, time::Duration};

use hostler_model::{Code, Refusal, TenantId, event::Actor, id::RequestId, kind::Role};
use hostler_store::Caller;
use hostler_trust::ApiToken;
use tokio::time::Instant;

use super::{App, Result};

/// How long a token that was looked up is believed without asking again; a revoked one works this much longer.
const BELIEVED: Duration = Duration::from_secs(5);
/// How many tokens are remembered; beyond that all are forgotten.
const REMEMBERED: usize = 4096;

/// One call: who, and in which request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who.
    pub caller: Caller,
    /// In which request.
    pub request: RequestId,
}

impl Call {
    /// For the audit.
    pub fn actor(&self) -> Actor {
        Actor {
            principal: self.caller.principal,
            role: self.caller.role.as_str().to_owned(),
            request: Some(self.request),
        }
    }

    /// Whether a thing of this tenant exists for this caller.
    pub fn may_see(&self, tenant: TenantId) -> bool {
        self.caller.tenant == tenant || self.caller.role == Role::PlatformAdmin
    }

    /// Refuses a caller with a lesser role.
    pub fn require(&self, role: Role) -> std::result::Result<(), Refusal> {
        require(&self.caller, role)
    }
}

/// Refuses a caller with a lesser role.
pub fn require(caller: &Caller, role: Role) -> std::result::Result<(), Refusal> {
    if caller.role >= role {
        return Ok(());
    }
    let (needed, has) = (role.as_str(), caller.role.as_str());
    Err(Refusal::new(Code::Forbidden, format!("this needs the role {needed}; the credential has {has}"))
        .with("needed_role", needed)
        .with("role", has))
}

/// Tokens that were looked up a moment ago, by their hash.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<String, (Instant, Caller)>>);

impl Known {
    fn find(&self, hash: &str) -> Option<Caller> {
        let known = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (at, caller) = known.get(hash)?;
        (at.elapsed() < BELIEVED).then(|| caller.clone())
    }

    fn keep(&self, hash: String, caller: Caller) {
        let mut known = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(hash, (Instant::now(), caller));
    }
}

impl App {
    /// The caller behind a bearer token. Every wrong token gets the same answer.
    pub async fn authenticate(&self, token: &str) -> Result<Caller> {
        let token: ApiToken = token.parse().map_err(|_| unknown())?;
        let hash = token.hash().to_string();
        if let Some(caller) = self.known.find(&hash) {
            return Ok(caller);
        }
        let caller = self.store.authenticate(hash.clone()).await?.ok_or_else(unknown)?;
        self.known.keep(hash, caller.clone());
        Ok(caller)
    }
}

fn unknown() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the bearer token is not known here; it may be mistyped, revoked or expired")
}
