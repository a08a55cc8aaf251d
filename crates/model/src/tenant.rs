//! A tenant: whose things are whose, and how much they may be.

use serde::{Deserialize, Serialize};

use crate::{
    amounts::Amounts,
    book::Book,
    clock::Timestamp,
    error::{Code, Refusal},
    id::TenantId,
    name::Name,
    patch::Patch,
};

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// How much a tenant may have; -1 is no limit.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(default)]
        pub struct Limits {
            $($(#[$doc])* #[schema(minimum = -1)] pub $name: i64,)*
        }

        /// No limits at all.
        pub const UNLIMITED: Limits = Limits { $($name: -1),* };

        /// Limits that are asked for: what is not named stays, and null is what the server gives new tenants.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(default)]
        pub struct LimitsPatch {
            $(
                $(#[$doc])*
                #[serde(skip_serializing_if = "Patch::is_keep")]
                #[schema(value_type = Option<i64>, minimum = -1)]
                pub $name: Patch<i64>,
            )*
        }

        impl Limits {
            /// Each limit by its name.
            pub fn each(&self) -> Vec<(&'static str, i64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }

        impl LimitsPatch {
            /// The limits after it; `usual` is what the server gives new tenants.
            pub fn apply(&self, before: &Limits, usual: &Limits) -> Limits {
                let one = |patch: Patch<i64>, before, usual| match patch {
                    Patch::Keep => before,
                    Patch::Remove => usual,
                    Patch::Set(limit) => limit,
                };
                Limits { $($name: one(self.$name, before.$name, usual.$name)),* }
            }
        }

        impl From<Limits> for LimitsPatch {
            /// These and no others.
            fn from(limits: Limits) -> LimitsPatch {
                LimitsPatch { $($name: Patch::Set(limits.$name)),* }
            }
        }
    };
}

limits! {
    /// Virtual processors.
    vcpus;
    /// Memory, in MiB.
    memory_mib;
    /// Disk, in GiB: of machines and their snapshots.
    disk_gib;
    /// Machines.
    vms;
    /// Machines that run, or are about to.
    running_vms;
    /// Snapshots.
    snapshots;
    /// Images, in GiB.
    images_gib;
}

impl Default for Limits {
    fn default() -> Self {
        UNLIMITED
    }
}

impl Limits {
    /// Those of what is in the book: images are no part of it, they are looked at when one comes.
    pub const fn amounts(&self) -> Amounts {
        let Limits { vcpus, memory_mib, disk_gib, vms, running_vms, snapshots, images_gib: _ } = *self;
        Amounts { vcpus, memory_mib, disk_gib, vms, running_vms, snapshots }
    }

    /// Refuses what is no limit.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` for a number below -1.
    pub fn check(&self) -> Result<(), Refusal> {
        match self.each().into_iter().find(|(_, limit)| *limit < -1) {
            Some((name, limit)) => {
                let detail = format!("{limit} is no limit; it is 0 or more, or -1 for none");
                Err(Refusal::field(&format!("limits.{name}"), detail))
            }
            None => Ok(()),
        }
    }
}

/// A tenant.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// How much it may have.
    pub limits: Limits,
    /// How much it has.
    pub book: Book,
    /// How often its name or limits were written: its `ETag`.
    pub generation: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its name or limits were last changed.
    pub updated_at: Timestamp,
}

impl Tenant {
    /// A tenant that has nothing yet.
    pub fn new(id: TenantId, name: Name, limits: Limits, now: Timestamp) -> Tenant {
        Tenant { id, name, limits, book: Book::default(), generation: 1, created_at: now, updated_at: now }
    }

    /// Refuses a generation that is not the one there is; `None`: any will do.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED`, with both.
    pub fn check_generation(&self, if_match: Option<&[u32]>) -> Result<(), Refusal> {
        if if_match.is_none_or(|wanted| wanted.contains(&self.generation)) {
            return Ok(());
        }
        let detail = format!(
            "the tenant {} was changed meanwhile: it is of generation {}; read it again, then change it",
            self.name, self.generation
        );
        Err(Refusal::new(Code::PreconditionFailed, detail)
            .with("tenant", self.id.to_string())
            .with("generation", self.generation))
    }
}

/// A new tenant: `POST /tenants`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewTenant {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// How much it may have; as the server gives new tenants where nothing is said.
    #[serde(default)]
    pub limits: LimitsPatch,
}

/// A change of a tenant: `PATCH /tenants/{tenant}`. What is not named stays.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct TenantPatch {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<Name>,
    /// How much it may have. Below what it has nothing is taken away; it can only not grow.
    pub limits: LimitsPatch,
}

