//! What goes into the steps that change tenants.

use hostler_model::{
    NodeId, ReservationId, TenantId, VmId,
    event::Actor,
    name::Name,
    reservation::{NewReservation, Reservation},
    tenant::{Limits, Tenant, TenantPatch},
};

use super::Idempotency;

/// Amounts to be held for a tenant by hand.
#[derive(Clone, Debug)]
pub struct NewReservationRow {
    /// Its id, made beforehand.
    pub id: ReservationId,
    /// For whom.
    pub tenant: TenantId,
    /// What is asked for.
    pub asked: NewReservation,
    /// The caller's key, if it sent one.
    pub idempotency: Option<Idempotency>,
    /// Answer as if, and write nothing.
    pub dry_run: bool,
    /// Who asks.
    pub actor: Actor,
}

/// Amounts that are held, now or since before under the same key.
#[derive(Clone, Debug)]
pub struct MadeReservation {
    /// The reservation as it was made.
    pub reservation: Reservation,
    /// Whether this is the first answer once more.
    pub replayed: bool,
}

/// A tenant to be.
#[derive(Clone, Debug)]
pub struct NewTenantRow {
    /// Its id, made beforehand.
    pub id: TenantId,
    /// Its name.
    pub name: Name,
    /// How much it may have.
    pub limits: Limits,
    /// The caller's key, if it sent one.
    pub idempotency: Option<Idempotency>,
    /// Answer as if, and write nothing.
    pub dry_run: bool,
    /// Who asks.
    pub actor: Actor,
}

/// A tenant that was made, now or before under the same key.
#[derive(Clone, Debug)]
pub struct MadeTenant {
    /// The tenant as it was when it was made.
    pub tenant: Tenant,
    /// Whether this is the first answer once more.
    pub replayed: bool,
}

/// A machine on a host that no record knows and that is to be a tenant's.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// On which node.
    pub node: NodeId,
    /// Which.
    pub vm: VmId,
    /// For whom.
    pub tenant: TenantId,
    /// What it is to be called; what it was called, where nothing is said.
    pub name: Option<Name>,
    /// Who asks.
    pub actor: Actor,
}

/// A change of a tenant.
#[derive(Clone, Debug)]
pub struct EditTenant {
    /// Which.
    pub tenant: TenantId,
    /// What changes.
    pub patch: TenantPatch,
    /// What the server gives new tenants.
    pub usual: Limits,
    /// The generations that it may have; `None`: any.
    pub if_match: Option<Vec<u32>>,
    /// Answer as if, and write nothing.
    pub dry_run: bool,
    /// Who asks.
    pub actor: Actor,
}
