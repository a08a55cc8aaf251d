//! A snapshot: a machine's disk, or its memory and its disk, as they were at one instant. It lies on the machine's node
//! and goes with the machine.
//!
//! ```text
//! (made with its task) creating ──the node has it whole──► ready ──snapshot.delete──► deleting ──gone──► deleted
//!        │ nothing is left: deleted                          │ ▲                          │ it did nothing: as before
//!        └ something may be left ──► error ◄──the node lacks it┘ └────the node has it again──┘
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    alloc::Settlement,
    clock::Timestamp,
    error::{Code, Refusal},
    id::{NodeId, SnapshotId, TaskId, TenantId, VmId},
    kind::Admission,
    name::Name,
    task::{Effects, Verdict},
    unit::Resources,
    vm::VmSpec,
};

/// How many snapshots a machine may have: each is a layer that every read of its disk may have to look through.
pub const LIMIT: usize = 24;

const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;

/// More bytes than one snapshot has: sums of as many as there will ever be stay far from an overflow.
const ABSURD: i64 = 1 << 50;

/// Where a snapshot stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// Its task has not ended.
    Creating,
    /// It is whole, and can be restored.
    Ready,
    /// It is being deleted.
    Deleting,
    /// It is no more.
    Deleted,
    /// It cannot be used; `detail` says why.
    Error,
}

impl SnapshotState {
    /// Every state.
    pub const ALL: [SnapshotState; 5] = [
        SnapshotState::Creating,
        SnapshotState::Ready,
        SnapshotState::Deleting,
        SnapshotState::Deleted,
        SnapshotState::Error,
    ];

    /// The state as the store and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            SnapshotState::Creating => "creating",
            SnapshotState::Ready => "ready",
            SnapshotState::Deleting => "deleting",
            SnapshotState::Deleted => "deleted",
            SnapshotState::Error => "error",
        }
    }
}

impl fmt::Display for SnapshotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much a snapshot has on its node's disk, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Written {
    /// The disk's layer: what the machine wrote since the snapshot, or the image, before.
    pub disk_bytes: i64,
    /// The memory; 0 for a snapshot of the disk alone.
    pub memory_bytes: i64,
}

impl Written {
    /// What is charged: whole GiB of disk, at least one.
    pub fn charge(&self) -> Resources {
        let bytes = self.disk_bytes.saturating_add(self.memory_bytes);
        Resources { disk_gib: (bytes.saturating_add(GIB - 1) / GIB).max(1), ..Resources::ZERO }
    }

    /// Whether a node can mean this: the books never become negative by an agent's word.
    fn is_plausible(&self) -> bool {
        [self.disk_bytes, self.memory_bytes].iter().all(|bytes| (0..=ABSURD).contains(bytes))
    }
}

/// A snapshot as people see it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Of which machine.
    pub vm: VmId,
    /// Its name, unique among the machine's snapshots that are not deleted.
    pub name: Name,
    /// Where it stands.
    pub state: SnapshotState,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether it has the machine's memory: restored, its programs go on where they were.
    pub memory: bool,
    /// Whether the guest's file systems were held while the disk was taken; not said of one with memory, which needs no
    /// such thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesced: Option<bool>,
    /// How much it has on its node's disk, once it is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
    /// The change under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Where it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// What the machine was made of.
    pub spec: VmSpec,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When this row last changed.
    pub updated_at: Timestamp,
}

/// What a kind of task does with a snapshot, which its parameters then name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// It has nothing to do with one.
    None,
    /// It makes one.
    Make,
    /// It needs one.
    Read,
    /// It removes one.
    Remove,
}

/// The snapshot that a task's filled-in parameters name.
pub fn named_by(params: &Value) -> Option<SnapshotId> {
    params.get("snapshot")?.as_str()?.parse().ok()
}

/// The most that a snapshot of this machine can take: all of its disk, and its memory.
pub fn most(spec: &VmSpec, memory: bool) -> Resources {
    let memory_gib = if memory { (spec.memory_mib.saturating_mul(MIB) + GIB - 1) / GIB } else { 0 };
    Resources { disk_gib: spec.disk_gib + memory_gib, ..Resources::ZERO }
}

