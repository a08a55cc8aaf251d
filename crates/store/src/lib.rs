//! Every durable fact, and every step that changes them.
//!
//! A step is: lock rows in order (tenant, node, VM, task, log head) → pure decision from `hostler_model` → bulk write,
//! in one transaction, over a batch. Each item of a batch is answered by itself; one item's refusal never spoils
//! another's. Steps that arrive together are committed together.
//!
//! Never here: a clock or a random number that was not handed in, HTTP, the shape of an API answer.

mod allocation;
mod api_token;
mod chain;
mod doctor;
mod fleet;
mod gauges;
mod group;
mod history;
mod idempotency;
mod image;
mod import;
pub mod item;
mod key;
mod life;
mod log;
mod node;
#[cfg(test)]
mod plan;
mod proof;
mod relay;
mod reservation;
mod ripened;
mod rows;
mod secret;
mod service;
mod service_account;
mod snapshot;
mod step;
mod store;
mod task;
mod task_log;
mod tenant;
mod timeline;
mod token;
mod vm;
mod work;

pub use api_token::TokensOf;
pub use chain::{Eyes, Piece};
pub use image::Origin;
pub use item::*;
pub use store::{Config, Now, Revoke, Store};

/// Why a step or a query failed, apart from a refusal of an item: our own fault, or the disk's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is full.
    #[error("the store's disk is full: {0}")]
    Full(#[source] hostler_db::Error),
    /// The database failed.
    #[error("the store failed: {0}")]
    Database(#[source] hostler_db::Error),
    /// A committer is gone: the store is being closed.
    #[error("the store is closing")]
    Closing,
}

impl Error {
    /// Whether the store is in trouble as a whole: no item made this error, and none would fare better.
    pub fn is_outage(&self) -> bool {
        match self {
            Error::Full(_) | Error::Closing => true,
            Error::Database(error) => error.is_outage(),
        }
    }
}

impl From<hostler_db::Error> for Error {
    fn from(error: hostler_db::Error) -> Self {
        match error {
            hostler_db::Error::Full { .. } => Error::Full(error),
            other => Error::Database(other),
        }
    }
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;
/// The answer to one item of a batch.
pub type Answer<T> = std::result::Result<T, hostler_model::Refusal>;
