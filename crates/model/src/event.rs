//! Events and audit entries: what happened, numbered in commit order without gaps.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    id::{PrincipalId, RequestId, TenantId},
};

/// Who an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// For everybody who may see the subject.
    Event,
    /// For those who answer for the system: who did what.
    Audit,
}

impl Class {
    /// As the store spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Event => "event",
            Class::Audit => "audit",
        }
    }
}

/// One line of the log before it has its number.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NewEntry {
    /// Event or audit.
    pub class: Class,
    /// Whose.
    pub tenant: Option<TenantId>,
    /// What happened, such as `task.queued`.
    pub kind: String,
    /// To which noun, such as `task`.
    pub noun: String,
    /// To which one.
    pub subject: Uuid,
    /// Details.
    pub data: Value,
}

/// One line of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Entry {
    /// Its number.
    pub seq: i64,
    /// When it was committed.
    pub at: Timestamp,
    /// Event or audit.
    pub class: Class,
    /// Whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// What happened, such as `task.queued`.
    pub kind: String,
    /// To which noun, such as `task`.
    pub noun: String,
    /// To which one.
    pub subject: Uuid,
    /// Details.
    #[schema(value_type = Object)]
    pub data: Value,
}

/// Who is behind a change, for the audit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Actor {
    /// Who.
    pub principal: PrincipalId,
    /// With which role.
    pub role: String,
    /// In which request.
    pub request: Option<RequestId>,
}

impl Actor {
    /// The control plane itself.
    pub fn system() -> Actor {
        Actor { principal: PrincipalId::SYSTEM, role: "system".into(), request: None }
    }
}
