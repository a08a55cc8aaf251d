//! `snapshot.delete`: removes a snapshot. Its layer of the disk goes when nothing stands on it any more.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Turn};
use crate::{
    error::{Code, Refusal},
    retry::RetryPolicy,
    snapshot::Use,
    vm::VmState,
};

/// The kind.
#[derive(Debug)]
pub struct SnapshotDelete;

/// What to delete.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SnapshotDeleteParams {
    /// The snapshot, by id or by its name among the target machine's.
    pub snapshot: String,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SnapshotDeleteOutput {
    /// Whether the node had anything of it.
    pub existed: bool,
    /// Whether its layer stays on the node's disk for now, because the machine or another snapshot stands on it.
    #[serde(default)]
    pub layer_kept: bool,
}

impl Kind for SnapshotDelete {
    const NAME: &'static str = "snapshot.delete";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const RETRY: RetryPolicy = RetryPolicy::exponential(5, 5, 120);
    const RETRY_WHY: &'static str = "Nobody waits for it, and until it is done its room stays charged.";
    const TIMEOUT: Duration = Duration::from_secs(120);
    const SNAPSHOT: Use = Use::Remove;

    type Params = SnapshotDeleteParams;
    type Output = SnapshotDeleteOutput;

    fn fill(params: SnapshotDeleteParams, _: &FillContext<'_>) -> Result<SnapshotDeleteParams, Refusal> {
        if params.snapshot.is_empty() {
            return Err(Refusal::field("snapshot", "name the snapshot, by its name or id"));
        }
        Ok(params)
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Running | VmState::Paused | VmState::Stopped | VmState::Sleeping | VmState::Error => Admission::Go,
            VmState::Provisioning | VmState::Unknown | VmState::Deleted => {
                Admission::Refuse(Code::VmStateConflict, format!("the VM is {vm}; its snapshots cannot be changed"))
            }
        }
    }
}
