//! hostler's typed HTTP client: one method for each route, over any [`Link`](hostler_link::Link).
//!
//! What it takes care of, so that its callers need not:
//!
//! * a call that makes something carries an `Idempotency-Key` of its own, and is sent again under the same key when the
//!   connection breaks: it takes effect once;
//! * events are read as a stream that resumes by itself where it broke ([`Events`]);
//! * every answer that is no success is one of three errors ([`ClientError`]).
//!
//! Never here: printing, waiting for a task's end, files, the environment.

mod api_token;
mod audit;
mod call;
mod client;
mod diagnosis;
mod error;
mod event;
mod image;
mod join_token;
mod key;
mod letter;
mod node;
mod page;
mod quota;
mod snapshot;
mod stats;
mod task;
mod task_log;
mod tenant;
mod token;
mod unassigned;
mod vm;

pub use self::{
    call::{Mode, Patience, Submit},
    client::Client,
    diagnosis::Health,
    error::ClientError,
    event::{EventQuery, Events},
    image::{DryUpload, Held, Rest, Upload},
    node::Decision,
    page::Paging,
    snapshot::SnapshotQuery,
    stats::StatsQuery,
    task::TaskQuery,
    token::Token,
    vm::VmQuery,
};
