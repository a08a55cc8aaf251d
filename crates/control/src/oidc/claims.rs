//! From what a provider says of somebody to who that is here: which claim names the tenant, which the roles, and which
//! word of the provider's is which role.

use std::collections::{BTreeMap, BTreeSet};

use hostler_model::{
    PrincipalId, TenantId,
    caller::{Audience, Caller},
    error::excerpt,
    role::Role,
    scope::Scopes,
};
use hostler_trust::provider::Stated;
use serde_json::Value;

/// Which claims say what. A claim within another is named with dots, such as `realm_access.roles`.
#[derive(Clone, PartialEq, Debug)]
pub struct Mapping {
    /// The claim that names the tenant, by id or name.
    pub tenant: String,
    /// The claim with the roles: a list, or words with spaces between.
    pub roles: String,
    /// Which word is which role; where none is said, roles are called what they are called here.
    pub words: BTreeMap<String, Role>,
    /// The claim with scopes that narrow; where none is said, nothing does.
    pub scopes: Option<String>,
}

impl Default for Mapping {
    fn default() -> Self {
        Mapping { tenant: "tenant".to_owned(), roles: "roles".to_owned(), words: BTreeMap::new(), scopes: None }
    }
}

/// Who somebody is, as claimed; the tenant is still to be found.
#[derive(Clone, PartialEq, Debug)]
pub struct Claimed {
    /// The tenant, by id or name.
    pub tenant: Option<String>,
    /// As what: the highest role among those that are known.
    pub role: Role,
    /// Narrowed to what.
    pub scopes: Scopes,
}

impl Mapping {
    /// Reads claims.
    pub(super) fn read(&self, claims: &Value) -> Result<Claimed, String> {
        let said = words(claim(claims, &self.roles));
        let role = said.iter().filter_map(|word| self.role(word)).max().ok_or_else(|| {
            let said = excerpt(&said.into_iter().collect::<Vec<_>>().join(" "));
            let claim = &self.roles;
            format!(
                "the claim {claim} of your identity provider's token names no role that is known here: it is {said:?}"
            )
        })?;
        let tenant = claim(claims, &self.tenant).and_then(Value::as_str).filter(|text| !text.is_empty());
        if tenant.is_none() && role < Role::PlatformAdmin {
            return Err(format!("the claim {} of your identity provider's token names no tenant", self.tenant));
        }
        let scopes = match &self.scopes {
            None => Scopes::All,
            Some(path) => {
                let words: Vec<String> = words(claim(claims, path)).into_iter().collect();
                Scopes::of_words(Some(&words.join(" ")))
            }
        };
        Ok(Claimed { tenant: tenant.map(str::to_owned), role, scopes })
    }

    fn role(&self, word: &str) -> Option<Role> {
        if self.words.is_empty() { word.parse().ok() } else { self.words.get(word).copied() }
    }
}

/// A claim by its path. A claim whose own name has dots in it (such as an address) is found as it is.
fn claim<'a>(claims: &'a Value, path: &str) -> Option<&'a Value> {
    if let Some(whole) = claims.get(path) {
        return Some(whole);
    }
    path.split('.').try_fold(claims, |at, part| at.get(part))
}

fn words(claim: Option<&Value>) -> BTreeSet<String> {
    match claim {
        Some(Value::String(text)) => text.split_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => BTreeSet::new(),
    }
}

/// The caller that this is.
pub(super) fn caller(issuer: &str, stated: &Stated, claimed: &Claimed, tenant: Option<TenantId>) -> Caller {
    Caller {
        principal: PrincipalId::of_subject(issuer, &stated.subject),
        token: None,
        audience: Audience::of(claimed.role),
        tenant,
        role: claimed.role,
        scopes: claimed.scopes.clone(),
        expires_at: Some(stated.expires_at),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mapping(roles: &str, words: &[(&str, Role)]) -> Mapping {
        let words = words.iter().map(|(word, role)| ((*word).to_owned(), *role)).collect();
        Mapping { roles: roles.to_owned(), words, ..Mapping::default() }
    }

    /// The claims as well-known providers write them.
    #[test]
    fn roles_and_tenants_are_read_where_each_provider_has_them() {
        let keycloak = json!({"tenant": "acme", "realm_access": {"roles": ["offline_access", "operator", "viewer"]}});
        let entra = json!({"tenant": "acme", "roles": ["Hostler.Admin"], "groups": ["0a1b"]});
        let auth0 =
            json!({"tenant": "acme", "https://hostler.example.com/roles": ["viewer"], "scope": "openid profile"});
        let okta = json!({"tenant": "acme", "groups": ["Everyone", "hostler-ops"]});
        let words = json!({"tenant": "acme", "roles": "viewer tenant-admin"});
        for (mapping, claims, role) in [
            (mapping("realm_access.roles", &[]), keycloak, Role::Operator),
            (mapping("roles", &[("Hostler.Admin", Role::PlatformAdmin)]), entra, Role::PlatformAdmin),
            (mapping("https://hostler.example.com/roles", &[]), auth0, Role::Viewer),
            (mapping("groups", &[("hostler-ops", Role::Operator)]), okta, Role::Operator),
            (mapping("roles", &[]), words, Role::TenantAdmin),
        ] {
            let claimed = mapping.read(&claims).unwrap();
            assert_eq!((claimed.role, claimed.tenant.as_deref()), (role, Some("acme")), "{claims}");
            assert_eq!(claimed.scopes, Scopes::All);
        }
    }

    #[test]
    fn who_has_no_role_or_no_tenant_is_nobody_here() {
        let mapped = mapping("roles", &[("ops", Role::Operator)]);
        for claims in [
            json!({"tenant": "acme"}),
            json!({"tenant": "acme", "roles": []}),
            json!({"tenant": "acme", "roles": ["operator"]}),
            json!({"tenant": "acme", "roles": {"ops": true}}),
            json!({"roles": ["ops"]}),
            json!({"roles": ["ops"], "tenant": ""}),
            json!({"roles": ["ops"], "tenant": ["acme"]}),
        ] {
            assert!(mapped.read(&claims).is_err(), "{claims}");
        }
        let admin = mapping("roles", &[]).read(&json!({"roles": ["platform-admin"]})).unwrap();
        assert_eq!((admin.role, admin.tenant), (Role::PlatformAdmin, None));
    }

    #[test]
    fn scopes_narrow_where_a_claim_is_named_and_to_nothing_where_it_is_missing() {
        let mapping = Mapping { scopes: Some("scope".into()), ..Mapping::default() };
        let read = |claims: Value| mapping.read(&claims).unwrap().scopes;
        let with = |scope: Value| json!({"tenant": "a", "roles": ["viewer"], "scope": scope});
        assert_eq!(read(with(json!("openid vm:read"))), Scopes::of_words(Some("vm:read")));
        assert_eq!(read(with(Value::Null)), Scopes::Only(BTreeSet::new()));
    }

    #[test]
    fn somebody_is_the_same_each_time_and_nobody_else() {
        let one = PrincipalId::of_subject("https://a", "alice");
        assert_eq!(one, PrincipalId::of_subject("https://a", "alice"));
        for (issuer, subject) in [("https://a", "bob"), ("https://b", "alice"), ("https://aalice", "")] {
            assert_ne!(one, PrincipalId::of_subject(issuer, subject));
        }
    }
}
