//! hostler's node agent: inbox (fence, journal), one handler per kind, one driver per machine, hypervisors.

pub mod agent;
pub mod attempt;
pub mod backoff;
mod blocking;
pub mod broker;
pub mod config;
pub mod enrol;
pub mod facts;
pub mod fence;
pub mod guest;
pub mod handler;
pub mod heartbeat;
pub mod host;
pub mod hypervisor;
pub mod image;
pub mod inbox;
pub mod journal;
pub mod metrics;
pub mod redact;
mod refused;
pub mod report;
pub mod secret;
pub mod server;
pub mod tether;
pub mod vm;
pub mod work;

pub use agent::{Agent, AgentError};
pub use config::{AgentConfig, Connect};
pub use hostler_model::node::Slots;