/// Whether a task may use a snapshot in this state now.
pub fn admit(usage: Use, state: SnapshotState) -> Admission {
    let refuse = |why: &str| Admission::Refuse(Code::SnapshotStateConflict, format!("the snapshot is {state}; {why}"));
    match (usage, state) {
        (Use::None, _) | (Use::Make, SnapshotState::Creating) => Admission::Go,
        (Use::Make, SnapshotState::Ready | SnapshotState::Deleting | SnapshotState::Deleted | SnapshotState::Error) => {
            refuse("it is not to be made")
        }
        (Use::Read, SnapshotState::Ready) => Admission::Go,
        (
            Use::Read,
            SnapshotState::Creating | SnapshotState::Deleting | SnapshotState::Deleted | SnapshotState::Error,
        ) => refuse("only one that is ready can be restored"),
        (
            Use::Remove,
            SnapshotState::Creating | SnapshotState::Ready | SnapshotState::Deleting | SnapshotState::Error,
        ) => Admission::Go,
        (Use::Remove, SnapshotState::Deleted) => Admission::Moot(serde_json::json!({"existed": false})),
    }
}

/// Whether a snapshot can be restored into a machine that is now made of `now`: its memory needs the processors and the
/// memory that it was taken with.
pub fn fits(snapshot: &Snapshot, now: &VmSpec) -> Result<(), Refusal> {
    let was = &snapshot.spec;
    if !snapshot.memory || (was.vcpus <= now.vcpus && was.memory_mib <= now.memory_mib) {
        return Ok(());
    }
    let detail = format!(
        "the snapshot's memory needs {} vcpus and {} MiB, and the VM has {} and {} now; edit the VM to have them, then \
         restore again",
        was.vcpus, was.memory_mib, now.vcpus, now.memory_mib
    );
    Err(Refusal::new(Code::SnapshotUnusable, detail)
        .with("snapshot", snapshot.id.to_string())
        .with("vcpus", was.vcpus)
        .with("memory_mib", was.memory_mib))
}

/// What becomes of a snapshot.
#[derive(Clone, PartialEq, Debug)]
pub struct SnapshotChange {
    /// Its state afterwards.
    pub state: SnapshotState,
    /// Why it cannot be used.
    pub detail: Option<String>,
    /// What is known of it from now on.
    pub known: Known,
}

/// What a change makes of what is known of a snapshot.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Known {
    /// It stays as it is.
    AsBefore,
    /// This.
    Now(Made),
    /// It is not whole any more.
    NoMore,
}

impl SnapshotChange {
    /// A state that needs no reason.
    pub fn to(state: SnapshotState) -> SnapshotChange {
        SnapshotChange { state, detail: None, known: Known::AsBefore }
    }

    /// It cannot be used.
    pub fn error(detail: impl Into<String>) -> SnapshotChange {
        SnapshotChange { state: SnapshotState::Error, detail: Some(detail.into()), known: Known::AsBefore }
    }
}

/// What is known of a snapshot once it is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Made {
    /// How much it has.
    #[serde(flatten)]
    pub written: Written,
    /// Whether the guest's file systems were held.
    #[serde(default)]
    pub quiesced: Option<bool>,
}

/// What a task's end does to the snapshot that it made or removed, which was in this state, and to its allocation.
pub fn settle(usage: Use, before: &Snapshot, verdict: &Verdict) -> (Option<SnapshotChange>, Settlement) {
    match usage {
        Use::None | Use::Read => (None, Settlement::Keep),
        Use::Make => made(verdict),
        Use::Remove => removed(before, verdict),
    }
}

fn made(verdict: &Verdict) -> (Option<SnapshotChange>, Settlement) {
    match verdict {
        Verdict::Succeeded { output } => {
            let made = Made::deserialize(output).ok().filter(|made| made.written.is_plausible());
            let settlement = made.map_or(Settlement::UseHeld, |made| Settlement::Use(made.written.charge()));
            let known = made.map_or(Known::AsBefore, Known::Now);
            (Some(SnapshotChange { known, ..SnapshotChange::to(SnapshotState::Ready) }), settlement)
        }
        Verdict::Unsuccessful { effects: Effects::Undone, .. } => {
            (Some(SnapshotChange::to(SnapshotState::Deleted)), Settlement::Release)
        }
        Verdict::Unsuccessful { effects: Effects::Remain, error } => {
            (Some(SnapshotChange::error(error.detail.clone())), Settlement::Keep)
        }
    }
}

