//! A virtual machine: what was asked for, what was last observed.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    cloud_init::FirstBoot,
    forward::PortForward,
    id::{ImageDigest, NodeId, TaskId, TenantId, VmId},
    name::Name,
    placement::Placement,
    ready::Readiness,
    restart::RestartPolicy,
    unit::Resources,
};

/// What was last observed of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Being made for the first time.
    Provisioning,
    /// Its processors run.
    Running,
    /// Its processors are held.
    Paused,
    /// It has a disk and no process.
    Stopped,
    /// Its memory is on disk.
    Sleeping,
    /// Something is wrong; `reason` says what.
    Error,
    /// Its node cannot be asked; `last_state` says what it was.
    Unknown,
    /// It is no more.
    Deleted,
}

impl VmState {
    /// Every state.
    pub const ALL: [VmState; 8] = [
        VmState::Provisioning,
        VmState::Running,
        VmState::Paused,
        VmState::Stopped,
        VmState::Sleeping,
        VmState::Error,
        VmState::Unknown,
        VmState::Deleted,
    ];

    /// Whether a node can see a machine in this state.
    pub const fn is_seen(self) -> bool {
        match self {
            VmState::Running | VmState::Paused | VmState::Stopped | VmState::Sleeping | VmState::Error => true,
            VmState::Provisioning | VmState::Unknown | VmState::Deleted => false,
        }
    }

    /// Whether a machine in this state is on its node, and whole.
    pub const fn is_there(self) -> bool {
        match self {
            VmState::Running | VmState::Paused | VmState::Stopped | VmState::Sleeping => true,
            VmState::Provisioning | VmState::Error | VmState::Unknown | VmState::Deleted => false,
        }
    }

    /// The state as the store and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            VmState::Provisioning => "provisioning",
            VmState::Running => "running",
            VmState::Paused => "paused",
            VmState::Stopped => "stopped",
            VmState::Sleeping => "sleeping",
            VmState::Error => "error",
            VmState::Unknown => "unknown",
            VmState::Deleted => "deleted",
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a machine is in error or unknown, or stands as nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmReason {
    /// Its hypervisor process ended by itself.
    Crashed,
    /// Its node no longer has it.
    Missing,
    /// Its node is lost.
    NodeLost,
    /// It could not be made, and something may be left of it.
    CreateFailed,
    /// It could not be deleted, and something may be left of it.
    DeleteFailed,
    /// What happened is not known.
    OutcomeUnknown,
    /// The guest turned itself off.
    GuestShutdown,
    /// Its host went down and came back, and nobody has started it yet.
    HostWentDown,
    /// Its hypervisor holds it, because its node could not read or write its disk.
    IoError,
}

/// What a machine is made of, everything filled in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmSpec {
    /// The image by the name that was asked for.
    pub image: String,
    /// The image by the digest that the name stood for at submission.
    pub image_digest: ImageDigest,
    /// Virtual processors.
    pub vcpus: i64,
    /// Memory, in MiB.
    pub memory_mib: i64,
    /// The root disk, in GiB.
    pub disk_gib: i64,
    /// When it is ready.
    #[serde(default)]
    pub ready: Readiness,
    /// How long it may take to be, in seconds.
    pub ready_timeout_seconds: u32,
    /// What its guest finds at its first boot, where it finds a seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_boot: Option<FirstBoot>,
    /// Free words.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where it was allowed to go.
    #[serde(default, skip_serializing_if = "Placement::is_any")]
    pub placement: Placement,
    /// When it is started again after its process ended by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Whether it is started again when its host was restarted while it ran.
    #[serde(default)]
    pub autostart: bool,
    /// Ports of the host that lead to the guest; a port 0 is one that the node is yet to choose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_forwards: Vec<PortForward>,
}

impl VmSpec {
    /// What it takes of a tenant's quota and a node's room.
    pub fn charge(&self) -> Resources {
        Resources { vcpus: self.vcpus, memory_mib: self.memory_mib, disk_gib: self.disk_gib, vms: 1 }
    }
}

