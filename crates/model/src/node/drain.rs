//! What is left on a node that is to be emptied or removed, and why it does not go by itself.

use serde::{Deserialize, Serialize};

use super::Node;
use crate::{
    id::{TaskId, TenantId, VmId},
    task::Task,
    vm::{Vm, VmReason, VmState},
};

/// How many things an answer names.
const NAMED: usize = 100;

/// What is left on a node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Drain {
    /// How many machines.
    pub vms: usize,
    /// How many tasks beside those of machines.
    pub tasks: usize,
    /// Those of them that this caller may see, each with why it is still there; at most 100.
    pub blocking: Vec<Blocker>,
}

/// Something that is left on a node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Blocker {
    /// Whose.
    pub tenant: TenantId,
    /// The machine's name, or the task's kind.
    pub name: String,
    /// A machine's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// A task's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Why it is still there, and what ends that.
    pub why: String,
}

/// What a node's removal comes to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Removal {
    /// The node as it was.
    pub node: Node,
    /// Machines that are given up with it.
    pub vms: usize,
    /// Tasks that are ended without its word.
    pub tasks: usize,
}

impl Drain {
    /// Of these machines and tasks; `seen`: whose of them are named.
    pub fn of(vms: &[Vm], tasks: &[Task], seen: impl Fn(TenantId) -> bool) -> Drain {
        let tasks: Vec<&Task> = tasks.iter().filter(|task| task.target.vm.is_none()).collect();
        let machines = vms.iter().map(Blocker::vm);
        let blocking = machines.chain(tasks.iter().map(|task| Blocker::task(task)));
        let blocking = blocking.filter(|blocker| seen(blocker.tenant)).take(NAMED).collect();
        Drain { vms: vms.len(), tasks: tasks.len(), blocking }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.vms + self.tasks == 0
    }

    /// What is left, in a sentence's part.
    pub fn said(&self) -> String {
        let few: Vec<&str> = self.blocking.iter().take(8).map(|blocker| blocker.name.as_str()).collect();
        let more = (self.vms + self.tasks).saturating_sub(few.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{} machines and {} tasks are left there: {}{more}", self.vms, self.tasks, few.join(", "))
    }
}

impl Blocker {
    fn vm(vm: &Vm) -> Blocker {
        Blocker { tenant: vm.tenant, name: vm.name.to_string(), vm: Some(vm.id), task: vm.task, why: why(vm) }
    }

    fn task(task: &Task) -> Blocker {
        let why = format!("it is {}; it ends by itself, or with `hostler task cancel {}`", task.state, task.id);
        Blocker { tenant: task.tenant, name: task.kind.to_string(), vm: None, task: Some(task.id), why }
    }
}

/// Why a machine is still there, and what ends that.
fn why(vm: &Vm) -> String {
    if let Some(task) = vm.task {
        return format!("it is {}, and the task {task} is changing it", vm.state);
    }
    if let Some(at) = vm.expires_at.filter(|_| !vm.protected) {
        return format!("it is {}, and is deleted by itself at {at}", vm.state);
    }
    let state = vm.state;
    match (state, vm.reason) {
        (VmState::Error, Some(VmReason::Missing)) => {
            "nothing of it is there any more; delete it, when nobody needs its record".to_owned()
        }
        (VmState::Unknown, _) => "its node is not heard, so that nobody knows what is left of it".to_owned(),
        (
            VmState::Provisioning
            | VmState::Running
            | VmState::Paused
            | VmState::Stopped
            | VmState::Sleeping
            | VmState::Error
            | VmState::Deleted,
            _,
        ) => {
            let protected = if vm.protected { "; it is protected from deletion" } else { "" };
            format!(
                "it is {state}, and its disk is on this host, from which nothing moves it to another: make it elsewhere \
                 anew and delete it here{protected}"
            )
        }
    }
}
