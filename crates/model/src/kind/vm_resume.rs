//! `vm.resume`: lets a paused machine's processors run again, from where they were held.

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
pub struct VmResume;

/// Nothing needs to be said.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmResumeParams {}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmResumeOutput {
    /// Whether it ran before.
    pub already: bool,
    /// Whether its guest had answered before it was paused.
    pub ready: bool,
}

impl Kind for VmResume {
    const NAME: &'static str = "vm.resume";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    const STARTS: bool = true;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const RETRY: RetryPolicy = RetryPolicy::linear(3, 1, 5);
    const RETRY_WHY: &'static str = "It takes milliseconds or is refused, and the machine stands still meanwhile.";
    const TIMEOUT: Duration = Duration::from_secs(60);

    type Params = VmResumeParams;
    type Output = VmResumeOutput;

    fn fill(params: VmResumeParams, _: &FillContext<'_>) -> Result<VmResumeParams, Refusal> {
        Ok(params)
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Paused => Admission::Go,
            VmState::Running => Admission::Moot(json!(VmResumeOutput { already: true, ready: true })),
            VmState::Provisioning
            | VmState::Stopped
            | VmState::Sleeping
            | VmState::Error
            | VmState::Unknown
            | VmState::Deleted => cannot(vm, "only one that is paused can be resumed"),
        }
    }

    fn settle(vm: VmState, verdict: &Verdict) -> Settled {
        match verdict {
            Verdict::Succeeded { .. } if vm == VmState::Running => Settled::NOTHING,
            Verdict::Succeeded { output } => {
                let ready = VmResumeOutput::deserialize(output).is_ok_and(|output| output.ready);
                Settled::vm(VmChange { ready, ..VmChange::to(VmState::Running) })
            }
            Verdict::Unsuccessful { .. } => Settled::NOTHING,
        }
    }
}
