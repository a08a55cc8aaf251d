//! Tokens by which people and programs call, the service accounts that some are for, and what may be granted to one.
//!
//! ```text
//! a person's own      personal: it stands for whoever made it
//! a service account's for a program: it stands for the account, which has a role of its own
//! ```
//!
//! A token grants nothing that its maker's credential does not have. The server keeps its hash, and shows it once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    caller::{Audience, Caller},
    clock::Timestamp,
    error::{Code, Refusal},
    id::{PrincipalId, TenantId, TokenId},
    name::Name,
    role::Role,
    scope::Scopes,
};

/// How long a token is good where nothing is said.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long one may be good at most: whoever leaves is found out once a year.
pub const LONGEST_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);
/// How many characters a label may have.
const LABEL: usize = 100;

/// How a token is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenFormat {
    /// `hos_` and a secret, which says nothing to whoever sees it.
    #[default]
    Opaque,
    /// A JWT (RFC 9068) signed by this server's issuer, which others can read and verify by the published keys.
    Jwt,
}

impl TokenFormat {
    /// As the store spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TokenFormat::Opaque => "opaque",
            TokenFormat::Jwt => "jwt",
        }
    }
}

/// A token that is asked for. What is left out is as the maker's own credential has it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewToken {
    /// What it is for, in words.
    #[schema(min_length = 1, max_length = 100)]
    pub label: String,
    /// The service account that it is for, by name; without one it stands for whoever makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub service_account: Option<Name>,
    /// As what, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// For whose work: the platform's only where the role is platform-admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Audience>,
    /// Narrowed to what, such as `vm:read`.
    #[serde(default, skip_serializing_if = "Scopes::are_all")]
    #[schema(value_type = Option<Vec<String>>)]
    pub scopes: Scopes,
    /// How long it is good, in seconds; 30 days where nothing is said, 366 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31622400)]
    pub expires_in_seconds: Option<u64>,
    /// How it is written.
    #[serde(default)]
    pub format: TokenFormat,
}

/// A token as it is told: never itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// What it is for, in words.
    pub label: String,
    /// Whom it stands for.
    pub principal: PrincipalId,
    /// The service account's name, where it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub service_account: Option<Name>,
    /// For whose work.
    pub audience: Audience,
    /// Of which tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// As what, at most.
    pub role: Role,
    /// Narrowed to what; absent: nothing.
    #[serde(default, skip_serializing_if = "Scopes::are_all")]
    #[schema(value_type = Option<Vec<String>>)]
    pub scopes: Scopes,
    /// How it is written.
    pub format: TokenFormat,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: PrincipalId,
    /// With which token, where it was one of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_with: Option<TokenId>,
    /// Until when it is good; absent for the one in a server's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Since when it no longer is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl Token {
    /// Whether it lets anybody in now.
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|until| until > now)
    }
}

/// A token, the one time that it is shown.
#[derive(Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IssuedToken {
    /// The token.
    pub token: String,
    /// What it is.
    pub about: Token,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken").field("about", &self.about).finish_non_exhaustive()
    }
}

/// A program's account in a tenant.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ServiceAccount {
    /// Its id.
    pub id: PrincipalId,
    /// Whose.
    pub tenant: TenantId,
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// What its tokens may be at most.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: PrincipalId,
}

/// A service account that is asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewServiceAccount {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// What its tokens may be at most.
    pub role: Role,
}

/// How one logs in here: `GET /login`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoginWays {
    /// An identity provider, where people log in by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<LoginByOidc>,
}

/// An identity provider by which people log in, with the device flow (RFC 8628).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoginByOidc {
    /// Its issuer: its discovery document is below.
    pub issuer: String,
    /// The client that the command line is there.
    pub client_id: String,
}

/// Who a credential says that one is: `GET /whoami`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Whoami {
    /// Who.
    pub principal: PrincipalId,
    /// The service account's name, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub service_account: Option<Name>,
    /// By which token of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// For whose work.
    pub audience: Audience,
    /// Of which tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// As what it counts.
    pub role: Role,
    /// Narrowed to what; absent: nothing.
    #[serde(default, skip_serializing_if = "Scopes::are_all")]
    #[schema(value_type = Option<Vec<String>>)]
    pub scopes: Scopes,
    /// Until when the credential is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Whom a new token stands for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Holder<'a> {
    /// Whoever makes it.
    Maker,
    /// A service account.
    Account(&'a ServiceAccount),
}

/// What a maker's credential grants to a new token, or why it does not.
///
/// # Errors
/// `FORBIDDEN` where more is asked than the maker or the account has; `VALIDATION_ERROR` where it makes no sense.
pub fn grant(
    maker: &Caller,
    tenant: Option<TenantId>,
    holder: Holder<'_>,
    new: &NewToken,
    now: Timestamp,
) -> Result<Caller, Refusal> {
    if new.label.trim().is_empty() || new.label.chars().count() > LABEL || new.label.chars().any(char::is_control) {
        return Err(Refusal::field("label", format!("1 to {LABEL} characters that say what the token is for")));
    }
    let (principal, most) = match holder {
        Holder::Maker => (maker.principal, maker.role()),
        Holder::Account(account) => (account.id, account.role),
    };
    let role = new.role.unwrap_or(most.min(maker.role()));
    if role > most || role > maker.role() {
        let detail = format!("a token cannot have more than the role {}; you asked for {role}", most.min(maker.role()));
        return Err(Refusal::new(Code::Forbidden, detail)
            .with("needed_role", role.as_str())
            .with("role", maker.role().as_str()));
    }
    let audience = new.audience.unwrap_or(Audience::of(role));
    if audience == Audience::Admin && role < Role::PlatformAdmin {
        return Err(Refusal::field("audience", format!("admin goes with the role platform-admin, not with {role}")));
    }
    let scopes = match &new.scopes {
        Scopes::All => maker.scopes.clone(),
        Scopes::Only(_) if new.scopes.within(&maker.scopes) => new.scopes.clone(),
        Scopes::Only(_) => {
            let detail = "a token cannot be wider than the credential that makes it";
            let has = maker.scopes.words().unwrap_or_default();
            return Err(Refusal::new(Code::Forbidden, detail).with("scopes", has));
        }
    };
    let expires_at = Some(end(maker, new, now)?);
    Ok(Caller { principal, token: None, audience, tenant, role, scopes, expires_at })
}

