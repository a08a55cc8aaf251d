//! How a task is asked for: the headers and the query that every submission understands, and the answer they lead to.

use std::{sync::Arc, time::Duration};

use axum::{extract::FromRequestParts, response::Response};
use hostler_model::{
    Refusal,
    api::{NewTask, Submitted, TargetRef},
    kind::KindName,
    schedule,
};
use hostler_store::{Accepted, Idempotency};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    body::{Strict, answer},
    query::InQuery,
};
use crate::app::{App, Error, Result, caller::Call, submit::Terms};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// The longest key.
const KEY_LIMIT: usize = 255;
/// The longest wait: shorter than what proxies commonly cut off.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// A query that says when tasks may begin and how often they are tried, beside what else it says. A query cannot be put
/// together of two: what one does not know is refused.
macro_rules! scheduled {
    ($(#[doc = $about:literal])* $query:ident { $( $(#[doc = $doc:literal])* $field:ident: $type:ty, )* }) => {
        $(#[doc = $about])*
        #[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
        #[serde(default, deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(super) struct $query {
            $( $(#[doc = $doc])* $field: $type, )*
            /// How soon, compared with other tasks of its node: -100 to 100, higher first. This and what follows stands in
            /// the query for routes of every shape, and comes before what a body says of the same.
            #[param(minimum = -100, maximum = 100, value_type = Option<i32>)]
            priority: Option<hostler_model::schedule::Priority>,
            /// Not leased before this.
            not_before: Option<hostler_model::Timestamp>,
            /// Not leased before so many seconds have passed, at most 30 days.
            delay_seconds: Option<u32>,
            /// How long it may wait for its node, at most 30 days.
            queue_timeout_seconds: Option<u32>,
            /// How long it may take, from the first lease to the end, at most ten times what its kind says.
            timeout_seconds: Option<u32>,
            /// How often it may be tried, the first time included: 1 to 100.
            retry_attempts: Option<u32>,
            /// How the pauses between attempts grow.
            retry_backoff: Option<hostler_model::retry::Backoff>,
            /// The pause before the second attempt, 1 to 86,400 seconds.
            retry_first_seconds: Option<u32>,
            /// The longest pause, at most 86,400 seconds.
            retry_most_seconds: Option<u32>,
        }

        impl $query {
            /// The schedule that is asked for.
            fn when(&self) -> hostler_model::schedule::Asked {
                let retry = hostler_model::retry::RetryAsked {
                    attempts: self.retry_attempts,
                    backoff: self.retry_backoff,
                    first_seconds: self.retry_first_seconds,
                    most_seconds: self.retry_most_seconds,
                };
                hostler_model::schedule::Asked {
                    priority: self.priority,
                    not_before: self.not_before,
                    delay_seconds: self.delay_seconds,
                    queue_timeout_seconds: self.queue_timeout_seconds,
                    timeout_seconds: self.timeout_seconds,
                    retry: Some(retry).filter(|retry| *retry != Default::default()),
                }
            }
        }
    };
}
pub(super) use scheduled;

scheduled! {
    /// The query of a submission.
    SubmitQuery {
        /// Answer as if, and write nothing.
        dry_run: bool,
    }
}

/// The headers of a submission, for the document.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the document's view of headers that are read by hand")]
pub(super) struct SubmitHeaders {
    /// A key of the caller's, 1 to 255 visible ASCII characters: a repeat under it gets the first answer.
    #[param(rename = "Idempotency-Key", max_length = 255, min_length = 1, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
    /// `wait=N`: answer when the task has ended, or after N seconds, at most 60.
    #[param(rename = "Prefer", example = "wait=20")]
    prefer: Option<String>,
}

/// What was asked for beside the task itself.
#[derive(Debug)]
pub(super) struct Asked {
    key: Option<String>,
    wait: Option<Duration>,
    dry_run: bool,
    when: schedule::Asked,
    if_match: Option<Vec<u32>>,
    route: String,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let InQuery(query) = InQuery::<SubmitQuery>::from_request_parts(parts, state).await?;
        Ok(Asked { when: query.when(), ..Asked::read(parts, query.dry_run)? })
    }
}

impl Asked {
    /// Only of a machine that has one of these generations.
    pub(super) fn matching(self, if_match: Option<Vec<u32>>) -> Asked {
        Asked { if_match, ..self }
    }

    /// Of a request that is for no task: whether it is a dry run is for its own query to say.
    pub(super) fn read(parts: &Parts, dry_run: bool) -> Result<Asked> {
        Ok(Asked {
            key: key(&parts.headers)?,
            wait: wait(&parts.headers),
            dry_run,
            when: schedule::Asked::default(),
            if_match: None,
            route: format!("{} {}", parts.method, parts.uri.path()),
        })
    }

    /// Whether nothing is to be done.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// How long the caller waits for the end.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// The terms of a submission with this body.
    pub(super) fn terms(&self, body_sha256: &str) -> Terms {
        let idempotency = self.key.clone().map(|key| Idempotency {
            key,
            route: self.route.clone(),
            body: self.asked_with(body_sha256),
            part: None,
        });
        Terms { idempotency, dry_run: self.dry_run, when: self.when, if_match: self.if_match.clone() }
    }

    /// What a key stands for: the body, and a schedule where one was asked for beside it.
    fn asked_with(&self, body_sha256: &str) -> String {
        if self.when == schedule::Asked::default() {
            return body_sha256.to_owned();
        }
        let when = serde_json::to_vec(&self.when).unwrap_or_default();
        hex::encode(Sha256::new().chain_update(body_sha256).chain_update(when).finalize())
    }

    /// Submits a task of this kind, with the body as its parameters, and answers.
    pub(super) async fn submit(
        self,
        app: &Arc<App>,
        call: &Call,
        kind: KindName,
        target: TargetRef,
        body: &Strict<impl Serialize>,
    ) -> Result<Response> {
        let fault = "parameters could not be written as JSON";
        let params = serde_json::to_value(&body.value).map_err(|_| Error::Fault(fault))?;
        let new = NewTask::new(kind, target, params);
        let accepted = app.submit(call, new, self.terms(&body.sha256)).await?;
        self.answer(app, accepted).await
    }

    /// The answer: the task as it was accepted, or as it ended if that was worth waiting for.
    pub(super) async fn answer(self, app: &Arc<App>, accepted: Accepted) -> Result<Response> {
        let Accepted { task, vm, snapshot, replayed, placement } = accepted;
        let id = task.id;
        if self.dry_run {
            return Ok(answer(StatusCode::OK, &Submitted { task, vm, snapshot, placement }));
        }
        let ended = match self.wait {
            Some(wait) => app.ended(id, wait).await?,
            None => None,
        };
        let mut response = match ended {
            Some(task) => {
                let (vm, snapshot) = (app.machine_of(&task).await?, app.snapshot_of(&task).await?);
                answer(StatusCode::OK, &Submitted { task, vm, snapshot, placement })
            }
            None => answer(StatusCode::ACCEPTED, &Submitted { task, vm, snapshot, placement }),
        };
        self.mark(&mut response, &format!("/api/v1/tasks/{id}"), replayed);
        Ok(response)
    }

    /// What every answer says beside its body.
    pub(super) fn mark(&self, response: &mut Response, location: &str, replayed: bool) {
        let headers = response.headers_mut();
        insert(headers, header::LOCATION, location);
        if let Some(wait) = self.wait {
            insert(headers, PREFERENCE_APPLIED, &format!("wait={}", wait.as_secs()));
        }
        mark_replay(response, replayed);
    }
}

/// Says of an answer whether it is the first one under its key once more.
pub(super) fn mark_replay(response: &mut Response, replayed: bool) {
    if replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let bytes = value.as_bytes();
    if bytes.is_empty() || bytes.len() > KEY_LIMIT || !bytes.iter().all(u8::is_ascii_graphic) {
        let detail = format!("a key is 1 to {KEY_LIMIT} visible ASCII characters");
        return Err(Refusal::field("Idempotency-Key", detail).into());
    }
    Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
}

/// RFC 7240: a preference that cannot be read is one that was not sent.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
    let seconds = values.flat_map(|value| value.split([',', ';'])).find_map(|preference| {
        let (name, seconds) = preference.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("wait") {
            return None;
        }
        seconds.trim().trim_matches('"').parse::<u64>().ok()
    })?;
    Some(Duration::from_secs(seconds).min(WAIT_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        insert(&mut headers, name, value);
        headers
    }

    #[test]
    fn a_preference_is_read_where_it_can_be_and_never_refused() {
        for (text, seconds) in
            [("wait=5", Some(5)), ("respond-async, wait=900", Some(60)), ("wait=x", None), ("", None)]
        {
            assert_eq!(wait(&headers(PREFER, text)), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_kept_is_refused() {
        assert_eq!(key(&headers(IDEMPOTENCY_KEY, "a-1")).unwrap().as_deref(), Some("a-1"));
        for bad in ["", "a b", &"x".repeat(256)] {
            assert!(key(&headers(IDEMPOTENCY_KEY, bad)).is_err(), "{bad}");
        }
    }
}
