//! What a tenant is charged for: what machines take of their nodes, and counts of what costs by being there.

use serde::{Deserialize, Serialize};

use crate::unit::Resources;

macro_rules! amounts {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// What something takes of a tenant's quota. The unit is in the name.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(default)]
        pub struct Amounts {
            $($(#[$doc])* pub $name: i64,)*
        }

        impl Amounts {
            /// Nothing.
            pub const ZERO: Amounts = Amounts { $($name: 0),* };

            /// Each amount by its name, for refusals and tables.
            pub fn each(&self) -> Vec<(&'static str, i64)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            fn zip(self, other: Amounts, f: impl Fn(i64, i64) -> i64) -> Amounts {
                Amounts { $($name: f(self.$name, other.$name)),* }
            }
        }
    };
}

amounts! {
    /// Virtual processors.
    vcpus;
    /// Memory, in MiB.
    memory_mib;
    /// Disk, in GiB.
    disk_gib;
    /// Machines.
    vms;
    /// Machines that run, or are about to.
    running_vms;
    /// Snapshots.
    snapshots;
}

impl Amounts {
    /// Whether this is nothing at all.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// What of it a node has room for.
    pub const fn room(&self) -> Resources {
        Resources { vcpus: self.vcpus, memory_mib: self.memory_mib, disk_gib: self.disk_gib, vms: self.vms }
    }

    /// The same with this much of a node.
    #[must_use]
    pub const fn with_room(self, room: Resources) -> Amounts {
        let Resources { vcpus, memory_mib, disk_gib, vms } = room;
        Amounts { vcpus, memory_mib, disk_gib, vms, ..self }
    }
}

impl From<Resources> for Amounts {
    fn from(room: Resources) -> Amounts {
        Amounts::ZERO.with_room(room)
    }
}

impl std::ops::Add for Amounts {
    type Output = Amounts;
    fn add(self, other: Amounts) -> Amounts {
        self.zip(other, i64::saturating_add)
    }
}

impl std::ops::Sub for Amounts {
    type Output = Amounts;
    fn sub(self, other: Amounts) -> Amounts {
        self.zip(other, i64::saturating_sub)
    }
}

impl std::ops::AddAssign for Amounts {
    fn add_assign(&mut self, other: Amounts) {
        *self = *self + other;
    }
}

impl std::ops::SubAssign for Amounts {
    fn sub_assign(&mut self, other: Amounts) {
        *self = *self - other;
    }
}
