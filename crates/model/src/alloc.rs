//! An allocation: what one task or VM takes of a tenant's quota and a node's room.
//!
//! ```text
//! (taken with the task) held ──success──► used ──absence known──► gone
//!                         └────absence known────────────────────► gone
//! ```
//!
//! The books are sums of these rows. Nothing is given back without evidence of absence.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    amounts::Amounts,
    id::{NodeId, ReservationId, SnapshotId, TaskId, TenantId, VmId},
    task::{Effects, Verdict},
    unit::Resources,
};

/// Who an allocation belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "noun", content = "id", rename_all = "snake_case")]
pub enum Owner {
    /// A task that takes something only while it lives.
    Task(TaskId),
    /// A machine.
    Vm(VmId),
    /// A snapshot.
    Snapshot(SnapshotId),
    /// What an administrator holds by hand.
    Reservation(ReservationId),
}

impl Owner {
    /// The owner's noun, as the store spells it.
    pub const fn noun(self) -> &'static str {
        match self {
            Owner::Task(_) => "task",
            Owner::Vm(_) => "vm",
            Owner::Snapshot(_) => "snapshot",
            Owner::Reservation(_) => "reservation",
        }
    }

    /// The owner's id.
    pub const fn id(self) -> Uuid {
        match self {
            Owner::Task(id) => id.0,
            Owner::Vm(id) => id.0,
            Owner::Snapshot(id) => id.0,
            Owner::Reservation(id) => id.0,
        }
    }
}

/// Whether what is taken is promised or in use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Promised to a task that has not succeeded yet.
    Held,
    /// In use.
    Used,
}

impl Hold {
    /// As the store spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Hold::Held => "held",
            Hold::Used => "used",
        }
    }
}

/// One row of the books.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Allocation {
    /// Whose.
    pub owner: Owner,
    /// Charged to this tenant.
    pub tenant: TenantId,
    /// And to this node, once there is one.
    pub node: Option<NodeId>,
    /// How much.
    pub amount: Amounts,
    /// Promised or in use.
    pub hold: Hold,
}

/// What a task's end does to an allocation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Settlement {
    /// It stays as it is: nobody knows that nothing is left.
    Keep,
    /// It becomes used, with this much of its node.
    Use(Resources),
    /// It becomes used, at the amount that was held.
    UseHeld,
    /// It goes.
    Release,
}

impl Settlement {
    /// What a task's own allocation comes to: it goes when nothing is left.
    pub fn of_task(verdict: &Verdict) -> Settlement {
        match verdict {
            Verdict::Succeeded { .. } | Verdict::Unsuccessful { effects: Effects::Undone, .. } => Settlement::Release,
            Verdict::Unsuccessful { effects: Effects::Remain, .. } => Settlement::Keep,
        }
    }

    /// The allocation afterwards; `None` when it is gone.
    pub fn apply(self, allocation: Allocation) -> Option<Allocation> {
        match self {
            Settlement::Keep => Some(allocation),
            Settlement::Use(room) => {
                Some(Allocation { amount: allocation.amount.with_room(room), hold: Hold::Used, ..allocation })
            }
            Settlement::UseHeld => Some(Allocation { hold: Hold::Used, ..allocation }),
            Settlement::Release => None,
        }
    }
}
