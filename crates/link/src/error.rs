//! Why a call came to nothing.

use std::{error::Error, time::Duration};

use hostler_model::api::Problem;
use http::StatusCode;
use tower::BoxError;

/// A call that did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers there. The request was not sent.
    #[error("cannot reach {url}: {}; is the server running, and is this its address?", root(source.as_ref()))]
    Unreachable {
        /// Where the call went.
        url: String,
        /// Why it did not arrive.
        source: BoxError,
    },
    /// The connection broke while a request or its answer was under way. The server may have acted on it.
    #[error("the connection to {url} broke: {}; whether the server acted on the request is not known", root(source.as_ref()))]
    Broken {
        /// Where the call went.
        url: String,
        /// What broke.
        source: BoxError,
    },
    /// The server said no, and why.
    #[error("{}: {}", problem.code, problem.detail)]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The server's reasons.
        problem: Box<Problem>,
    },
    /// The server said no in a way that this client does not know: a newer server, or not a hostler server.
    #[error("the server answered {status}: {detail}")]
    Unexpected {
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of what it said.
        detail: String,
    },
    /// The server said yes, but what it sent is not what was asked for.
    #[error("the server's answer cannot be read: {0}")]
    Unreadable(String),
    /// The request cannot be made: its path, a header or its body.
    #[error("the request cannot be made: {0}")]
    BadRequest(String),
    /// The caller's time limit passed. The server may have acted on the request.
    #[error("no answer within {}", Span(*after))]
    TimedOut {
        /// The limit.
        after: Duration,
    },
}

impl LinkError {
    /// Whether the request certainly changed nothing, so that even a call that must not happen twice may be repeated.
    pub fn was_not_sent(&self) -> bool {
        matches!(self, LinkError::Unreachable { .. } | LinkError::BadRequest(_))
    }

    /// The server's refusal, where there is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            LinkError::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// The HTTP status of the answer, where one came.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            LinkError::Refused { status, .. } | LinkError::Unexpected { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// The innermost reason: the outer ones only say which layer passed it on.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// A duration as people write it.
struct Span(Duration);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
