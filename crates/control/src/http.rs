//! HTTP: one file per noun, each a thin translation between a request and the app. `router.rs` lists every route,
//! `access.rs` who may call it, `gate.rs` is what every request passes, `problem.rs` what every error becomes. Never
//! here: a decision, a call of the store.

mod access;
mod asked;
mod audit;
mod blob;
mod body;
mod cursor;
mod docs;
mod document;
mod etag;
mod event;
mod gate;
mod health;
mod idle;
mod image;
mod import;
mod internal;
mod join_token;
mod key;
mod letter;
pub mod listen;
mod node;
mod of_tenant;
mod path;
mod peer;
mod problem;
mod query;
mod quota;
mod router;
mod service_account;
mod snapshot;
mod stats;
mod task;
mod task_log;
mod tenant;
mod token;
mod vm;
mod vm_power;

pub use document::openapi;
pub use listen::PeerAddress;
pub use peer::PeerIdentity;
pub(crate) use router::{agents, people, unlisted};
