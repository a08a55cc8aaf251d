//! `vm.pause`: holds a machine's processors. Its memory stays where it is, and so does its charge.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Settled, Turn, cannot};
use crate::{
    error::Refusal,
    retry::RetryPolicy,
    task::Verdict,
    vm::{VmChange, VmState},
};

/// The kind.
#[derive(Debug)]
pub struct VmPause;

/// Nothing needs to be said.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmPauseParams {}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmPauseOutput {
    /// Whether it was paused before.
    pub already: bool,
}

impl Kind for VmPause {
    const NAME: &'static str = "vm.pause";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const RETRY: RetryPolicy = RetryPolicy::linear(3, 1, 5);
    const RETRY_WHY: &'static str =
        "It takes milliseconds or is refused, and a machine that is to be still is to be so soon.";
    const TIMEOUT: Duration = Duration::from_secs(60);

    type Params = VmPauseParams;
    type Output = VmPauseOutput;

    fn fill(params: VmPauseParams, _: &FillContext<'_>) -> Result<VmPauseParams, Refusal> {
        Ok(params)
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Running => Admission::Go,
            VmState::Paused => Admission::Moot(json!(VmPauseOutput { already: true })),
            VmState::Provisioning
            | VmState::Stopped
            | VmState::Sleeping
            | VmState::Error
            | VmState::Unknown
            | VmState::Deleted => cannot(vm, "only one that runs can be paused"),
        }
    }

    fn settle(vm: VmState, verdict: &Verdict) -> Settled {
        match verdict {
            Verdict::Succeeded { .. } if vm == VmState::Paused => Settled::NOTHING,
            Verdict::Succeeded { .. } => Settled::vm(VmChange::to(VmState::Paused)),
            Verdict::Unsuccessful { .. } => Settled::NOTHING,
        }
    }
}
