//! A build without a client: every session is refused.

use crate::{Broker, BrokerError, Delivery, Letter, Queue};

/// A connection, which cannot be in this build.
#[derive(Debug)]
pub struct Session(std::convert::Infallible);

impl Session {
    pub(crate) async fn open(_: &Broker) -> Result<Session, BrokerError> {
        Err(BrokerError::NotBuiltIn)
    }

    /// Declares an exchange.
    pub async fn exchange(&self, _: &str, _: &str) -> Result<(), BrokerError> {
        match self.0 {}
    }

    /// Looks for an exchange.
    pub async fn has_exchange(&self, _: &str) -> Result<bool, BrokerError> {
        match self.0 {}
    }

    /// Looks at a queue.
    pub async fn look(&self, _: &str) -> Result<Option<(u32, u32)>, BrokerError> {
        match self.0 {}
    }

    /// Declares a queue.
    pub async fn queue(&self, _: &Queue) -> Result<(), BrokerError> {
        match self.0 {}
    }

    /// Publishes.
    pub async fn publish(&self, _: Letter) -> Result<(), BrokerError> {
        match self.0 {}
    }

    /// Publishes, and waits for the answer.
    pub async fn request(&self, _: Letter) -> Result<Vec<u8>, BrokerError> {
        match self.0 {}
    }

    /// Consumes.
    pub async fn consume(&self, _: &str, _: u16) -> Result<Consumer, BrokerError> {
        match self.0 {}
    }

    /// Ends it.
    pub fn close(&self) {
        match self.0 {}
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        match self.0 {}
    }

    /// Until it is over.
    pub async fn closed(&self) {
        match self.0 {}
    }
}

/// Deliveries, of which there are none in this build.
#[derive(Debug)]
pub struct Consumer(std::convert::Infallible);

impl Consumer {
    /// The next one.
    pub async fn next(&mut self) -> Option<Delivery> {
        match self.0 {}
    }

    /// What can be had without waiting.
    pub fn ready(&mut self) -> Option<Delivery> {
        match self.0 {}
    }
}

/// Where a delivery would be acknowledged.
#[derive(Debug)]
pub(crate) struct Acker(std::convert::Infallible);

impl Acker {
    pub(crate) async fn ack(&self) -> Result<(), BrokerError> {
        match self.0 {}
    }

    pub(crate) async fn reject(&self) -> Result<(), BrokerError> {
        match self.0 {}
    }
}
