//! Who calls, and what a route asks of a caller: values, and the one function that compares them.
//!
//! ```text
//! Caller   audience · role · scopes, and whose: a tenant, or nobody's in particular
//! Access   anyone │ whoever is known │ a role in a tenant, and a scope │ the platform's, and a scope
//! ```
//!
//! The role `platform-admin` counts only in a credential whose audience is `admin`: one that was made for a tenant's work
//! never reaches the platform's. Never here: how a credential is read.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    error::{Code, Refusal, excerpt},
    id::{PrincipalId, TenantId, TokenId},
    role::Role,
    scope::{Scope, Scopes},
};

/// Whose work a credential was made for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// A tenant's.
    Tenant,
    /// The platform's.
    Admin,
}

impl Audience {
    /// Both.
    pub const ALL: [Audience; 2] = [Audience::Tenant, Audience::Admin];

    /// The one that a credential of this role is made for, where nothing else is asked.
    pub const fn of(role: Role) -> Audience {
        match role {
            Role::Viewer | Role::Operator | Role::TenantAdmin => Audience::Tenant,
            Role::PlatformAdmin => Audience::Admin,
        }
    }

    /// As people and claims spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Audience::Tenant => "tenant",
            Audience::Admin => "admin",
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Audience {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Audience, Refusal> {
        Audience::ALL.into_iter().find(|audience| audience.as_str() == text).ok_or_else(|| {
            let detail = format!("there is no audience {:?}; there are tenant and admin", excerpt(text));
            Refusal::field("audience", detail)
        })
    }
}

/// Who calls, as the credential says.
#[derive(Clone, PartialEq, Debug)]
pub struct Caller {
    /// Who.
    pub principal: PrincipalId,
    /// By which credential of ours; none where somebody else issued it.
    pub token: Option<TokenId>,
    /// Whose work the credential was made for.
    pub audience: Audience,
    /// Of which tenant; a platform's administrator may be of none.
    pub tenant: Option<TenantId>,
    /// As what, at most.
    pub role: Role,
    /// Narrowed to what.
    pub scopes: Scopes,
    /// Until when the credential is good.
    pub expires_at: Option<Timestamp>,
}

impl Caller {
    /// Narrowed to nothing, without an end, and made for the work of its role.
    pub fn new(principal: PrincipalId, tenant: TenantId, role: Role) -> Caller {
        let audience = Audience::of(role);
        let (token, tenant) = (None, Some(tenant));
        Caller { principal, token, audience, tenant, role, scopes: Scopes::All, expires_at: None }
    }

    /// As what this caller counts.
    pub fn role(&self) -> Role {
        match self.audience {
            Audience::Tenant => self.role.min(Role::TenantAdmin),
            Audience::Admin => self.role,
        }
    }

    /// Whether this caller answers for the platform, and so for every tenant.
    pub fn is_global(&self) -> bool {
        self.role() == Role::PlatformAdmin
    }

    /// Refuses a caller that a route is not for, and says what is missing.
    ///
    /// # Errors
    /// `FORBIDDEN`, with what is needed and what the credential has.
    pub fn may(&self, access: Access) -> Result<(), Refusal> {
        let (from, scope) = match access {
            Access::Anyone | Access::Known => return Ok(()),
            Access::Tenant { from, scope } => (from, scope),
            Access::Admin { scope } => (Role::PlatformAdmin, scope),
        };
        if self.role() < from {
            return Err(self.lesser(from));
        }
        if !self.scopes.allow(scope) {
            let detail = format!("this needs the scope {scope}, and the credential is narrowed to others");
            let scopes = self.scopes.words().unwrap_or_default();
            return Err(Refusal::new(Code::Forbidden, detail)
                .with("needed_scope", scope.as_str())
                .with("scopes", scopes));
        }
        Ok(())
    }

