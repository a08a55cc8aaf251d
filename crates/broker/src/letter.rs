//! What is published and what is delivered.

use std::time::Duration;

use crate::{BrokerError, session::Acker};

/// Whether a message outlives the broker's restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// It is written to the broker's disk.
    OnDisk,
    /// It is not.
    InMemory,
}

/// A message to be published.
#[derive(Clone, PartialEq, Debug)]
pub struct Letter {
    /// To which exchange; the one without a name goes to the queue that the key names.
    pub exchange: String,
    /// Under which key.
    pub key: String,
    /// What it says.
    pub body: Vec<u8>,
    /// In which form: a media type.
    pub content_type: &'static str,
    /// Its id: unique among what is published on a session without a confirmation.
    pub id: String,
    /// To what it belongs, where an answer is wanted or given.
    pub correlation: Option<String>,
    /// Where the answer goes.
    pub reply_to: Option<String>,
    /// After what it need not be delivered any more.
    pub expires: Option<Duration>,
    /// Whether it outlives a restart.
    pub kept: Kept,
    /// Whether it is an error that no queue takes it.
    pub mandatory: bool,
}

impl Letter {
    /// JSON that is kept and must arrive somewhere.
    pub fn json(exchange: &str, key: String, id: String, body: Vec<u8>) -> Letter {
        Letter {
            exchange: exchange.to_owned(),
            key,
            body,
            content_type: "application/json",
            id,
            correlation: None,
            reply_to: None,
            expires: None,
            kept: Kept::OnDisk,
            mandatory: true,
        }
    }
}

/// A queue as it is declared where it is not there yet.
#[derive(Clone, PartialEq, Debug)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// The exchange that feeds it, and under which key.
    pub from: (&'static str, String),
    /// Where goes what it gives up.
    pub dead: Option<&'static str>,
    /// How often one message is delivered before it is given up; of queues with copies only.
    pub deliveries: Option<u16>,
    /// How long a message lies in it at most.
    pub keeps: Option<Duration>,
    /// How many messages lie in it at most: the oldest go.
    pub most: Option<u32>,
}

/// A message that was delivered.
#[derive(Debug)]
pub struct Delivery {
    /// What it says.
    pub body: Vec<u8>,
    /// In which form, as its sender says.
    pub content_type: String,
    /// Its id, as its sender says.
    pub id: String,
    /// To what it belongs.
    pub correlation: Option<String>,
    /// Where an answer goes.
    pub reply_to: Option<String>,
    /// Of which user it is, where it says that: the broker lets it be said of nobody else.
    pub user: Option<String>,
    /// Why it died before it came here, where it did: `rejected`, `expired`, `delivery_limit`, `maxlen`.
    pub death: Option<String>,
    /// In which queue it died.
    pub died_in: Option<String>,
    pub(crate) acker: Acker,
}

impl Delivery {
    /// It was taken.
    ///
    /// # Errors
    /// When the channel is gone: it will be delivered again.
    pub async fn ack(&self) -> Result<(), BrokerError> {
        self.acker.ack().await
    }

    /// It was not, and is not to come again: it goes where its queue gives up to.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn reject(&self) -> Result<(), BrokerError> {
        self.acker.reject().await
    }
}
