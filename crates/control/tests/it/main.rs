//! The server as it is: its routers, a real store in a folder of its own, time and ids held still.

mod access;
mod address;
mod bad_input;
mod disk;
mod dispatch;
mod edit;
mod events;
mod harness;
mod idempotency;
mod image;
mod import;
mod join_token;
mod letter;
mod life;
mod listen;
mod lists;
mod loops;
mod placement;
mod power;
mod secret;
mod snapshot;
mod stats;
mod task_log;
mod upload;
mod vendor;
mod walk;
