//! How much may be promised on a node: more than what is there, or less.

use serde::{Deserialize, Serialize};

use crate::{error::Refusal, patch::Patch, unit::Resources};

/// How much of what is there may be promised, in percent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overcommit {
    /// Processors; 400 by default.
    pub vcpus_percent: u32,
    /// Memory; 100 by default.
    pub memory_percent: u32,
    /// Disk; 100 by default.
    pub disk_percent: u32,
}

impl Default for Overcommit {
    fn default() -> Self {
        Overcommit { vcpus_percent: 400, memory_percent: 100, disk_percent: 100 }
    }
}

impl Overcommit {
    /// The least that may be promised, in percent of what is there: a hundredth.
    pub const LEAST: u32 = 1;
    /// The most: a hundred times as much.
    pub const MOST: u32 = 10_000;

    /// What may be promised on a node of this capacity. The number of machines is as the agent says.
    pub fn schedulable(&self, capacity: &Resources) -> Resources {
        let of = |amount: i64, percent: u32| amount.saturating_mul(i64::from(percent)) / 100;
        Resources {
            vcpus: of(capacity.vcpus, self.vcpus_percent),
            memory_mib: of(capacity.memory_mib, self.memory_percent),
            disk_gib: of(capacity.disk_gib, self.disk_percent),
            vms: capacity.vms,
        }
    }

    /// Refuses shares out of bounds.
    ///
    /// # Errors
    /// With the name of the share.
    pub fn check(&self) -> Result<(), Refusal> {
        let each = [("vcpus", self.vcpus_percent), ("memory", self.memory_percent), ("disk", self.disk_percent)];
        each.into_iter().try_for_each(|(name, percent)| within(&format!("overcommit_{name}_percent"), percent))
    }

    /// As a node has it that says this of itself.
    #[must_use]
    pub fn with(self, own: &OwnOvercommit) -> Overcommit {
        Overcommit {
            vcpus_percent: own.vcpus_percent.unwrap_or(self.vcpus_percent),
            memory_percent: own.memory_percent.unwrap_or(self.memory_percent),
            disk_percent: own.disk_percent.unwrap_or(self.disk_percent),
        }
    }
}

/// How much may be promised on one node, in percent of what is there; what it does not say is as on all nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct OwnOvercommit {
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus_percent: Option<u32>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<u32>,
    /// Disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_percent: Option<u32>,
}

impl OwnOvercommit {
    /// Whether everything is as on all nodes.
    pub fn is_none(&self) -> bool {
        *self == OwnOvercommit::default()
    }
}

/// A merge patch of it: a null lets it be as on all nodes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct OvercommitPatch {
    /// Processors, 1 to 10,000.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000)]
    pub vcpus_percent: Patch<u32>,
    /// Memory, 1 to 10,000.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000)]
    pub memory_percent: Patch<u32>,
    /// Disk, 1 to 10,000.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000)]
    pub disk_percent: Patch<u32>,
}

impl OvercommitPatch {
    /// What a node says afterwards.
    pub(super) fn over(&self, own: OwnOvercommit) -> Result<OwnOvercommit, Refusal> {
        Ok(OwnOvercommit {
            vcpus_percent: percent("vcpus_percent", own.vcpus_percent, self.vcpus_percent)?,
            memory_percent: percent("memory_percent", own.memory_percent, self.memory_percent)?,
            disk_percent: percent("disk_percent", own.disk_percent, self.disk_percent)?,
        })
    }
}

fn percent(field: &str, before: Option<u32>, patch: Patch<u32>) -> Result<Option<u32>, Refusal> {
    match patch {
        Patch::Keep => Ok(before),
        Patch::Remove => Ok(None),
        Patch::Set(percent) => within(&format!("overcommit.{field}"), percent).map(|()| Some(percent)),
    }
}

fn within(field: &str, percent: u32) -> Result<(), Refusal> {
    if (Overcommit::LEAST..=Overcommit::MOST).contains(&percent) {
        return Ok(());
    }
    Err(Refusal::field(field, format!("{percent} is not between {} and {}", Overcommit::LEAST, Overcommit::MOST)))
}
