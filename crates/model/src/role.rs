//! Roles: what somebody is to a tenant or to the platform, each with all that the ones before it may.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Refusal, excerpt};

/// What somebody may at most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Runs and changes machines.
    Operator,
    /// Answers for a tenant.
    TenantAdmin,
    /// Answers for the platform.
    PlatformAdmin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Operator, Role::TenantAdmin, Role::PlatformAdmin];

    /// The role as people and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::TenantAdmin => "tenant-admin",
            Role::PlatformAdmin => "platform-admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Role, Refusal> {
        Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let known = Role::ALL.map(Role::as_str).join(", ");
            Refusal::field("role", format!("there is no role {:?}; there are {known}", excerpt(text)))
        })
    }
}
