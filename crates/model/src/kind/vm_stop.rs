//! `vm.stop`: ends a machine's process and keeps its disk: first the guest is asked, then, when its time is up, the
//! plug is pulled.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Settled, Turn, cannot, within};
use crate::{
    error::Refusal,
    retry::RetryPolicy,
    task::Verdict,
    vm::{VmChange, VmState},
};

/// How long a guest may take to turn itself off where nothing is said.
pub const STOP_TIMEOUT_SECONDS: u32 = 60;

/// The kind.
#[derive(Debug)]
pub struct VmStop;

/// How.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct VmStopParams {
    /// How long the guest may take to turn itself off, in seconds, at most 3,600; 60 where nothing is said. After that
    /// its process is ended; with 0, at once.
    pub timeout_seconds: Option<u32>,
    /// Whether it is stopped only because its host goes down: one with `autostart` is started again when that is back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_goes_down: bool,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmStopOutput {
    /// How it ended.
    pub how: StopHow,
}

/// How a machine was stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopHow {
    /// Its guest turned itself off.
    Graceful,
    /// Its process was ended: what the guest had not written to its disk is lost.
    Hard,
    /// It had no process.
    Already,
}

impl Kind for VmStop {
    const NAME: &'static str = "vm.stop";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const RETRY: RetryPolicy = RetryPolicy::linear(5, 2, 10);
    const RETRY_WHY: &'static str = "What is to stop is to stop soon, and asking twice does no harm.";
    // Beside the guest's own time: a process that waits for a stuck disk needs half a minute to be ended.
    const TIMEOUT: Duration = Duration::from_secs(90);

    type Params = VmStopParams;
    type Output = VmStopOutput;

    fn fill(mut params: VmStopParams, _: &FillContext<'_>) -> Result<VmStopParams, Refusal> {
        let seconds = params.timeout_seconds.unwrap_or(STOP_TIMEOUT_SECONDS);
        params.timeout_seconds = Some(within("timeout_seconds", seconds, 0, 3600)?);
        Ok(params)
    }

    fn timeout(params: &VmStopParams) -> Duration {
        Self::TIMEOUT + Duration::from_secs(u64::from(params.timeout_seconds.unwrap_or(STOP_TIMEOUT_SECONDS)))
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            // One that has stopped by itself is to stay so: its node must hear that as well.
            VmState::Running | VmState::Paused | VmState::Stopped | VmState::Error => Admission::Go,
            VmState::Provisioning | VmState::Sleeping | VmState::Unknown | VmState::Deleted => {
                cannot(vm, "only one that runs, is paused or in error can be stopped")
            }
        }
    }

    fn settle(_: VmState, verdict: &Verdict) -> Settled {
        match verdict {
            Verdict::Succeeded { .. } => Settled::vm(VmChange::to(VmState::Stopped)),
            Verdict::Unsuccessful { .. } => Settled::NOTHING,
        }
    }
}
