//! Where a provider's keys come from: its discovery document, and the set that this names.

use std::time::Duration;

use hostler_trust::ProviderKeys;
use reqwest::{Url, redirect};
use serde::Deserialize;
use serde_json::Value;

use super::OidcError;

/// How long a provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How large a document of its may be.
const LARGEST: usize = 1 << 20;

/// Why the keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{url} could not be fetched: {cause}")]
    Away { url: String, cause: String },
    #[error("{0}: {1}")]
    Wrong(String, String),
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// The address of a provider, and how it is called.
pub(super) struct Source {
    issuer: String,
    discovery: Url,
    http: reqwest::Client,
}

impl Source {
    /// That of an issuer.
    ///
    /// # Errors
    /// When its address may not be called.
    pub(super) fn new(issuer: &str) -> Result<Source, OidcError> {
        let well_known = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let discovery = callable(&well_known).ok_or_else(|| OidcError::Address(issuer.to_owned()))?;
        let http = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(PATIENCE)
            .user_agent(concat!("hostler/", env!("CARGO_PKG_VERSION")));
        // A proxy of the environment is for what is outside.
        let http = if is_loopback(&discovery) { http.no_proxy() } else { http };
        Ok(Source { issuer: issuer.to_owned(), discovery, http: http.build()? })
    }

    /// What the provider calls itself.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The keys as they are published now.
    pub(super) async fn fetch(&self) -> Result<ProviderKeys, FetchError> {
        let document = self.document(&self.discovery).await?;
        let wrong = |why| FetchError::Wrong(self.discovery.to_string(), why);
        let at = keys_of(&document, &self.issuer).map_err(wrong)?;
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

/// Where the keys are, of which a discovery document speaks; it must be of this issuer.
fn keys_of(document: &Value, issuer: &str) -> Result<Url, String> {
    let found = Discovery::deserialize(document).map_err(|error| error.to_string())?;
    if found.issuer != issuer {
        return Err(format!("it is of the issuer {:?}", found.issuer));
    }
    callable(&found.jwks_uri).ok_or_else(|| "its jwks_uri is no https address".to_owned())
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

#[cfg(test)]
mod tests;
