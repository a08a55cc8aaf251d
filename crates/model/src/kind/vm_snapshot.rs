//! `vm.snapshot`: takes a machine's disk, or its memory and its disk, as they are at one instant. The machine goes on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Turn};
use crate::{
    error::{Code, Refusal},
    id::SnapshotId,
    name::Name,
    retry::RetryPolicy,
    snapshot::Use,
    vm::VmState,
};

/// The kind.
#[derive(Debug)]
pub struct VmSnapshot;

/// What to take.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct VmSnapshotParams {
    /// The snapshot's name, unique among the machine's; made from its id where there is none.
    pub name: Option<Name>,
    /// Whether the memory is taken too: restored, the machine's programs go on where they were.
    pub memory: bool,
    /// Its id: filled in at submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmSnapshotOutput {
    /// The disk's layer, in bytes.
    pub disk_bytes: i64,
    /// The memory, in bytes; 0 where it was not taken.
    pub memory_bytes: i64,
    /// Whether the guest's file systems were held while the disk was taken; not said where the memory was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesced: Option<bool>,
    /// How long the machine's processors stood still, in milliseconds.
    pub paused_ms: f64,
}

impl Kind for VmSnapshot {
    const NAME: &'static str = "vm.snapshot";
    const CLASS: Class = Class::Disk;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::SnapshotWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const RETRY: RetryPolicy = RetryPolicy::exponential(3, 2, 30);
    const RETRY_WHY: &'static str = "A disk that is busy is not for long, and the moment that was meant passes.";
    const TIMEOUT: Duration = Duration::from_secs(600);
    const SNAPSHOT: Use = Use::Make;

    type Params = VmSnapshotParams;
    type Output = VmSnapshotOutput;

    fn fill(params: VmSnapshotParams, _: &FillContext<'_>) -> Result<VmSnapshotParams, Refusal> {
        // A repeat makes another snapshot.
        Ok(VmSnapshotParams { snapshot: None, ..params })
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Running | VmState::Paused | VmState::Stopped => Admission::Go,
            VmState::Provisioning | VmState::Sleeping | VmState::Error | VmState::Unknown | VmState::Deleted => {
                let detail = format!("the VM is {vm}; a snapshot is taken of one that is running, paused or stopped");
                Admission::Refuse(Code::VmStateConflict, detail)
            }
        }
    }
}
