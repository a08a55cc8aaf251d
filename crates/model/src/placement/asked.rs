//! Where a machine may go, as whoever asks for it says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{edit::check_labels, error::Refusal, name::Name};

/// Where a machine may go, beside a node that is named. It is decided when the machine is made, and stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Placement {
    /// Labels that its node must have, each with this value: at most 64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// A group of the tenant's machines no two of which share a node, by any name; a machine in no group shares its node
    /// with all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<Name>,
}

impl Placement {
    /// Whether any node will do.
    pub fn is_any(&self) -> bool {
        *self == Placement::default()
    }

    /// Refuses labels that are too many or too long.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        check_labels("placement.labels", &self.labels)
    }
}
