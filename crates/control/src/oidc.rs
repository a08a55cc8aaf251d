//! An identity provider (OpenID Connect): its keys are fetched, kept and fetched again, and what it says of somebody
//! becomes a caller.
//!
//! ```text
//! no keys, or older than ten minutes ─► discovery ─► jwks_uri ─► keys      failed: those that are there stay good for a day
//! a key that is not known            ─► the same, every ten seconds at most, whoever asks
//! ```
//!
//! A provider that is away keeps nobody out whose token a known key signed. Never here: the signature (`trust`), what a
//! role may.

mod claims;
mod source;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hostler_model::{Timestamp, caller::Caller};
use hostler_trust::{
    ProviderKeys, ProviderRefusal,
    provider::{Demanded, Stated},
};
use tokio::{sync::Mutex, time::Instant};

pub use self::claims::{Claimed, Mapping};
use self::source::Source;

/// How long keys are used before they are fetched again: a key that the provider took back is believed this much longer.
const FRESH: Duration = Duration::from_secs(600);
/// How long keys stay good while they cannot be fetched again.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often they are fetched at most, whatever keys tokens name.
const PAUSE: Duration = Duration::from_secs(10);
/// How far the clocks may be said to disagree.
pub const MOST_SKEW: Duration = Duration::from_secs(300);

/// What is configured of a provider.
#[derive(Clone, Debug)]
pub struct OidcConfig {
    /// Its issuer, exactly as its tokens and its discovery document name it.
    pub issuer: String,
    /// For whom its tokens may be: ids of clients or of APIs that stand for this server.
    pub audiences: Vec<String>,
    /// The client that `hostler login` is there, where people log in by it.
    pub client: Option<String>,
    /// How far the clocks may disagree.
    pub skew: Duration,
    /// Which claims say what.
    pub mapping: Mapping,
}

/// A provider that cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// Its address is not one that may be called.
    #[error("{0:?} is no https address (http is for loopback only)")]
    Address(String),
    /// No audience is named.
    #[error("tokens of {0} must be for somebody: name the client or the API that stands for this server")]
    NoAudience(String),
    /// The clocks may not disagree by so much.
    #[error("the clocks may disagree by {} s at most", MOST_SKEW.as_secs())]
    Skew,
    /// HTTP could not be set up.
    #[error("HTTP to the provider could not be set up")]
    Http(#[from] reqwest::Error),
}

/// Why somebody whom a provider sends is not let in.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum OidcRefusal {
    /// The token is not to be believed.
    #[error("the provider's token is not believed: {0}")]
    Token(#[from] ProviderRefusal),
    /// The provider cannot be asked, and was not lately.
    #[error("the identity provider {0} does not answer; repeat in a moment")]
    Away(String),
    /// It says nothing that lets somebody in here.
    #[error("{0}")]
    Claims(String),
}

/// What was fetched.
#[derive(Default)]
struct Fetched {
    keys: Option<(Arc<ProviderKeys>, Instant)>,
    asked: Option<Instant>,
}

/// An identity provider. Its documents are fetched when they are first needed.
pub struct Oidc {
    config: OidcConfig,
    source: Arc<Source>,
    fetched: Arc<RwLock<Fetched>>,
    fetching: Arc<Mutex<()>>,
}

impl Oidc {
    /// A provider, of which nothing is asked yet.
    ///
    /// # Errors
    /// When its address may not be called, or it is configured for nobody.
    pub fn new(config: OidcConfig) -> Result<Oidc, OidcError> {
        if config.audiences.is_empty() {
            return Err(OidcError::NoAudience(config.issuer));
        }
        if config.skew > MOST_SKEW {
            return Err(OidcError::Skew);
        }
        let source = Arc::new(Source::new(&config.issuer)?);
        Ok(Oidc { config, source, fetched: Arc::default(), fetching: Arc::default() })
    }

    /// What is configured of it.
    pub fn config(&self) -> &OidcConfig {
        &self.config
    }

