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

use std::{
    fmt,
    sync::{Arc, RwLock},
    time::Duration,
};

use hostler_model::{Timestamp, caller::Caller};
use hostler_trust::{
    ProviderKeys, ProviderRefusal,
    provider::{Demanded, Stated},
};
use reqwest::{Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

pub use self::claims::{Claimed, Mapping};

/// How long keys are used before they are fetched again: a key that the provider took back is believed this much longer.
const FRESH: Duration = Duration::from_secs(600);
/// How long keys stay good while they cannot be fetched again.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often they are fetched at most, whatever keys tokens name.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How large a document of its may be.
const LARGEST: usize = 1 << 20;
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

/// Why the keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{url} could not be fetched: {cause}")]
    Away { url: String, cause: String },
    #[error("{0}: {1}")]
    Wrong(String, String),
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

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Default)]
struct State {
    keys: Option<(Arc<ProviderKeys>, Instant)>,
    asked: Option<Instant>,
}

/// An identity provider. Its documents are fetched when they are first needed.
pub struct Oidc {
    config: OidcConfig,
    discovery: Url,
    http: reqwest::Client,
    state: RwLock<State>,
    fetching: Mutex<()>,
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
        let well_known = format!("{}/.well-known/openid-configuration", config.issuer.trim_end_matches('/'));
        let discovery = callable(&well_known).ok_or_else(|| OidcError::Address(config.issuer.clone()))?;
        let http = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(PATIENCE)
            .user_agent(concat!("hostler/", env!("CARGO_PKG_VERSION")));
        // A proxy of the environment is for what is outside.
        let http = if is_loopback(&discovery) { http.no_proxy() } else { http };
        Ok(Oidc { config, discovery, http: http.build()?, state: RwLock::default(), fetching: Mutex::default() })
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
        self.state.read().unwrap_or_else(|poisoned| poisoned.into_inner()).keys.clone()
    }

    /// The keys as they are now; `None` where they were asked for a moment ago, or cannot be had. Whoever comes while they
    /// are being fetched gets what comes of that.
    async fn newer(&self) -> Option<Arc<ProviderKeys>> {
        let came = Instant::now();
        let _turn = self.fetching.lock().await;
        if let Some((keys, at)) = self.known()
            && at >= came
        {
            return Some(keys);
        }
        {
            let mut state = self.state.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if state.asked.is_some_and(|at| at.elapsed() < PAUSE) {
                return None;
            }
            state.asked = Some(Instant::now());
        }
        match self.fetch().await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                let mut state = self.state.write().unwrap_or_else(|poisoned| poisoned.into_inner());
                state.keys = Some((keys.clone(), Instant::now()));
                Some(keys)
            }
            Err(error) => {
                tracing::warn!(issuer = self.config.issuer, %error, "the identity provider's keys could not be fetched");
                None
            }
        }
    }

    async fn fetch(&self) -> Result<ProviderKeys, FetchError> {
        let document = self.document(&self.discovery).await?;
        let wrong = |why: &str| FetchError::Wrong(self.discovery.to_string(), why.to_owned());
        let found = Discovery::deserialize(&document).map_err(|error| wrong(&error.to_string()))?;
        if found.issuer != self.config.issuer {
            return Err(wrong(&format!("it is of the issuer {:?}", found.issuer)));
        }
        let at = callable(&found.jwks_uri).ok_or_else(|| wrong("its jwks_uri is no https address"))?;
        let set = self.document(&at).await?;
        let nothing = || FetchError::Wrong(at.to_string(), "it holds no key that verifies a signature".to_owned());
        ProviderKeys::read(&set).ok_or_else(nothing)
    }

    async fn document(&self, url: &Url) -> Result<Value, FetchError> {
        let away = |cause: String| FetchError::Away { url: url.to_string(), cause };
        let mut answer = self.http.get(url.clone()).send().await.map_err(|error| away(words(&error)))?;
        if !answer.status().is_success() {
            return Err(away(format!("it answers {}", answer.status())));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| away(words(&error)))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LARGEST {
                return Err(FetchError::Wrong(url.to_string(), format!("it is larger than {LARGEST} bytes")));
            }
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| FetchError::Wrong(url.to_string(), format!("it is not JSON: {error}")))
    }
}

/// An address that tokens and keys may travel to: https, or http on this machine.
fn callable(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.host().is_some();
    (plain && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)))).then_some(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn words(error: &reqwest::Error) -> String {
    let mut said = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        said = error.to_string();
        cause = error.source();
    }
    if said.is_empty() { error.to_string() } else { said }
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
