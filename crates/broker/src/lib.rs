//! The road over a message broker: one connection at a time, with what was published confirmed, and a loop of its users' own
//! that opens the next one.
//!
//! ```text
//! Broker (address, authority) ──open──► Session ──publish──► confirmed, or not known
//!                                          │──consume──► deliveries, each acknowledged or rejected
//!                                          └──closed──► whoever uses it opens another
//! ```
//!
//! A session that lost anything (its connection, a channel, a consumer) is closed as a whole. Never here: what the
//! messages mean, a password in a text that is shown or logged.

mod address;
mod error;
mod letter;
#[cfg(feature = "rabbitmq")]
mod session;
#[cfg(not(feature = "rabbitmq"))]
#[path = "without.rs"]
mod session;

pub use self::{
    address::Address,
    error::BrokerError,
    letter::{Delivery, Kept, Letter, Queue},
    session::{Consumer, Session},
};

/// Whether this build can speak to RabbitMQ.
pub const BUILT_IN: bool = cfg!(feature = "rabbitmq");

/// A broker that is known: where it is, and whom to believe that it is there.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Where it is, and who we are to it.
    pub address: Address,
    /// The authorities that its certificate may be of, PEM; for `amqps` only.
    pub authorities: Vec<u8>,
    /// What the connection is called in the broker's lists.
    pub name: String,
}

impl Broker {
    /// Opens a connection.
    ///
    /// # Errors
    /// When the broker cannot be reached, or does not let us in.
    pub async fn open(&self) -> Result<Session, BrokerError> {
        Session::open(self).await
    }
}
