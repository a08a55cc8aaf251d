//! Whether the server is well: `/api/v1/doctor`, `/healthz`, `/readyz`.

use futures_util::StreamExt;
use hostler_link::chunks;
use hostler_model::{Timestamp, api::Diagnosis};
use serde_json::Value;

use crate::{Client, ClientError, call::Call};

/// As much of a probe's answer as anybody will read.
const LONGEST: usize = 4096;

/// What a probe answered. The probes answer anybody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// The server's version, where the probe says it: `version` in the body, or the `server` header.
    pub version: Option<String>,
    /// The server's time, in whole seconds, where the answer says it.
    pub date: Option<Timestamp>,
    /// What it said.
    pub said: String,
}

/// An HTTP date, such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn moment(text: &str) -> Option<Timestamp> {
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from_micros(parsed.as_microsecond()))
}

impl Client {
    /// What the server's own examination found.
    pub async fn doctor(&self) -> Result<Diagnosis, ClientError> {
        self.call(Call::get("/api/v1/doctor")).await
    }

    /// What the server measures, in OpenMetrics text.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        self.text(&Call::get("/metrics")).await
    }

    /// Whether the server's process is there.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.probe("/healthz").await
    }

    /// Whether the server can do its work; refused or unreadable while it cannot.
    pub async fn ready(&self) -> Result<Health, ClientError> {
        self.probe("/readyz").await
    }

    /// The server's version; `None` from one so old that its probe does not say it.
    pub async fn version(&self) -> Result<Option<String>, ClientError> {
        Ok(self.health().await?.version)
    }

    async fn probe(&self, path: &str) -> Result<Health, ClientError> {
        let call = Call::get(path);
        let answer = self.open(&call).await?;
        let server = answer.headers().get("server").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let date = answer.headers().get("date").and_then(|value| moment(value.to_str().ok()?));
        let mut said = Vec::new();
        let mut body = chunks(answer.into_body());
        while let Some(bytes) = body.next().await {
            said.extend_from_slice(&bytes.map_err(|error| ClientError::of(&call.name(), error))?);
            said.truncate(LONGEST);
        }
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        let body: Option<Value> = serde_json::from_str(&said).ok();
        let version = body.and_then(|body| body["version"].as_str().map(str::to_owned)).or(server);
        Ok(Health { version, date, said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_http_is_read() {
        assert_eq!(moment("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().as_micros(), 784_111_777_000_000);
        assert_eq!(moment("yesterday"), None);
    }
}
