//! One call: how it is written, sent again when the connection breaks, and how its answer is read. Nothing else in
//! this crate sends a request, but for the stream of events.

use std::{
    fmt::{Display, Write as _},
    time::Duration,
};

use hostler_link::{Body, LinkError, with_timeout};
use hostler_model::{Code, Refusal, error::excerpt, id::RequestId, retry::Backoff, schedule::Asked};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Client, ClientError};

/// How something is submitted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Submit {
    /// How long the server may wait for the task's end before it answers; it waits 60 s at most, and not at all by
    /// default.
    pub wait: Option<Duration>,
    /// The key under which a repetition gets the first answer. A fresh one by default.
    pub idempotency_key: Option<String>,
    /// In earnest or not.
    pub mode: Mode,
    /// When its task may begin and how often it may be tried; as its kind says where nothing is said.
    pub when: Asked,
}

impl Submit {
    /// Waiting for the end this long.
    pub fn waiting(wait: Duration) -> Submit {
        Submit { wait: Some(wait), ..Submit::default() }
    }

    /// Only asking what would happen.
    pub fn dry() -> Submit {
        Submit { mode: Mode::DryRun, ..Submit::default() }
    }
}

/// Whether a submission is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// It is done.
    #[default]
    Real,
    /// The answer is the same, and nothing happens.
    DryRun,
}

impl Mode {
    /// The parameter, where there is one.
    pub(crate) fn dry_run(self) -> Option<bool> {
        match self {
            Mode::Real => None,
            Mode::DryRun => Some(true),
        }
    }
}

/// When a call is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// How often a call is sent in all, while the connection breaks or the server says that it is busy.
    pub attempts: u32,
    /// The pause after the first attempt; each later one is three times as long.
    pub pause: Duration,
    /// How long one attempt may take, besides what the server was asked to wait.
    pub limit: Duration,
    /// How long a stream of events may be silent before it is taken for broken. A server sends comments more often.
    pub silence: Duration,
}

