//! What can go wrong with a call: the server said no, it could not be reached, or its answer makes no sense.

use hostler_link::LinkError;
use hostler_model::{Code, Refusal, api::Problem, id::RequestId};

/// Why a call has no answer of the kind that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a reason.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),

    /// The server did not answer, also not when asked again.
    #[error("{call}: {source}")]
    Unreachable {
        /// Which call, such as `GET /api/v1/vms`.
        call: String,
        /// What happened to the connection.
        source: LinkError,
    },

    /// There was an answer that this client does not understand: something stands between us and the server, or the
    /// server is of another version.
    #[error("{call}: {source}")]
    Unreadable {
        /// Which call.
        call: String,
        /// What is wrong with the answer.
        source: LinkError,
    },
}

impl ClientError {
    pub(crate) fn of(call: &str, source: LinkError) -> ClientError {
        let call = call.to_owned();
        match source {
            LinkError::Refused { problem, .. } => ClientError::Refused(problem),
            LinkError::Unreachable { .. } | LinkError::Broken { .. } | LinkError::TimedOut { .. } => {
                ClientError::Unreachable { call, source }
            }
            LinkError::Unexpected { .. } | LinkError::Unreadable(_) => ClientError::Unreadable { call, source },
            LinkError::BadRequest(reason) => Refusal::new(Code::ValidationError, format!("{call}: {reason}")).into(),
        }
    }

    /// The server's reason, where it gave one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Refused(problem) => Some(problem),
            ClientError::Unreachable { .. } | ClientError::Unreadable { .. } => None,
        }
    }

    /// The request's id, where the server told it.
    pub fn request_id(&self) -> Option<RequestId> {
        self.problem()?.request_id
    }

    /// The status of the answer, where there was one that is not a success.
    pub fn status(&self) -> Option<u16> {
        match self {
            ClientError::Refused(problem) => Some(problem.status),
            ClientError::Unreachable { source, .. } | ClientError::Unreadable { source, .. } => {
                source.status().map(|status| status.as_u16())
            }
        }
    }

    /// Whether nobody answered: the same call may do later.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. })
    }
}

/// What the client refuses by itself, as the server would.
impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        ClientError::Refused(Box::new(Problem::of(refusal, None)))
    }
}
