//! `vm.restore`: puts a machine back to a snapshot, in place. What it did since is gone once, and only once, the
//! snapshot's state is there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Settled, Turn};
use crate::{
    alloc::Settlement,
    error::{Code, Refusal},
    retry::RetryPolicy,
    snapshot::Use,
    task::Verdict,
    vm::{VmChange, VmState},
};

/// The kind.
#[derive(Debug)]
pub struct VmRestore;

/// What to restore.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmRestoreParams {
    /// The snapshot, by id or by its name among the machine's.
    pub snapshot: String,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmRestoreOutput {
    /// Whether the memory was restored: then its programs go on; otherwise the machine has booted from the disk.
    pub memory: bool,
    /// From the end of the machine's process to the guest's first answer, in milliseconds.
    pub down_ms: f64,
    /// Whether the guest's clock was set; not said of a machine that booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_set: Option<bool>,
}

impl Kind for VmRestore {
    const NAME: &'static str = "vm.restore";
    const CLASS: Class = Class::Boot;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::SnapshotWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    const STARTS: bool = true;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const RETRY: RetryPolicy = RetryPolicy::exponential(3, 2, 30);
    const RETRY_WHY: &'static str = "The machine stands still meanwhile; what fails three times has another cause.";
    const TIMEOUT: Duration = Duration::from_secs(900);
    const QUEUE_DEADLINE: Duration = Duration::from_secs(30 * 60);
    const SNAPSHOT: Use = Use::Read;

    type Params = VmRestoreParams;
    type Output = VmRestoreOutput;

    fn fill(params: VmRestoreParams, _: &FillContext<'_>) -> Result<VmRestoreParams, Refusal> {
        if params.snapshot.is_empty() {
            return Err(Refusal::field("snapshot", "name the snapshot, by its name or id"));
        }
        Ok(params)
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Running | VmState::Paused | VmState::Stopped | VmState::Error => Admission::Go,
            VmState::Provisioning | VmState::Sleeping | VmState::Unknown | VmState::Deleted => {
                let detail =
                    format!("the VM is {vm}; one that is running, paused, stopped or in error can be restored");
                Admission::Refuse(Code::VmStateConflict, detail)
            }
        }
    }

    // One that did not come about leaves the machine as its node sees it: the next inventory says how that is.
    fn settle(_: VmState, verdict: &Verdict) -> Settled {
        match verdict {
            Verdict::Succeeded { .. } => Settled {
                vm: Some(VmChange { ready: true, ..VmChange::to(VmState::Running) }),
                allocation: Settlement::Keep,
            },
            Verdict::Unsuccessful { .. } => Settled::NOTHING,
        }
    }
}
