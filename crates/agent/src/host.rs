//! The host an agent runs on: processes that keep their identity, durable files, facts, and what a health probe finds.
//!
//! Facts are read under a root directory (`/` outside tests), so that a test can lay out a host of its own. Nothing here
//! changes the host beyond the files it is told to write and the processes it is told to signal, and nothing here knows
//! tasks or the server.

pub mod facts;
pub mod file;
pub mod line;
pub mod pci;
pub mod port;
pub mod probe;
pub mod process;

pub use facts::{Facts, Kvm, facts};
pub use probe::health_probe;
pub use process::{Handle, Process, boot_id};

#[cfg(test)]
mod tests;