/// Whether a machine counts as one that runs. Where nobody knows, it counts as it did (`before`).
pub const fn runs(state: VmState, reason: Option<VmReason>, before: bool) -> bool {
    match (state, reason) {
        (VmState::Running | VmState::Paused, _) => true,
        // What is about to run counts by the task that makes it so.
        (VmState::Provisioning | VmState::Stopped | VmState::Sleeping | VmState::Deleted, _) => false,
        (VmState::Error, Some(VmReason::Crashed | VmReason::Missing)) => false,
        (
            VmState::Error,
            None
            | Some(
                VmReason::NodeLost
                | VmReason::CreateFailed
                | VmReason::DeleteFailed
                | VmReason::OutcomeUnknown
                | VmReason::GuestShutdown
                | VmReason::HostWentDown
                | VmReason::IoError,
            ),
        )
        | (VmState::Unknown, _) => before,
    }
}

/// A machine as people see it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Vm {
    /// Its id.
    pub id: VmId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, unique among the tenant's machines that are not deleted.
    pub name: Name,
    /// What was last observed.
    pub state: VmState,
    /// Whether the guest answered.
    pub ready: bool,
    /// Why it is in error or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<VmReason>,
    /// More about the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The state before error or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_state: Option<VmState>,
    /// The change under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Grows with every placement; agents refuse an older one.
    pub epoch: u32,
    /// Grows with every change that somebody asks for: of the spec, the labels, the protection, the time to live.
    pub generation: u32,
    /// The generation of which everything has taken effect on the host; a change that waits for the next start is above it.
    #[serde(default)]
    pub observed_generation: u32,
    /// Whether it is protected from deletion.
    #[serde(default)]
    pub protected: bool,
    /// When it is deleted by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it is started again by itself, if it still is as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<Timestamp>,
    /// What it is made of.
    pub spec: VmSpec,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When this row last changed.
    pub updated_at: Timestamp,
}

impl Vm {
    /// A change that takes effect by being written down: a new generation, and observed at once where nothing before it
    /// waits for the host.
    pub fn changed_in_record(&mut self) {
        let current = self.observed_generation == self.generation;
        self.generation = self.generation.saturating_add(1);
        if current {
            self.observed_generation = self.generation;
        }
    }
}

/// What observation or a task's end makes of a machine.
#[derive(Clone, PartialEq, Debug)]
pub struct VmChange {
    /// What is observed now.
    pub state: VmState,
    /// Whether the guest answered.
    pub ready: bool,
    /// Why, for error and unknown.
    pub reason: Option<VmReason>,
    /// More about it.
    pub detail: Option<String>,
}

impl VmChange {
    /// A state that needs no reason.
    pub fn to(state: VmState) -> VmChange {
        VmChange { state, ready: false, reason: None, detail: None }
    }

    /// A state with its reason.
    pub fn because(state: VmState, reason: VmReason, detail: impl Into<String>) -> VmChange {
        VmChange { state, ready: false, reason: Some(reason), detail: Some(detail.into()) }
    }

    /// `last_state` after this change: kept while the machine stays in error or unknown.
    pub fn last_state(&self, before: VmState, last: Option<VmState>) -> Option<VmState> {
        match self.state {
            VmState::Error | VmState::Unknown => match before {
                VmState::Error | VmState::Unknown => last,
                VmState::Provisioning
                | VmState::Running
                | VmState::Paused
                | VmState::Stopped
                | VmState::Sleeping
                | VmState::Deleted => Some(before),
            },
            VmState::Provisioning
            | VmState::Running
            | VmState::Paused
            | VmState::Stopped
            | VmState::Sleeping
            | VmState::Deleted => None,
        }
    }
}

/// What an agent saw of one machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Observation {
    /// Which.
    pub vm: VmId,
    /// The epoch the agent has it under.
    pub epoch: u32,
    /// Its state.
    pub state: VmState,
    /// Whether the guest answered.
    pub ready: bool,
    /// Why, for error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<VmReason>,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether its process runs with less or more than what the machine is to be: that waits for its next start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart_pending: bool,
}