/// Four attempts within 1.3 s: enough for a server that is being replaced behind its port, and short enough that a
/// person is not left to wonder.
impl Default for Patience {
    fn default() -> Self {
        Patience {
            attempts: 4,
            pause: Duration::from_millis(100),
            limit: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// The pause after this many attempts.
    pub(crate) fn pause_after(&self, attempts: u32) -> Duration {
        self.pause.saturating_mul(3u32.saturating_pow(attempts.saturating_sub(1).min(4)))
    }
}

/// A call that is safe to send more than once: it reads, or carries a key.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    query: String,
    body: Option<Value>,
    headers: HeaderMap,
    wait: Duration,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Call {
        let path = path.into();
        Call { method, path, query: String::new(), body: None, headers: HeaderMap::new(), wait: Duration::ZERO }
    }

    pub(crate) fn get(path: impl Into<String>) -> Call {
        Call::new(Method::GET, path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Call {
        Call::new(Method::POST, path)
    }

    pub(crate) fn put(path: impl Into<String>) -> Call {
        Call::new(Method::PUT, path)
    }

    pub(crate) fn patch(path: impl Into<String>) -> Call {
        Call::new(Method::PATCH, path)
    }

    pub(crate) fn delete(path: impl Into<String>) -> Call {
        Call::new(Method::DELETE, path)
    }

    /// Adds a parameter, where there is a value.
    pub(crate) fn query(mut self, name: &str, value: Option<impl Display>) -> Call {
        if let Some(value) = value {
            let sign = if self.query.is_empty() { '?' } else { '&' };
            let _ = write!(self.query, "{sign}{name}={}", escape(&value.to_string()));
        }
        self
    }

    /// Adds what is asked for of a schedule.
    pub(crate) fn scheduled(self, when: &Asked) -> Call {
        let retry = when.retry.unwrap_or_default();
        let backoff = retry.backoff.map(|backoff| match backoff {
            Backoff::Linear => "linear",
            Backoff::Exponential => "exponential",
        });
        self.query("priority", when.priority)
            .query("not_before", when.not_before)
            .query("delay_seconds", when.delay_seconds)
            .query("queue_timeout_seconds", when.queue_timeout_seconds)
            .query("timeout_seconds", when.timeout_seconds)
            .query("retry_attempts", retry.attempts)
            .query("retry_backoff", backoff)
            .query("retry_first_seconds", retry.first_seconds)
            .query("retry_most_seconds", retry.most_seconds)
    }

    /// The server was asked to wait this long before it answers.
    pub(crate) fn patient(mut self, wait: Duration) -> Call {
        self.wait = wait;
        self
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Call, ClientError> {
        let body = serde_json::to_value(body).map_err(|error| self.unsendable(error))?;
        self.body = Some(body);
        Ok(self)
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Result<Call, ClientError> {
        let value = HeaderValue::from_str(value).map_err(|error| self.unsendable(format!("{name}: {error}")))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// The call as errors name it.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub(crate) fn method(&self) -> Method {
        self.method.clone()
    }

    fn unsendable(&self, reason: impl Display) -> Refusal {
        Refusal::new(Code::ValidationError, format!("{}: {reason}", self.name()))
    }
}

impl Client {
    /// Submits under a key, so that it takes effect once however often it is sent.
    pub(crate) async fn submit<T: DeserializeOwned>(&self, call: Call, how: &Submit) -> Result<T, ClientError> {
        let key = how.idempotency_key.clone().unwrap_or_else(|| self.fresh_key());
        let mut call = call.header("idempotency-key", &key)?;
        if let Some(wait) = how.wait {
            // Whole seconds are what the header speaks of.
            call = call.header("prefer", &format!("wait={}", wait.as_secs()))?;
            call.wait = wait;
        }
        self.call(call.scheduled(&how.when).query("dry_run", how.mode.dry_run())).await
    }

    /// A key that nobody used before.
    pub fn fresh_key(&self) -> String {
        self.ids.next::<RequestId>(self.clock.now()).to_string()
    }

    /// Sends a call until there is an answer, or patience ends.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let (address, headers) = (self.address(&call), self.headers(&call)?);
        self.persist(&call, || self.link.call_json(call.method.clone(), &address, call.body.as_ref(), headers.clone()))
            .await
            .map(|answer| answer.body)
    }

    /// Sends a call that must not be sent twice.
    pub(crate) async fn once<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let (address, headers) = (self.address(&call), self.headers(&call)?);
        let sending = self.link.call_json(call.method.clone(), &address, call.body.as_ref(), headers);
        let answer = with_timeout(self.patience.limit + call.wait, sending).await;
        answer.map(|answer| answer.body).map_err(|error| ClientError::of(&call.name(), error))
    }

    /// Opens a stream, also with patience.
    pub(crate) async fn open(&self, call: &Call) -> Result<Response<Body>, ClientError> {
        let (address, headers) = (self.address(call), self.headers(call)?);
        self.persist(call, || self.link.open(call.method.clone(), &address, headers.clone())).await
    }

    async fn persist<T, F>(&self, call: &Call, attempt: impl Fn() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, LinkError>>,
    {
        let mut sent = 1;
        loop {
            let error = match with_timeout(self.patience.limit + call.wait, attempt()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if sent >= self.patience.attempts || !another_may_help(&error) {
                return Err(ClientError::of(&call.name(), error));
            }
            let told = wait_of(&error).unwrap_or_default();
            if told > self.patience.limit {
                return Err(ClientError::of(&call.name(), error));
            }
            tokio::time::sleep(self.patience.pause_after(sent).max(told)).await;
            sent += 1;
        }
    }

    /// The call's address, with the tenant that it is for.
    pub(crate) fn address(&self, call: &Call) -> String {
        let call = call.clone().query("tenant", self.tenant.as_ref());
        format!("{}{}", call.path, call.query)
    }

    pub(crate) fn headers(&self, call: &Call) -> Result<HeaderMap, ClientError> {
        let mut headers = call.headers.clone();
        if !self.token.is_empty() {
            let value = self.token.header().ok_or_else(|| {
                let detail = "the token holds characters that no token has; copy it again from where it was given out";
                Refusal::new(Code::Unauthenticated, detail)
            })?;
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

/// The connection broke, or the server is busy or going away. What took too long would again.
fn another_may_help(error: &LinkError) -> bool {
    match error {
        LinkError::Unreachable { .. } | LinkError::Broken { .. } => true,
        LinkError::Refused { status, .. } | LinkError::Unexpected { status, .. } => {
            matches!(*status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::TOO_MANY_REQUESTS)
        }
        LinkError::Unreadable(_) | LinkError::BadRequest(_) | LinkError::TimedOut { .. } => false,
    }
}

/// How long the server says that one should wait.
fn wait_of(error: &LinkError) -> Option<Duration> {
    error.problem()?.facts.get("retry_after_seconds")?.as_u64().map(Duration::from_secs)
}

/// An id or a name as a segment of a path. What could mean another path is no name of anything, and is not sent.
pub(crate) fn segment(text: &str, absent: Code) -> Result<&str, ClientError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 128 || !text.chars().all(plain) || text.chars().all(|c| c == '.') {
        let refusal = Refusal::new(
            absent,
            format!("nothing is called {:?}: write an id or a name of a-z, 0-9 and -", excerpt(text)),
        );
        return Err(refusal.with("value", excerpt(text)).into());
    }
    Ok(text)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_cannot_become_two() {
        let call = Call::get("/x").query("a", Some("1&b=2 ü")).query("c", None::<u32>).query("d", Some(3));
        assert_eq!(call.query, "?a=1%26b%3D2%20%C3%BC&d=3");
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for text in ["", ".", "..", "a/b", "a?b", "%2e%2e", "a b", "ä"] {
            assert!(segment(text, Code::VmNotFound).is_err(), "{text}");
        }
        assert_eq!(segment("web-1", Code::VmNotFound).unwrap(), "web-1");
    }

    #[test]
    fn pauses_grow() {
        let patience = Patience::default();
        let pauses: Vec<u128> = (1..4).map(|n| patience.pause_after(n).as_millis()).collect();
        assert_eq!(pauses, [100, 300, 900]);
    }
}
