//! `inventory.refresh`: a node looks at everything on its host and tells the server at once. It changes nothing there.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Turn};
use crate::{error::Refusal, id::VmId, retry::RetryPolicy};

/// The kind.
#[derive(Debug)]
pub struct InventoryRefresh;

/// Nothing needs to be said; `target.node` names the node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InventoryRefreshParams {}

/// What was found.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct InventoryRefreshOutput {
    /// Whether this is everything: false while something on the host could not be looked at.
    pub full: bool,
    /// How many machines there are.
    pub machines: usize,
    /// The machines by their state.
    pub states: BTreeMap<String, usize>,
    /// Machines that nobody had known of before this look.
    pub found: Vec<VmId>,
    /// Machines that the server does not know, or knows as deleted: they are reported, never deleted by themselves.
    pub orphans: Vec<VmId>,
}

impl Kind for InventoryRefresh {
    const NAME: &'static str = "inventory.refresh";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::PlatformAdmin;
    const SCOPE: Scope = Scope::NodeWrite;
    const AIM: Aim = Aim::Node;
    const TURN: Turn = Turn::None;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Rerun;
    const RETRY: RetryPolicy = RetryPolicy::linear(3, 2, 10);
    const RETRY_WHY: &'static str =
        "A look at a host is as good a moment later, and the next heartbeat tells the same.";
    const TIMEOUT: Duration = Duration::from_secs(120);

    type Params = InventoryRefreshParams;
    type Output = InventoryRefreshOutput;

    fn fill(params: InventoryRefreshParams, _: &FillContext<'_>) -> Result<InventoryRefreshParams, Refusal> {
        Ok(params)
    }
}