/// What an observation changes of a machine that no task is changing: `None` when it says nothing new. An observation
/// under another epoch is of another life of this machine and changes nothing; nor does one of a state that is not an
/// agent's to see: a machine is made, deleted and unknown by the server's word.
pub fn observe(
    state: VmState,
    ready: bool,
    reason: Option<VmReason>,
    epoch: u32,
    seen: &Observation,
) -> Option<VmChange> {
    if seen.epoch != epoch || state == VmState::Deleted || !seen.state.is_seen() {
        return None;
    }
    if (state, ready, reason) == (seen.state, seen.ready, seen.reason) {
        return None;
    }
    Some(VmChange { state: seen.state, ready: seen.ready, reason: seen.reason, detail: seen.detail.clone() })
}

/// What it means that a full inventory lacks a machine that no task is changing.
pub fn missing(state: VmState) -> Missing {
    match state {
        // Not made yet, or gone: the inventory says nothing new.
        VmState::Provisioning | VmState::Deleted => Missing::AsExpected,
        VmState::Running | VmState::Paused | VmState::Stopped | VmState::Sleeping | VmState::Unknown => Missing::Lost,
        // Already known to be broken; now it is known that nothing is left to charge for.
        VmState::Error => Missing::Absent,
    }
}

/// What it means for a machine that its node is lost: `None` when nothing new is known. Nobody saw one that is being
/// made, and one in error stays so.
pub fn lost(state: VmState) -> Option<VmChange> {
    match state {
        VmState::Running | VmState::Paused | VmState::Stopped | VmState::Sleeping => {
            Some(VmChange::because(VmState::Unknown, VmReason::NodeLost, "its node has not been heard for too long"))
        }
        VmState::Provisioning | VmState::Error | VmState::Unknown | VmState::Deleted => None,
    }
}

/// The meanings of a machine's absence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Nothing to say.
    AsExpected,
    /// It should be there: error, reason `missing`, and its allocation goes.
    Lost,
    /// It stays in error; its allocation goes.
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: VmState, epoch: u32) -> Observation {
        Observation {
            vm: VmId(uuid::Uuid::nil()),
            epoch,
            state,
            ready: false,
            reason: None,
            detail: None,
            restart_pending: false,
        }
    }

    #[test]
    fn an_observation_of_an_older_life_changes_nothing() {
        for state in VmState::ALL {
            assert_eq!(observe(state, true, None, 2, &seen(VmState::Error, 1)), None);
        }
    }

    #[test]
    fn a_state_that_no_node_can_see_changes_nothing() {
        for phantom in [VmState::Provisioning, VmState::Deleted, VmState::Unknown] {
            for state in VmState::ALL {
                assert_eq!(observe(state, false, Some(VmReason::CreateFailed), 1, &seen(phantom, 1)), None);
            }
        }
        assert!(observe(VmState::Error, false, Some(VmReason::Missing), 1, &seen(VmState::Running, 1)).is_some());
    }

    #[test]
    fn a_deleted_machine_stays_deleted() {
        for state in VmState::ALL {
            assert_eq!(observe(VmState::Deleted, false, None, 1, &seen(state, 1)), None);
        }
    }

    #[test]
    fn a_lost_node_makes_only_what_was_observed_unknown_and_once() {
        for state in VmState::ALL {
            let Some(change) = lost(state) else { continue };
            assert_eq!((change.state, change.reason), (VmState::Unknown, Some(VmReason::NodeLost)));
            assert_eq!(change.last_state(state, None), Some(state));
            assert_eq!(lost(change.state), None);
        }
    }

    #[test]
    fn the_state_before_the_trouble_is_kept() {
        let crash = VmChange::because(VmState::Error, VmReason::Crashed, "signal 9");
        assert_eq!(crash.last_state(VmState::Running, None), Some(VmState::Running));
        assert_eq!(crash.last_state(VmState::Unknown, Some(VmState::Paused)), Some(VmState::Paused));
        assert_eq!(VmChange::to(VmState::Running).last_state(VmState::Unknown, Some(VmState::Running)), None);
    }
}
