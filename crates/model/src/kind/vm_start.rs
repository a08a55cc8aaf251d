//! `vm.start`: gives a machine that has a disk and no process a process again, and waits until its guest answers.
//!
//! A guest that never answers is no reason to end it: the task fails with GUEST_NOT_READY, and the machine runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Settled, Turn, cannot, within};
use crate::{
    error::{Code, Refusal},
    retry::RetryPolicy,
    task::{Effects, Verdict},
    vm::{VmChange, VmState},
};

/// The kind.
#[derive(Debug)]
pub struct VmStart;

/// How.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct VmStartParams {
    /// How long the guest may take to answer, in seconds, 1 to 3,600; what the VM's spec says where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_timeout_seconds: Option<u32>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmStartOutput {
    /// Whether there was anything to do.
    pub how: StartHow,
    /// From the hypervisor's start to the guest's first answer, in milliseconds; absent where nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_ms: Option<f64>,
}

/// How a machine came to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartHow {
    /// It was started.
    Started,
    /// It was running.
    Already,
}

impl Kind for VmStart {
    const NAME: &'static str = "vm.start";
    const CLASS: Class = Class::Boot;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    const STARTS: bool = true;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const RETRY: RetryPolicy = RetryPolicy::exponential(3, 2, 30);
    const RETRY_WHY: &'static str = "Somebody waits for it; what fails three times on a host has another cause.";
    // The longest wait for a guest, and enough to start its process: how long it may take, its node knows.
    const TIMEOUT: Duration = Duration::from_secs(3600 + 300);

    type Params = VmStartParams;
    type Output = VmStartOutput;

    fn fill(params: VmStartParams, _: &FillContext<'_>) -> Result<VmStartParams, Refusal> {
        if let Some(seconds) = params.ready_timeout_seconds {
            within("ready_timeout_seconds", seconds, 1, 3600)?;
        }
        Ok(params)
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Stopped | VmState::Error => Admission::Go,
            VmState::Running => Admission::Moot(json!(VmStartOutput { how: StartHow::Already, boot_ms: None })),
            VmState::Paused => cannot(vm, "it is started already: resume it (`vm.resume`)"),
            VmState::Provisioning | VmState::Sleeping | VmState::Unknown | VmState::Deleted => {
                cannot(vm, "only one that is stopped or in error can be started")
            }
        }
    }

    fn settle(vm: VmState, verdict: &Verdict) -> Settled {
        match verdict {
            // There was nothing to do: whether its guest answers is not known from here.
            Verdict::Succeeded { .. } if vm == VmState::Running => Settled::NOTHING,
            Verdict::Succeeded { .. } => Settled::vm(VmChange { ready: true, ..VmChange::to(VmState::Running) }),
            Verdict::Unsuccessful { effects: Effects::Remain, error } if error.code == Code::GuestNotReady => {
                Settled::vm(VmChange { detail: Some(error.detail.clone()), ..VmChange::to(VmState::Running) })
            }
            // What there is of it, its node's next inventory says.
            Verdict::Unsuccessful { .. } => Settled::NOTHING,
        }
    }
}
