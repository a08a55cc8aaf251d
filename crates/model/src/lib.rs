//! hostler's functional core: ids, units, specs, task kinds, states and transitions, placement, quota.
//!
//! Everything here is a value or a pure function. Never here: async, IO, SQL, HTTP, a clock, a random number
//! that was not handed in.

pub mod alloc;
pub mod amounts;
pub mod api;
pub mod book;
pub mod broker;
pub mod caller;
pub mod catalogue;
pub mod chain;
pub mod checksum;
pub mod clock;
pub mod cloud_init;
pub mod defaults;
pub mod disk;
pub mod edit;
pub mod error;
pub mod event;
pub mod fence;
pub mod forward;
pub mod id;
pub mod image;
pub mod import;
pub mod internal;
pub mod join_token;
pub mod key;
pub mod kind;
pub mod name;
pub mod node;
pub mod patch;
pub mod placement;
pub mod planted;
pub mod proof;
pub mod quota;
pub mod ready;
pub mod refused;
pub mod reservation;
pub mod restart;
pub mod retry;
pub mod role;
pub mod schedule;
pub mod scope;
pub mod secret;
pub mod snapshot;
pub mod stats;
pub mod task;
pub mod task_log;
pub mod tenant;
pub mod token;
pub mod unassigned;
pub mod unit;
pub mod vm;

pub use clock::{Clock, Timestamp};
pub use error::{Code, Refusal};
pub use fence::Fence;
pub use id::{Ids, ImageDigest, NodeId, PrincipalId, ReservationId, SnapshotId, TaskId, TenantId, TokenId, VmId};
pub use unit::Resources;
