//! Why the broker could not be used. No text here has a password in it.

use std::time::Duration;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// This build has no client.
    #[error("this build has no RabbitMQ client: build it with the feature `rabbitmq`")]
    NotBuiltIn,
    /// The address makes no sense.
    #[error("the broker's address makes no sense: {0}; write amqp://USER:PASSWORD@HOST:5672/VHOST, or amqps://…")]
    Address(&'static str),
    /// TLS cannot be set up.
    #[error("TLS to the broker cannot be set up: {0}")]
    Tls(String),
    /// It cannot be reached, or does not let us in.
    #[error("the broker at {address} cannot be reached: {why}")]
    Unreachable {
        /// Where, without the password.
        address: String,
        /// Why.
        why: String,
    },
    /// It did not do what it was asked.
    #[error("the broker refused to {doing}: {why}")]
    Refused {
        /// What it was asked.
        doing: String,
        /// Why not.
        why: String,
    },
    /// It did not answer.
    #[error("the broker did not answer within {} s when asked to {doing}", after.as_secs())]
    Silent {
        /// What it was asked.
        doing: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection is gone. What was published and not confirmed may have arrived.
    #[error("the connection to the broker is gone")]
    Closed,
    /// There is no queue for the message.
    #[error("no queue takes messages of {exchange} with the key {key}")]
    Unroutable {
        /// The exchange.
        exchange: String,
        /// The key.
        key: String,
    },
}
