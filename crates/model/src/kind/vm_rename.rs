//! `vm.rename`: gives a machine another name. The name is the server's record, and changes with the submission; the task
//! tells the node, whose next start of the machine calls its process and its guest by it. Nodes know machines by id, so
//! nothing stops meanwhile; a rename whose task fails is a rename all the same.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Record, Role, Scope, Turn};
use crate::{
    error::{Code, Refusal},
    name::Name,
    retry::RetryPolicy,
    vm::VmState,
};

/// The kind.
#[derive(Debug)]
pub struct VmRename;

/// The name it is to have.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmRenameParams {
    /// Unique among the tenant's machines that are not deleted.
    pub name: Name,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmRenameOutput {
    /// Whether the node has the machine, and calls it by its new name from its next start on.
    pub told: bool,
}

impl Kind for VmRename {
    const NAME: &'static str = "vm.rename";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmWrite;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Exclusive;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Rerun;
    const RETRY: RetryPolicy = RetryPolicy::linear(5, 5, 60);
    const RETRY_WHY: &'static str = "The name holds already; its node only has to be told before the next start.";
    const TIMEOUT: Duration = Duration::from_secs(60);
    const RECORD: Record = Record::Renamed;

    type Params = VmRenameParams;
    type Output = VmRenameOutput;

    fn fill(params: VmRenameParams, _: &FillContext<'_>) -> Result<VmRenameParams, Refusal> {
        Ok(params)
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Provisioning
            | VmState::Running
            | VmState::Paused
            | VmState::Stopped
            | VmState::Sleeping
            | VmState::Error
            | VmState::Unknown => Admission::Go,
            VmState::Deleted => Admission::Refuse(Code::VmNotFound, "the VM is deleted".to_owned()),
        }
    }
}
