//! Events and audit entries: what happened, numbered in commit order without gaps.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    id::{NodeId, PrincipalId, RequestId, TenantId, TokenId},
};

/// Who an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// For everybody who may see the subject.
    Event,
    /// For those who answer for the system: who did what.
    Audit,
    /// For both, in one entry of the log; each sees it as one of theirs ([`Entry::seen_as`]).
    Act,
}

impl Class {
    /// As the store spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Event => "event",
            Class::Audit => "audit",
            Class::Act => "act",
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

impl Entry {
    /// The entry as those see it for whom this class is: of an act, events have what happened, the audit who did it by what.
    #[must_use]
    pub fn seen_as(self, class: Class) -> Entry {
        if self.class != Class::Act || class == Class::Act {
            return self;
        }
        let Entry { mut data, kind, .. } = self;
        let mut part = |name: &str| data.get_mut(name).map(Value::take).unwrap_or_default();
        let (actor, by, what) = (part("actor"), part("by"), part("what"));
        match class {
            Class::Audit => {
                let kind = by.as_str().map_or(kind, str::to_owned);
                // What is refused is no act: nothing of it is written together with what was done.
                Entry { class, kind, data: json!({"actor": actor, "what": what, "result": "done"}), ..self }
            }
            Class::Event | Class::Act => Entry { class, kind, data: what, ..self },
        }
    }
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
    /// By which credential, where it is one of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<TokenId>,
    /// How it was known who it is: `token`, `provider`, `certificate`; nothing for the control plane itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// From which address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// In which request somebody asked, and from where; nothing of either for the control plane itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RequestOrigin {
    /// In which request.
    pub request: Option<RequestId>,
    /// From which address; that of a proxy, where one is between.
    pub source: Option<IpAddr>,
}

impl Actor {
    /// The control plane itself.
    pub fn system() -> Actor {
        let (request, credential, method, source) = (None, None, None, None);
        Actor { principal: PrincipalId::SYSTEM, role: "system".into(), request, credential, method, source }
    }

    /// A node, known by its certificate or by the token with which it joins.
    pub fn node(node: NodeId, method: &str) -> Actor {
        let (principal, method) = (PrincipalId(node.0), Some(method.to_owned()));
        Actor { principal, role: "node".into(), method, ..Actor::system() }
    }

    /// The same, in this request.
    #[must_use]
    pub fn within(self, RequestOrigin { request, source }: RequestOrigin) -> Actor {
        Actor { request, source, ..self }
    }
}
