//! `vm.edit`: brings a machine's host to what was asked for: at once where the hypervisor can, else with the machine's
//! next start.
//!
//! What was asked for is in the machine's spec from the submission on, under the same locks as quota and room; the task
//! carries the whole of it (`filed`), so that it can be done again. An edit that is undone takes its part of the spec back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Record, Role, Scope, Turn};
use crate::{
    edit::{Shape, VmPatch},
    error::{Code, Refusal},
    forward::PortForward,
    retry::RetryPolicy,
    unit::Resources,
    vm::VmState,
};

/// The kind.
#[derive(Debug)]
pub struct VmEdit;

/// When a change takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It has.
    Live,
    /// With the machine's next start.
    NextStart,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmEditOutput {
    /// The processors, where their number was to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<Effect>,
    /// The memory, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<Effect>,
    /// The root disk, likewise: the guest's partitions and file systems are the guest's to grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_gib: Option<Effect>,
    /// The port forwards, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_forwards: Option<Effect>,
    /// The port forwards that there are now, with the ports that the node chose.
    #[serde(default)]
    pub forwards: Vec<PortForward>,
    /// Whether something waits for the next start.
    #[serde(default)]
    pub restart_pending: bool,
    /// What the machine takes: of what runs and what is asked for the larger.
    pub charge: Resources,
}

/// What the submitting step fills in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Filed {
    /// The generation that this edit made.
    pub generation: u32,
    /// What the machine was to be before.
    pub before: Shape,
    /// What it is to be.
    pub after: Shape,
    /// What it was charged before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged: Option<Resources>,
}

impl Kind for VmEdit {
    const NAME: &'static str = "vm.edit";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    // Done twice it comes to the same.
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Rerun;
    const RETRY: RetryPolicy = RetryPolicy::exponential(3, 1, 30);
    const RETRY_WHY: &'static str = "Somebody waits for it, and changes of the machine after it wait too.";
    const TIMEOUT: Duration = Duration::from_secs(120);
    const QUEUE_DEADLINE: Duration = Duration::from_secs(30 * 60);
    const RECORD: Record = Record::Edited;

    type Params = VmPatch;
    type Output = VmEditOutput;

    fn fill(params: VmPatch, _: &FillContext<'_>) -> Result<VmPatch, Refusal> {
        params.check()?;
        // A retry is filed anew, with the machine as it is then.
        Ok(VmPatch { filed: None, ..params })
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Running | VmState::Paused | VmState::Stopped | VmState::Error => Admission::Go,
            VmState::Provisioning | VmState::Sleeping | VmState::Unknown | VmState::Deleted => Admission::Refuse(
                Code::VmStateConflict,
                format!("the VM is {vm}; it can be edited while it is running, paused, stopped or in error"),
            ),
        }
    }
}