    /// What a token of this provider says, if it is to be believed now.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn believe(&self, token: &str, now: Timestamp) -> Result<Stated, OidcRefusal> {
        let OidcConfig { issuer, audiences, skew, .. } = &self.config;
        let demanded = Demanded { issuer, audiences, skew: *skew };
        let keys = self.keys().await.ok_or_else(|| OidcRefusal::Away(issuer.clone()))?;
        match keys.verify(token, &demanded, now) {
            Err(ProviderRefusal::UnknownKey) => {
                // It may have been published since.
                let keys = self.newer().await.ok_or(ProviderRefusal::UnknownKey)?;
                Ok(keys.verify(token, &demanded, now)?)
            }
            verified => Ok(verified?),
        }
    }

    /// Who somebody is here of whom the provider says this.
    ///
    /// # Errors
    /// What it says lets nobody in.
    pub fn claimed(&self, stated: &Stated) -> Result<Claimed, OidcRefusal> {
        self.config.mapping.read(&stated.claims).map_err(OidcRefusal::Claims)
    }

    /// The caller behind what was believed, of a tenant that was found.
    pub fn caller(&self, stated: &Stated, claimed: &Claimed, tenant: Option<hostler_model::TenantId>) -> Caller {
        claims::caller(&self.config.issuer, stated, claimed, tenant)
    }

    /// The keys, fetched where there are none or they are old.
    async fn keys(&self) -> Option<Arc<ProviderKeys>> {
        if let Some((keys, at)) = self.known()
            && at.elapsed() < FRESH
        {
            return Some(keys);
        }
        self.newer().await.or_else(|| self.known().filter(|(_, at)| at.elapsed() < KEPT).map(|(keys, _)| keys))
    }

    fn known(&self) -> Option<(Arc<ProviderKeys>, Instant)> {
        self.fetched.read().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// The keys as they are now; `None` where they were asked for a moment ago, or cannot be had. Whoever comes while they
    /// are being fetched gets what comes of that.
    async fn newer(&self) -> Option<Arc<ProviderKeys>> {
        let came = Instant::now();
        let turn = self.fetching.clone().lock_owned().await;
        if let Some((keys, at)) = self.known()
            && at >= came
        {
            return Some(keys);
        }
        {
            let mut fetched = self.fetched.write().unwrap_or_else(PoisonError::into_inner);
            if fetched.asked.is_some_and(|at| at.elapsed() < PAUSE) {
                return None;
            }
            fetched.asked = Some(Instant::now());
        }
        // It ends also when whoever asked goes away: strangers who come and go would keep the keys from ever being fetched.
        let (source, fetched) = (self.source.clone(), self.fetched.clone());
        let fetching = tokio::spawn(async move {
            let keys = renew(&source, &fetched).await;
            drop(turn);
            keys
        });
        fetching.await.ok().flatten()
    }
}

/// Fetches the keys once.
async fn renew(source: &Source, fetched: &RwLock<Fetched>) -> Option<Arc<ProviderKeys>> {
    match source.fetch().await {
        Ok(keys) => {
            let keys = Arc::new(keys);
            fetched.write().unwrap_or_else(PoisonError::into_inner).keys = Some((keys.clone(), Instant::now()));
            Some(keys)
        }
        Err(error) => {
            tracing::warn!(issuer = source.issuer(), %error, "the identity provider's keys could not be fetched");
            None
        }
    }
}

impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oidc").field("issuer", &self.config.issuer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(issuer: &str) -> OidcConfig {
        hostler_trust::install_crypto();
        OidcConfig {
            issuer: issuer.to_owned(),
            audiences: vec!["hostler".to_owned()],
            client: None,
            skew: Duration::from_secs(60),
            mapping: Mapping::default(),
        }
    }

    #[test]
    fn keys_travel_over_tls_or_stay_on_this_machine() {
        for good in
            ["https://login.example.com", "https://login.example.com/realms/a/", "http://127.0.0.1:1", "http://[::1]:1"]
        {
            assert!(Oidc::new(config(good)).is_ok(), "{good}");
        }
        for bad in ["http://login.example.com", "login.example.com", "ftp://x", "https://u:p@h", "file:///etc", ""] {
            assert!(matches!(Oidc::new(config(bad)), Err(OidcError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn a_provider_is_configured_for_somebody_and_its_clock_is_not_far_off() {
        let nobody = OidcConfig { audiences: Vec::new(), ..config("https://a.example") };
        assert!(matches!(Oidc::new(nobody), Err(OidcError::NoAudience(_))));
        let far = OidcConfig { skew: Duration::from_secs(301), ..config("https://a.example") };
        assert!(matches!(Oidc::new(far), Err(OidcError::Skew)));
    }
}
