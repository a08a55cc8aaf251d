//! The device flow (RFC 8628): the provider shows a code to confirm in a browser, on this machine or another, and hands
//! out a token once that was done. Never here: what the token is used for.

use std::time::Duration;

use hostler_model::{error::excerpt, token::LoginByOidc};
use reqwest::{Client, StatusCode, Url, header, redirect};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    exit::{Exit, Failure},
    output,
};

/// How long the provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long to wait between questions where the provider does not say (RFC 8628 §3.2).
const INTERVAL: u64 = 5;
/// How much longer once it finds that too often (§3.5).
const SLOWER: u64 = 5;
/// How long a code may be good at most.
const LONGEST: u64 = 3600;
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    device_authorization_endpoint: Option<String>,
    token_endpoint: String,
}

#[derive(Deserialize)]
struct Device {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

#[derive(Deserialize)]
struct Granted {
    id_token: Option<String>,
}

/// An id token of whoever confirms the code.
pub async fn id_token(provider: &LoginByOidc) -> Result<String, Failure> {
    let http = client(&callable(&provider.issuer)?)?;
    let found = discover(&http, provider).await?;
    let at = found.device_authorization_endpoint.ok_or_else(|| {
        Failure::new(Exit::Refused, format!("{} has no device flow", provider.issuer))
            .help("log in with a token: `hostler login NAME --url URL --token-file FILE`")
    })?;
    let form = [("client_id", provider.client_id.as_str()), ("scope", "openid profile")];
    let device: Device = ask(&http, &callable(&at)?, Some(&form)).await?.read()?;
    let page = device.verification_uri_complete.as_ref().unwrap_or(&device.verification_uri);
    output::note(format!("open {page} and confirm the code {}", device.user_code));
    confirmed(&http, &callable(&found.token_endpoint)?, &provider.client_id, &device).await
}

async fn discover(http: &Client, provider: &LoginByOidc) -> Result<Discovery, Failure> {
    let url = callable(&format!("{}/.well-known/openid-configuration", provider.issuer.trim_end_matches('/')))?;
    let found: Discovery = ask(http, &url, None).await?.read()?;
    if found.issuer != provider.issuer {
        return Err(broken(url.as_str(), &format!("it is of the issuer {:?}", found.issuer)));
    }
    Ok(found)
}

/// Asks until the code was confirmed, or its time is up.
async fn confirmed(http: &Client, url: &Url, client: &str, device: &Device) -> Result<String, Failure> {
    let form = [("client_id", client), ("grant_type", GRANT), ("device_code", device.device_code.as_str())];
    let mut interval = device.interval.unwrap_or(INTERVAL).max(1);
    let until = Instant::now() + Duration::from_secs(device.expires_in.min(LONGEST));
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(interval)).await;
        let answer = ask(http, url, Some(&form)).await?;
        if answer.status.is_success() {
            let granted: Granted = answer.read()?;
            return granted.id_token.ok_or_else(|| broken(url.as_str(), "it gave no id_token"));
        }
        match answer.error().as_str() {
            "authorization_pending" => {}
            "slow_down" => interval += SLOWER,
            "access_denied" => return Err(Failure::new(Exit::Refused, "the login was denied in the browser")),
            "expired_token" => break,
            _ => return Err(answer.unexpected()),
        }
    }
    Err(Failure::new(Exit::TimedOut, "the code was not confirmed in time").help("run `hostler login` again"))
}

/// What the provider answered.
struct Answer {
    from: String,
    status: StatusCode,
    body: Vec<u8>,
}

impl Answer {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if !self.status.is_success() {
            return Err(self.unexpected());
        }
        serde_json::from_slice(&self.body).map_err(|error| broken(&self.from, &error.to_string()))
    }

    /// The error's name (RFC 6749 §5.2); nothing where there is none.
    fn error(&self) -> String {
        let said: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        said["error"].as_str().map(excerpt).unwrap_or_default()
    }

    fn unexpected(&self) -> Failure {
        broken(&self.from, format!("it answers {} {}", self.status, self.error()).trim_end())
    }
}

async fn ask(http: &Client, url: &Url, form: Option<&[(&str, &str)]>) -> Result<Answer, Failure> {
    let failed = |error: reqwest::Error| broken(url.as_str(), &error.without_url().to_string());
    let request = match form {
        None => http.get(url.clone()),
        Some(pairs) => {
            // A form is written as a query is.
            let mut written = url.clone();
            written.query_pairs_mut().clear().extend_pairs(pairs);
            let body = written.query().unwrap_or_default().to_owned();
            http.post(url.clone()).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
        }
    };
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    Ok(Answer { from: url.to_string(), status, body: answer.bytes().await.map_err(failed)?.to_vec() })
}

fn client(issuer: &Url) -> Result<Client, Failure> {
    let builder = Client::builder().timeout(PATIENCE).redirect(redirect::Policy::none());
    let builder = if is_loopback(issuer) { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| Failure::new(Exit::Failed, format!("HTTP does not work here: {error}")))
}

/// Codes and tokens travel over TLS, or stay on this machine.
fn callable(text: &str) -> Result<Url, Failure> {
    let url =
        Url::parse(text).ok().filter(|url| url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url)));
    url.ok_or_else(|| broken(text, "it is no https address"))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn broken(at: &str, why: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("the identity provider cannot be used: {at}: {why}")).help(
        "tell who runs it; with a token you can log in without it: `hostler login NAME --url URL --token-file FILE`",
    )
}
