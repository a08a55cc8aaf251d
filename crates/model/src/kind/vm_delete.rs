//! `vm.delete`: ends a machine and removes what it had. What came before it on the same VM is aborted.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Settled, Turn};
use crate::{
    alloc::Settlement,
    error::Refusal,
    retry::RetryPolicy,
    task::{Effects, Verdict},
    vm::{VmChange, VmReason, VmState},
};

/// The kind.
#[derive(Debug)]
pub struct VmDelete;

/// Nothing needs to be said.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmDeleteParams {}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmDeleteOutput {
    /// Whether the node had anything of it.
    pub existed: bool,
}

impl Kind for VmDelete {
    const NAME: &'static str = "vm.delete";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Final;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const RETRY: RetryPolicy = RetryPolicy::exponential(8, 2, 120);
    const RETRY_WHY: &'static str = "Room and quota are given back by nothing else, and doing it twice does no harm.";
    const TIMEOUT: Duration = Duration::from_secs(120);

    type Params = VmDeleteParams;
    type Output = VmDeleteOutput;

    fn fill(params: VmDeleteParams, _: &FillContext<'_>) -> Result<VmDeleteParams, Refusal> {
        Ok(params)
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Deleted => Admission::Moot(json!(VmDeleteOutput { existed: false })),
            VmState::Provisioning
            | VmState::Running
            | VmState::Paused
            | VmState::Stopped
            | VmState::Sleeping
            | VmState::Error
            | VmState::Unknown => Admission::Go,
        }
    }

    fn settle(_: VmState, verdict: &Verdict) -> Settled {
        match verdict {
            Verdict::Succeeded { .. } => {
                Settled { vm: Some(VmChange::to(VmState::Deleted)), allocation: Settlement::Release }
            }
            // It did nothing: the machine is as it was.
            Verdict::Unsuccessful { effects: Effects::Undone, .. } => Settled::NOTHING,
            Verdict::Unsuccessful { effects: Effects::Remain, error } => Settled {
                vm: Some(VmChange::because(VmState::Error, VmReason::DeleteFailed, error.detail.clone())),
                allocation: Settlement::Keep,
            },
        }
    }
}