fn removed(before: &Snapshot, verdict: &Verdict) -> (Option<SnapshotChange>, Settlement) {
    match verdict {
        Verdict::Succeeded { .. } => (Some(SnapshotChange::to(SnapshotState::Deleted)), Settlement::Release),
        // It did nothing: the snapshot is as it was before its deletion began.
        Verdict::Unsuccessful { effects: Effects::Undone, error } => {
            let back = match (before.state, before.written) {
                (SnapshotState::Deleting, Some(_)) => Some(SnapshotChange::to(SnapshotState::Ready)),
                (SnapshotState::Deleting, None) => Some(SnapshotChange::error(error.detail.clone())),
                (SnapshotState::Creating | SnapshotState::Ready | SnapshotState::Deleted | SnapshotState::Error, _) => {
                    None
                }
            };
            (back, Settlement::Keep)
        }
        // It is no more, but for what its node still has of it; that it is there does not make it usable again.
        Verdict::Unsuccessful { effects: Effects::Remain, error } => {
            let left = SnapshotChange { known: Known::NoMore, ..SnapshotChange::error(error.detail.clone()) };
            (Some(left), Settlement::Keep)
        }
    }
}

/// How much a snapshot has once another was removed, of whose layer of the disk it may have become the owner; `None` where
/// that is not more than before. It never becomes less: a result may be older than the one before it.
pub fn grown(snapshot: &Snapshot, disk_bytes: i64) -> Option<Written> {
    let before = snapshot.written?;
    let now = Written { disk_bytes, ..before };
    (disk_bytes > before.disk_bytes && now.is_plausible()).then_some(now)
}

