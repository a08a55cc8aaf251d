//! One `tower::Service` between a caller and the server, whatever lies between them: TCP, TLS, or nothing at all.
//!
//! ```text
//! caller ──► Link ──┬─ Link::http:    reqwest, real sockets
//!                   └─ Link::service: a router in the same process; a test's faulty link wraps either
//! ```
//!
//! What comes back is the same either way. Never here: routes, retries, a clock (a time limit is the caller's), and
//! any knowledge of the server's framework.

mod answer;
mod error;
mod link;
mod several;
pub mod sse;

pub use answer::{Answer, chunks};
pub use error::LinkError;
pub use link::{Link, NO_BODY, with_timeout};
/// The body of requests and answers.
pub use reqwest::Body;
