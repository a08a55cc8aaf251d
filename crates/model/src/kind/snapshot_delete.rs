//! `snapshot.delete`: removes a snapshot, and ends when the machine's disk is flat: the snapshot's layer is part of the one
//! that stands on it. That may take minutes, so it leaves its turn to whatever else is asked of the machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admission, Aim, Class, FillContext, Kind, OnRemains, OnUncertain, Role, Scope, Turn};
use crate::{
    error::{Code, Refusal},
    id::SnapshotId,
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
    /// Whether its layer stays on the node's disk, because several snapshots, or one and the machine, stand on it.
    #[serde(default)]
    pub layer_kept: bool,
    /// How much of the disk each of the machine's snapshots answers for now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<SnapshotShare>,
}

/// What a snapshot has of the disk of its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SnapshotShare {
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// Its layer, and what below that is no other's, in bytes.
    pub disk_bytes: i64,
}

impl Kind for SnapshotDelete {
    const NAME: &'static str = "snapshot.delete";
    // It moves bytes, but a node copies for one at a time and the others only wait: they are not to keep the few slots of
    // those that move bytes from images and disks.
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::SnapshotWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Shared;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    // What is left is a layer that is still to be copied: whoever deletes it again goes on from there.
    const ON_REMAINS: OnRemains = OnRemains::GoOn;
    const RETRY: RetryPolicy = RetryPolicy::exponential(5, 5, 120);
    const RETRY_WHY: &'static str = "Nobody waits for it, and until it is done its room stays charged.";
    const TIMEOUT: Duration = Duration::from_secs(6 * 3600);
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
