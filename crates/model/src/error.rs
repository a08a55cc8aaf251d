//! Refusals: a stable code, a sentence that helps, and facts. One place maps a code to its HTTP status.

mod remedy;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, by a code that never changes its meaning.
        // Not `rename = $text`: utoipa does not see through a macro's literal. A test holds the two spellings together.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The code as people and programs read it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }

            /// A title in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// A field is missing, unknown, of the wrong type or out of range.
    ValidationError = "VALIDATION_ERROR", 400, "The request is not valid";
    /// The body is not JSON, not UTF-8, or of another media type.
    MalformedBody = "MALFORMED_BODY", 400, "The body cannot be read";
    /// The body is larger than the server reads.
    BodyTooLarge = "BODY_TOO_LARGE", 413, "The body is too large";
    /// No credential, or one that is not known.
    Unauthenticated = "UNAUTHENTICATED", 401, "A credential is needed";
    /// The credential does not allow this.
    Forbidden = "FORBIDDEN", 403, "This is not allowed";
    /// The body names another tenant than the caller's.
    ForbiddenOwnership = "FORBIDDEN_OWNERSHIP", 403, "This is another tenant's";
    /// The caller is of no tenant, and this is a tenant's work.
    TenantIdRequired = "TENANT_ID_REQUIRED", 400, "A tenant must be named";
    /// There is no such thing, or not for this caller.
    NotFound = "NOT_FOUND", 404, "There is no such thing";
    /// No task has this id.
    TaskNotFound = "TASK_NOT_FOUND", 404, "There is no such task";
    /// No VM has this id or name.
    VmNotFound = "VM_NOT_FOUND", 404, "There is no such VM";
    /// No image has this name.
    ImageNotFound = "IMAGE_NOT_FOUND", 404, "There is no such image";
    /// The file must not be opened: it refers to other files, or makes no sense.
    ImageUnsafe = "IMAGE_UNSAFE", 422, "The image is not safe to open";
    /// Machines use the image.
    ImageInUse = "IMAGE_IN_USE", 409, "The image is in use";
    /// The file could not be fetched or converted.
    ImportFailed = "IMPORT_FAILED", 409, "The import failed";
    /// No import has this id.
    ImportNotFound = "IMPORT_NOT_FOUND", 404, "There is no such import";
    /// The bytes of a file are being sent by somebody else, or do not follow those that are here.
    UploadConflict = "UPLOAD_CONFLICT", 409, "The upload stands elsewhere";
    /// The source of an import is not one that this server reads from.
    SourceForbidden = "SOURCE_FORBIDDEN", 403, "This source is not allowed";
    /// No snapshot has this id, or name among its machine's.
    SnapshotNotFound = "SNAPSHOT_NOT_FOUND", 404, "There is no such snapshot";
    /// No token has this id.
    TokenNotFound = "TOKEN_NOT_FOUND", 404, "There is no such token";
    /// No service account has this name.
    ServiceAccountNotFound = "SERVICE_ACCOUNT_NOT_FOUND", 404, "There is no such service account";
    /// No node has this id or name.
    NodeNotFound = "NODE_NOT_FOUND", 404, "There is no such node";
    /// No key that signs tasks has this name.
    KeyNotFound = "KEY_NOT_FOUND", 404, "There is no such key";
    /// The route exists, the method does not.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, "This method is not allowed here";
    /// The action of a task is not one of the kinds.
    UnknownAction = "UNKNOWN_ACTION", 400, "There is no such kind of task";
    /// Another thing that is not deleted has this name.
    NameTaken = "NAME_TAKEN", 409, "The name is taken";
    /// The VM is protected from deletion.
    VmProtected = "VM_PROTECTED", 409, "The VM is protected";
    /// Another machine or program listens on the node's port.
    PortTaken = "PORT_TAKEN", 409, "The node's port is taken";
    /// A disk only grows.
    DiskShrink = "DISK_SHRINK", 409, "A disk cannot shrink";
    /// `If-Match` names another generation than the one there is.
    PreconditionFailed = "PRECONDITION_FAILED", 412, "It was changed meanwhile";
    /// The VM's state does not allow this.
    VmStateConflict = "VM_STATE_CONFLICT", 409, "The VM's state does not allow this";
    /// The snapshot's state does not allow this.
    SnapshotStateConflict = "SNAPSHOT_STATE_CONFLICT", 409, "The snapshot's state does not allow this";
    /// The machine has as many snapshots, or its disk as many layers, as it may have.
    SnapshotLimit = "SNAPSHOT_LIMIT", 409, "There are too many snapshots";
    /// The snapshot does not fit the machine or the node as they are now, or is damaged.
    SnapshotUnusable = "SNAPSHOT_UNUSABLE", 409, "The snapshot cannot be used";
    /// The task's state does not allow this.
    TaskStateConflict = "TASK_STATE_CONFLICT", 409, "The task's state does not allow this";
    /// The node's state does not allow this.
    NodeStateConflict = "NODE_STATE_CONFLICT", 409, "The node's state does not allow this";
    /// The key's state, or the number of keys, does not allow this.
    KeyStateConflict = "KEY_STATE_CONFLICT", 409, "The key's state does not allow this";
    /// A tenant's limit does not allow this.
    QuotaExceeded = "QUOTA_EXCEEDED", 409, "The quota does not allow this";
    /// The tenant has something, or the server itself is of it.
    TenantInUse = "TENANT_IN_USE", 409, "The tenant is in use";
    /// No node has room.
    NoCapacity = "NO_CAPACITY", 409, "No node has room";
    /// The same key with another body.
    IdempotencyMismatch = "IDEMPOTENCY_MISMATCH", 422, "This key was used with another body";
    /// A fence that has been passed.
    StaleFence = "STALE_FENCE", 409, "This attempt is over";
    /// The caller's certificate is not that of the node in the path.
    IdentityMismatch = "IDENTITY_MISMATCH", 403, "The certificate is not this node's";
    /// A join token that is unknown, used or expired.
    JoinTokenInvalid = "JOIN_TOKEN_INVALID", 403, "The join token is not valid";
    /// A certificate request that cannot be read or whose signature is wrong.
    CsrInvalid = "CSR_INVALID", 400, "The certificate request is not valid";
    /// A cursor that this server did not make, or for another list.
    CursorInvalid = "CURSOR_INVALID", 400, "The cursor is not valid";
    /// A cursor older than what is kept.
    CursorExpired = "CURSOR_EXPIRED", 410, "What followed the cursor is no longer kept";
    /// Too much at once.
    Overloaded = "OVERLOADED", 503, "The server is overloaded";
    /// Somebody calls more often than they may.
    RateLimited = "RATE_LIMITED", 429, "Too many calls";
    /// The server is going away or not ready yet.
    Unavailable = "UNAVAILABLE", 503, "The server is not available";
    /// The server's disk is full.
    StorageFull = "STORAGE_FULL", 507, "The server's disk is full";
    /// Our own fault.
    Internal = "INTERNAL", 500, "The server failed";

    // Codes of failed tasks. They are never an answer's status by themselves.
    /// The attempts are used up.
    AttemptsExhausted = "ATTEMPTS_EXHAUSTED", 409, "The attempts are used up";
    /// The time is used up.
    DeadlineExceeded = "DEADLINE_EXCEEDED", 409, "The time is used up";
    /// The agent died in the middle, and what it did cannot be known.
    OutcomeUnknown = "OUTCOME_UNKNOWN", 409, "What happened is not known";
    /// The task was cancelled.
    Cancelled = "CANCELLED", 409, "The task was cancelled";
    /// The agent refused the task: signature, audience, expiry, fence or epoch.
    TaskRefused = "TASK_REFUSED", 409, "The agent refused the task";
    /// The agent has no handler for this kind.
    AgentCapabilityUnsupported = "AGENT_CAPABILITY_UNSUPPORTED", 409, "The node cannot do this";
    /// The image could not be fetched or its digest is wrong.
    ImageFetchFailed = "IMAGE_FETCH_FAILED", 409, "The image could not be fetched";
    /// The hypervisor could not start or keep the machine.
    HypervisorFailed = "HYPERVISOR_FAILED", 409, "The hypervisor failed";
    /// The guest did not answer in time.
    GuestNotReady = "GUEST_NOT_READY", 409, "The guest did not answer";
    /// The guest agent refused or broke off.
    GuestFailed = "GUEST_FAILED", 409, "The guest failed";
    /// The node's disk is full.
    NodeStorageFull = "NODE_STORAGE_FULL", 409, "The node's disk is full";
    /// The handler failed in another way.
    HandlerFailed = "HANDLER_FAILED", 409, "The handler failed";
    /// The simulated driver was told to fail.
    Injected = "INJECTED", 409, "A failure was injected";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A no, with its reason.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, thiserror::Error, utoipa::ToSchema)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Which no.
    pub code: Code,
    /// What happened, to what, why, and what to do next.
    pub detail: String,
    /// Numbers and names that a program can read.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub facts: Map<String, Value>,
}

impl Refusal {
    /// A refusal with a sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Refusal { code, detail: detail.into(), facts: Map::new() }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(key.to_owned(), value.into());
        self
    }

    /// A field that is not valid.
    pub fn field(field: &str, detail: impl fmt::Display) -> Self {
        Refusal::new(Code::ValidationError, format!("{field}: {detail}")).with("field", field)
    }
}

/// The beginning of a text that came from outside, safe to show.
pub fn excerpt(text: &str) -> String {
    let mut out: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_spelled_the_same_in_json() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