    fn lesser(&self, needed: Role) -> Refusal {
        let detail = if self.role >= needed {
            format!("this needs the audience admin; the credential was made for the audience {}", self.audience)
        } else {
            format!("this needs the role {needed}; the credential has {}", self.role)
        };
        Refusal::new(Code::Forbidden, detail)
            .with("needed_role", needed.as_str())
            .with("role", self.role.as_str())
            .with("audience", self.audience.as_str())
    }
}

/// Who may call a route, or ask for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// No credential is needed.
    Anyone,
    /// Any credential that is good.
    Known,
    /// A tenant's work: this role or one above it, whose credential is not narrowed to other scopes. Either audience.
    Tenant {
        /// The least role.
        from: Role,
        /// The scope.
        scope: Scope,
    },
    /// The platform's work: the audience admin and the role platform-admin, with this scope.
    Admin {
        /// The scope.
        scope: Scope,
    },
}

impl Access {
    /// The scope that is asked for.
    pub const fn scope(self) -> Option<Scope> {
        match self {
            Access::Anyone | Access::Known => None,
            Access::Tenant { scope, .. } | Access::Admin { scope } => Some(scope),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caller(audience: Audience, role: Role, scopes: Scopes) -> Caller {
        Caller {
            principal: PrincipalId::SYSTEM,
            token: None,
            audience,
            tenant: Some(TenantId::DEFAULT),
            role,
            scopes,
            expires_at: None,
        }
    }

    fn one_of<T: Clone + fmt::Debug + 'static>(all: &[T]) -> impl Strategy<Value = T> {
        proptest::sample::select(all.to_vec())
    }

    fn any_access() -> impl Strategy<Value = Access> {
        prop_oneof![
            Just(Access::Known),
            (one_of(&Role::ALL), one_of(Scope::ALL)).prop_map(|(from, scope)| Access::Tenant { from, scope }),
            one_of(Scope::ALL).prop_map(|scope| Access::Admin { scope }),
        ]
    }

    proptest! {
        #[test]
        fn what_a_caller_may_one_with_more_may_too(
            access in any_access(),
            (role, more) in (one_of(&Role::ALL), one_of(&Role::ALL)),
            (audience, scope) in (one_of(&Audience::ALL), one_of(Scope::ALL)),
        ) {
            let narrow = Scopes::Only([scope].into());
            let may = caller(audience, role, narrow.clone()).may(access).is_ok();
            let better = role.max(more);
            prop_assert!(!may || caller(audience, better, narrow.clone()).may(access).is_ok());
            prop_assert!(!may || caller(Audience::Admin, role, narrow).may(access).is_ok());
            prop_assert!(!may || caller(audience, role, Scopes::All).may(access).is_ok());
        }

        #[test]
        fn a_tenants_credential_never_does_the_platforms_work(role in one_of(&Role::ALL), scope in one_of(Scope::ALL)) {
            let caller = caller(Audience::Tenant, role, Scopes::All);
            prop_assert!(!caller.is_global());
            prop_assert_eq!(caller.may(Access::Admin { scope }).unwrap_err().code, Code::Forbidden);
        }

        #[test]
        fn a_scope_that_is_missing_is_missed_by_every_role(role in one_of(&Role::ALL), scope in one_of(Scope::ALL)) {
            let caller = caller(Audience::Admin, role, Scopes::Only([].into()));
            for access in [Access::Tenant { from: Role::Viewer, scope }, Access::Admin { scope }] {
                prop_assert!(caller.may(access).is_err());
            }
        }
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let refused = |audience, role, scopes| {
            caller(audience, role, scopes).may(Access::Admin { scope: Scope::NodeWrite }).unwrap_err()
        };
        let role = refused(Audience::Admin, Role::Operator, Scopes::All);
        assert_eq!(
            (role.facts["needed_role"].as_str(), role.facts["role"].as_str()),
            (Some("platform-admin"), Some("operator"))
        );
        let audience = refused(Audience::Tenant, Role::PlatformAdmin, Scopes::All);
        assert!(audience.detail.contains("audience admin"), "{}", audience.detail);
        let scope = refused(Audience::Admin, Role::PlatformAdmin, Scopes::of_words(Some("node:read")));
        assert_eq!(scope.facts["needed_scope"], "node:write");
    }
}
