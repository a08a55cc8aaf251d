//! Who was let in, and what those who are known were refused.

use hostler_model::{Code, TenantId, Timestamp, event::Actor};

/// What a known caller was refused, so many times.
#[derive(Clone, Debug)]
pub struct Denied {
    /// Who.
    pub actor: Actor,
    /// Of which tenant.
    pub tenant: Option<TenantId>,
    /// What.
    pub route: String,
    /// How it was refused.
    pub code: Code,
    /// How often.
    pub count: u64,
}

/// Somebody whom an identity provider sent, and who was believed.
#[derive(Clone, Debug)]
pub struct Login {
    /// Who that is here, and by what it was known.
    pub actor: Actor,
    /// Of which tenant.
    pub tenant: Option<TenantId>,
    /// The provider.
    pub issuer: String,
    /// Who that is there.
    pub subject: String,
    /// How long the provider's word is good.
    pub until: Option<Timestamp>,
}
