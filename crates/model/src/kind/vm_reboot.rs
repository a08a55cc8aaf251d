//! `vm.reboot`: a machine's guest begins anew. The guest is asked first; when it does not obey in its time, or with
//! `hard`, the reset button is pressed. It is never done twice by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, STOP_TIMEOUT_SECONDS, Scope, Settled, Turn, cannot,
    within,
};
use crate::{
    error::{Code, Refusal},
    retry::RetryPolicy,
    task::{Effects, Verdict},
    vm::{VmChange, VmState},
};

/// The kind.
#[derive(Debug)]
pub struct VmReboot;

/// How.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct VmRebootParams {
    /// Press the reset button at once: what the guest has not written to its disk is lost.
    pub hard: bool,
    /// How long the guest may take to begin anew, in seconds, 1 to 3,600; 60 where nothing is said. After that the reset
    /// button is pressed.
    pub timeout_seconds: Option<u32>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmRebootOutput {
    /// How it was done.
    pub how: RebootHow,
    /// From the restart to the guest's first answer, in milliseconds.
    pub boot_ms: f64,
}

/// How a machine was restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RebootHow {
    /// By its guest.
    Graceful,
    /// By its reset button.
    Hard,
}

impl Kind for VmReboot {
    const NAME: &'static str = "vm.reboot";
    const CLASS: Class = Class::Boot;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    const STARTS: bool = true;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Fail;
    const RETRY: RetryPolicy = RetryPolicy::exponential(3, 1, 10);
    const RETRY_WHY: &'static str =
        "Only a restart that provably never began is begun again, and somebody waits for it.";
    // As for a start, beside the time that the guest has to go down.
    const TIMEOUT: Duration = Duration::from_secs(3600 + 300);

    type Params = VmRebootParams;
    type Output = VmRebootOutput;

    fn fill(mut params: VmRebootParams, _: &FillContext<'_>) -> Result<VmRebootParams, Refusal> {
        let seconds = params.timeout_seconds.unwrap_or(STOP_TIMEOUT_SECONDS);
        params.timeout_seconds = Some(within("timeout_seconds", seconds, 1, 3600)?);
        Ok(params)
    }

    fn timeout(params: &VmRebootParams) -> Duration {
        Self::TIMEOUT + Duration::from_secs(u64::from(params.timeout_seconds.unwrap_or(STOP_TIMEOUT_SECONDS)))
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Running => Admission::Go,
            VmState::Paused => cannot(vm, "resume it first (`vm.resume`)"),
            VmState::Stopped | VmState::Error => cannot(vm, "start it instead (`vm.start`)"),
            VmState::Provisioning | VmState::Sleeping | VmState::Unknown | VmState::Deleted => {
                cannot(vm, "only one that runs can be restarted")
            }
        }
    }

    fn settle(_: VmState, verdict: &Verdict) -> Settled {
        match verdict {
            Verdict::Succeeded { .. } => Settled::vm(VmChange { ready: true, ..VmChange::to(VmState::Running) }),
            Verdict::Unsuccessful { effects: Effects::Remain, error } if error.code == Code::GuestNotReady => {
                Settled::vm(VmChange { detail: Some(error.detail.clone()), ..VmChange::to(VmState::Running) })
            }
            Verdict::Unsuccessful { .. } => Settled::NOTHING,
        }
    }
}
