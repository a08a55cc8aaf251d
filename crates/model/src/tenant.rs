//! A tenant: whose things are whose, and how much they may be.

use serde::{Deserialize, Serialize};

use crate::{book::Book, id::TenantId, name::Name, unit::Resources};

/// A tenant as the store has it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: Name,
    /// How much it may have; -1 is no limit.
    pub limits: Resources,
    /// How much it has.
    pub book: Book,
}

/// No limits at all.
pub const UNLIMITED: Resources = Resources { vcpus: -1, memory_mib: -1, disk_gib: -1, vms: -1 };