impl TenantPatch {
    /// The tenant after it; as it was where nothing differs.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` for what is no limit.
    pub fn apply(&self, before: &Tenant, usual: &Limits, now: Timestamp) -> Result<Tenant, Refusal> {
        let limits = self.limits.apply(&before.limits, usual);
        limits.check()?;
        let name = self.name.clone().unwrap_or_else(|| before.name.clone());
        if (&name, &limits) == (&before.name, &before.limits) {
            return Ok(before.clone());
        }
        Ok(Tenant { name, limits, generation: before.generation + 1, updated_at: now, ..before.clone() })
    }
}

impl From<Limits> for TenantPatch {
    /// These limits, and the name that it has.
    fn from(limits: Limits) -> TenantPatch {
        TenantPatch { name: None, limits: limits.into() }
    }
}

/// What a tenant has, by what it is called: while there is any, it cannot be deleted.
pub type Remains = std::collections::BTreeMap<String, i64>;

/// Refuses to delete a tenant that has something, or that the server itself is of.
///
/// # Errors
/// `TENANT_IN_USE`, with how many of what remain.
pub fn check_deletable(tenant: &Tenant, remains: &Remains) -> Result<(), Refusal> {
    let refuse = |detail: String| Refusal::new(Code::TenantInUse, detail).with("tenant", tenant.id.to_string());
    if tenant.id == TenantId::DEFAULT {
        let detail =
            "the default tenant is there as long as the server is: what is shipped and what is configured is its";
        return Err(refuse(detail.to_owned()));
    }
    let left: Remains = remains.iter().filter(|(_, count)| **count > 0).map(|(noun, n)| (noun.clone(), *n)).collect();
    if left.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = left.iter().map(|(noun, count)| format!("{count} {}", noun.replace('_', " "))).collect();
    let detail = format!("the tenant {} still has {}; delete or revoke them first", tenant.name, words.join(", "));
    Err(refuse(detail).with("remains", serde_json::json!(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> Tenant {
        let id = TenantId(uuid::Uuid::from_u128(7));
        Tenant::new(id, "acme".parse().unwrap(), UNLIMITED, Timestamp::from_micros(1))
    }

    fn patched(patch: serde_json::Value, usual: Limits) -> Result<Tenant, Refusal> {
        let patch: TenantPatch = serde_json::from_value(patch).unwrap();
        patch.apply(&tenant(), &usual, Timestamp::from_micros(2))
    }

    #[test]
    fn what_is_not_named_stays_and_null_is_the_servers_word() {
        let usual = Limits { vms: 10, ..UNLIMITED };
        let after = patched(serde_json::json!({"limits": {"vcpus": 4, "vms": null}}), usual).unwrap();
        assert_eq!(after.limits, Limits { vcpus: 4, vms: 10, ..UNLIMITED });
        assert_eq!((after.generation, after.updated_at.as_micros(), after.name.as_str()), (2, 2, "acme"));
        assert_eq!(patched(serde_json::json!({"name": "acme", "limits": {"vcpus": -1}}), usual).unwrap(), tenant());
    }

    #[test]
    fn a_limit_is_a_number_or_none() {
        let refused = patched(serde_json::json!({"limits": {"images_gib": -2}}), UNLIMITED).unwrap_err();
        assert_eq!(refused.facts["field"], "limits.images_gib");
    }

    #[test]
    fn a_tenant_that_has_something_stays_and_says_what() {
        let remains = Remains::from([("vms".into(), 3), ("tokens".into(), 0), ("open_tasks".into(), 1)]);
        let refused = check_deletable(&tenant(), &remains).unwrap_err();
        assert!(refused.detail.contains("1 open tasks, 3 vms"), "{}", refused.detail);
        assert_eq!(refused.facts["remains"], serde_json::json!({"vms": 3, "open_tasks": 1}));
        assert!(check_deletable(&tenant(), &Remains::from([("vms".into(), 0)])).is_ok());
        let default = Tenant { id: TenantId::DEFAULT, ..tenant() };
        assert_eq!(check_deletable(&default, &Remains::new()).unwrap_err().code, Code::TenantInUse);
    }

    #[test]
    fn a_generation_that_passed_is_refused() {
        assert!(tenant().check_generation(None).is_ok() && tenant().check_generation(Some(&[1, 2])).is_ok());
        assert_eq!(tenant().check_generation(Some(&[2])).unwrap_err().code, Code::PreconditionFailed);
    }
}