/// Until when it is good: with a token of ours nobody makes one that outlives it.
fn end(maker: &Caller, new: &NewToken, now: Timestamp) -> Result<Timestamp, Refusal> {
    let most = maker.token.and(maker.expires_at);
    let Some(seconds) = new.expires_in_seconds else {
        let usual = now.plus(DEFAULT_LIFE);
        return Ok(most.map_or(usual, |most| most.min(usual)));
    };
    if seconds == 0 || seconds > LONGEST_LIFE.as_secs() {
        let longest = LONGEST_LIFE.as_secs();
        return Err(Refusal::field("expires_in_seconds", format!("{seconds} is not between 1 and {longest}")));
    }
    let asked = now.plus(Duration::from_secs(seconds));
    match most.filter(|most| asked > *most) {
        Some(most) => Err(Refusal::field(
            "expires_in_seconds",
            format!("your own token is good until {most} and makes none that outlives it"),
        )),
        None => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{caller::Access, scope::Scope};

    fn now() -> Timestamp {
        Timestamp::from_micros(1_760_000_000_000_000)
    }

    fn maker(audience: Audience, role: Role, scopes: Scopes) -> Caller {
        let token = Some(TokenId(uuid::Uuid::nil()));
        Caller { audience, scopes, token, ..Caller::new(PrincipalId::SYSTEM, TenantId::DEFAULT, role) }
    }

    fn asked(role: Option<Role>, scopes: Scopes) -> NewToken {
        NewToken {
            label: "for a test".into(),
            service_account: None,
            role,
            audience: None,
            scopes,
            expires_in_seconds: None,
            format: TokenFormat::Opaque,
        }
    }

    fn account(role: Role) -> ServiceAccount {
        ServiceAccount {
            id: PrincipalId(uuid::Uuid::from_u128(7)),
            tenant: TenantId::DEFAULT,
            name: "ci".parse().unwrap(),
            role,
            created_at: now(),
            created_by: PrincipalId::SYSTEM,
        }
    }

    fn some_scopes() -> impl Strategy<Value = Scopes> {
        let few = proptest::collection::btree_set(proptest::sample::select(Scope::ALL.to_vec()), 0..4);
        prop_oneof![Just(Scopes::All), few.prop_map(Scopes::Only)]
    }

    fn role() -> impl Strategy<Value = Role> {
        proptest::sample::select(Role::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn a_token_may_nothing_that_its_maker_may_not(
            (own, of_account) in (role(), proptest::option::of(role())),
            audience in proptest::sample::select(Audience::ALL.to_vec()),
            (has, wants) in (some_scopes(), some_scopes()),
            wanted in proptest::option::of(role()),
        ) {
            let maker = maker(audience, own, has);
            let account = of_account.map(account);
            let holder = account.as_ref().map_or(Holder::Maker, Holder::Account);
            if let Ok(made) = grant(&maker, maker.tenant, holder, &asked(wanted, wants), now()) {
                for scope in Scope::ALL {
                    for access in [Access::Admin { scope: *scope }].into_iter().chain(
                        Role::ALL.map(|from| Access::Tenant { from, scope: *scope }),
                    ) {
                        prop_assert!(made.may(access).is_err() || maker.may(access).is_ok(), "{access:?}");
                    }
                }
                prop_assert!(of_account.is_none_or(|most| made.role <= most));
                prop_assert!(!made.is_global() || maker.is_global());
            }
        }
    }

    #[test]
    fn what_is_left_out_is_as_the_maker_has_it() {
        let narrow = Scopes::of_words(Some("vm:write token:write"));
        let made = grant(
            &maker(Audience::Tenant, Role::Operator, narrow.clone()),
            None,
            Holder::Maker,
            &asked(None, Scopes::All),
            now(),
        );
        let made = made.unwrap();
        assert_eq!((made.role, made.scopes, made.expires_at), (Role::Operator, narrow, Some(now().plus(DEFAULT_LIFE))));
    }

    #[test]
    fn no_token_outlives_the_one_that_makes_it() {
        let soon = now().plus(Duration::from_secs(60));
        let short = Caller { expires_at: Some(soon), ..maker(Audience::Tenant, Role::Operator, Scopes::All) };
        let ask = |seconds| NewToken { expires_in_seconds: seconds, ..asked(None, Scopes::All) };
        let end = |maker: &Caller, seconds| {
            grant(maker, None, Holder::Maker, &ask(seconds), now()).map(|made| made.expires_at)
        };
        assert_eq!(end(&short, None).unwrap(), Some(soon));
        assert_eq!(end(&short, Some(60)).unwrap(), Some(soon));
        assert_eq!(end(&short, Some(61)).unwrap_err().facts["field"], "expires_in_seconds");
        // What somebody else issued is a login; what is made with it is good as long as it says.
        let login = Caller { token: None, ..short };
        assert_eq!(end(&login, Some(61)).unwrap(), Some(now().plus(Duration::from_secs(61))));
        assert!(end(&login, Some(LONGEST_LIFE.as_secs() + 1)).is_err());
    }
}