/// What an inventory says of a snapshot that no task is changing: whether its node has it. `None` when that is no news.
/// One that could not be used because its node lacked it is usable again when the node has it.
pub fn observe(snapshot: &Snapshot, present: bool) -> Option<SnapshotChange> {
    match (snapshot.state, present) {
        (SnapshotState::Ready, false) => Some(SnapshotChange::error("its node has nothing of it any more")),
        (SnapshotState::Error, true) if snapshot.written.is_some() => Some(SnapshotChange::to(SnapshotState::Ready)),
        (SnapshotState::Ready | SnapshotState::Error, _)
        | (SnapshotState::Creating | SnapshotState::Deleting | SnapshotState::Deleted, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::{id::ImageDigest, task::TaskError};

    fn spec(vcpus: i64, memory_mib: i64, disk_gib: i64) -> VmSpec {
        let params = json!({"image": "tiny", "image_digest": "d", "vcpus": vcpus, "memory_mib": memory_mib,
            "disk_gib": disk_gib, "ready_timeout_seconds": 60});
        let spec: VmSpec = serde_json::from_value(params).unwrap();
        assert_eq!(spec.image_digest, ImageDigest("d".into()));
        spec
    }

    fn snapshot(state: SnapshotState, memory: bool) -> Snapshot {
        let nil = Uuid::nil();
        Snapshot {
            id: SnapshotId(nil),
            tenant: TenantId(nil),
            vm: VmId(nil),
            name: "s".parse().unwrap(),
            state,
            detail: None,
            memory,
            quiesced: None,
            written: Some(Written { disk_bytes: 1, memory_bytes: 0 }),
            task: None,
            node: None,
            spec: spec(2, 512, 1),
            created_at: Timestamp::from_micros(0),
            updated_at: Timestamp::from_micros(0),
        }
    }

    fn verdict(effects: Effects) -> Verdict {
        Verdict::Unsuccessful { error: TaskError { code: Code::HandlerFailed, detail: "broke".into() }, effects }
    }

    proptest! {
        #[test]
        fn what_is_held_covers_what_can_be_written(disk_gib in 1i64..100, memory_mib in 64i64..100_000, memory: bool) {
            let held = most(&spec(1, memory_mib, disk_gib), memory);
            let memory_bytes = if memory { memory_mib * MIB } else { 0 };
            let all = Written { disk_bytes: disk_gib * GIB, memory_bytes };
            prop_assert!(all.charge().disk_gib <= held.disk_gib);
        }
    }

    #[test]
    fn only_a_ready_one_is_restored_and_a_deleted_one_is_not_deleted_again() {
        for state in SnapshotState::ALL {
            assert_eq!(admit(Use::Read, state) == Admission::Go, state == SnapshotState::Ready);
            assert_eq!(matches!(admit(Use::Remove, state), Admission::Moot(_)), state == SnapshotState::Deleted);
        }
    }

    #[test]
    fn memory_needs_the_machine_it_was_taken_of_and_a_disk_alone_does_not() {
        let large = snapshot(SnapshotState::Ready, true);
        assert_eq!(fits(&large, &spec(1, 512, 1)).unwrap_err().code, Code::SnapshotUnusable);
        assert_eq!(fits(&large, &spec(2, 256, 1)).unwrap_err().code, Code::SnapshotUnusable);
        assert!(fits(&large, &spec(4, 1024, 9)).is_ok());
        assert!(fits(&snapshot(SnapshotState::Ready, false), &spec(1, 64, 1)).is_ok());
    }

    #[test]
    fn nothing_is_given_back_without_evidence_of_absence() {
        for usage in [Use::None, Use::Make, Use::Read, Use::Remove] {
            for state in SnapshotState::ALL {
                let (change, settlement) = settle(usage, &snapshot(state, false), &verdict(Effects::Remain));
                assert_ne!(settlement, Settlement::Release, "{usage:?} {state}");
                assert!(change.is_none_or(|change| change.state == SnapshotState::Error));
            }
        }
        let (change, settlement) =
            settle(Use::Make, &snapshot(SnapshotState::Creating, false), &verdict(Effects::Undone));
        assert_eq!((change.unwrap().state, settlement), (SnapshotState::Deleted, Settlement::Release));
        let (change, settlement) =
            settle(Use::Remove, &snapshot(SnapshotState::Deleting, false), &verdict(Effects::Undone));
        assert_eq!((change.unwrap().state, settlement), (SnapshotState::Ready, Settlement::Keep));
    }

    #[test]
    fn sizes_that_make_no_sense_are_not_booked() {
        let settled =
            |output| settle(Use::Make, &snapshot(SnapshotState::Creating, true), &Verdict::Succeeded { output }).1;
        let one = Resources { disk_gib: 1, ..Resources::ZERO };
        assert_eq!(settled(json!({"disk_bytes": 5, "memory_bytes": 0})), Settlement::Use(one));
        for bad in [
            json!({"disk_bytes": -1, "memory_bytes": 0}),
            json!({"disk_bytes": i64::MAX, "memory_bytes": 1}),
            json!({}),
        ] {
            assert_eq!(settled(bad), Settlement::UseHeld);
        }
    }

    #[test]
    fn what_another_left_is_added_and_nothing_is_taken_away() {
        let one = snapshot(SnapshotState::Ready, true);
        assert_eq!(grown(&one, 7), Some(Written { disk_bytes: 7, memory_bytes: 0 }));
        for nonsense in [1, 0, -1, i64::MAX] {
            assert_eq!(grown(&one, nonsense), None, "{nonsense}");
        }
        assert_eq!(grown(&Snapshot { written: None, ..one }, 7), None);
    }

    #[test]
    fn a_deletion_that_left_something_stays_charged_and_is_not_taken_for_whole_again() {
        let deleting = snapshot(SnapshotState::Deleting, false);
        let (change, settlement) = settle(Use::Remove, &deleting, &verdict(Effects::Remain));
        let change = change.unwrap();
        assert_eq!((change.state, change.known, settlement), (SnapshotState::Error, Known::NoMore, Settlement::Keep));
        let left = Snapshot { state: SnapshotState::Error, written: None, ..deleting };
        assert_eq!(observe(&left, true), None);
        assert_eq!(admit(Use::Remove, left.state), Admission::Go);
    }

    #[test]
    fn one_that_its_node_lacks_is_in_error_until_the_node_has_it_again() {
        let ready = snapshot(SnapshotState::Ready, false);
        assert_eq!(observe(&ready, true), None);
        assert_eq!(observe(&ready, false).unwrap().state, SnapshotState::Error);
        assert_eq!(observe(&snapshot(SnapshotState::Error, false), true).unwrap().state, SnapshotState::Ready);
        let broken = Snapshot { written: None, ..snapshot(SnapshotState::Error, false) };
        assert_eq!(observe(&broken, true), None);
    }
}
