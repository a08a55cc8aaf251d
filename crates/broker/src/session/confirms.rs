//! Which published messages wait for the broker's word, by the number under which it counts them; and what else it says
//! on a channel by itself.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return, callbacks::ChannelCallback, channel::Channel};
use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::BrokerError;

/// What the broker said of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It has it.
    Taken,
    /// It has no queue for it.
    Returned,
    /// It does not take it.
    Refused,
}

impl Outcome {
    pub(super) fn told(self, exchange: String, key: String) -> Result<(), BrokerError> {
        match self {
            Outcome::Taken => Ok(()),
            Outcome::Returned => Err(BrokerError::Unroutable { exchange, key }),
            Outcome::Refused => {
                let doing = format!("take a message of {exchange} with the key {key}");
                Err(BrokerError::Refused { doing, why: "it says no more than that".to_owned() })
            }
        }
    }
}

/// Those that wait. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Confirms(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    by_number: BTreeMap<u64, (String, oneshot::Sender<Outcome>)>,
    /// Ids of what came back: the broker says so before it confirms.
    returned: HashSet<String>,
}

impl Confirms {
    /// What the broker will say of the message with this number.
    pub(super) fn expect(&self, number: u64, id: String) -> oneshot::Receiver<Outcome> {
        let (tell, told) = oneshot::channel();
        self.lock().by_number.insert(number, (id, tell));
        told
    }

    fn settle(&self, number: u64, and_before: bool, outcome: Outcome) {
        let mut waiting = self.lock();
        let numbers: Vec<u64> = match and_before {
            // 0 is "all of them".
            true if number == 0 => waiting.by_number.keys().copied().collect(),
            true => waiting.by_number.range(..=number).map(|(number, _)| *number).collect(),
            false => vec![number],
        };
        for number in numbers {
            let Some((id, tell)) = waiting.by_number.remove(&number) else { continue };
            let came_back = waiting.returned.remove(&id);
            // Who waited may have gone.
            let _ = tell.send(if came_back { Outcome::Returned } else { outcome });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens on a channel. Dropped with it, it says that the session is over.
pub(super) struct Watch {
    closed: CancellationToken,
    confirms: Option<Confirms>,
}

impl Watch {
    pub(super) fn new(closed: CancellationToken, confirms: Option<Confirms>) -> Watch {
        Watch { closed, confirms }
    }

    fn settle(&self, number: u64, and_before: bool, outcome: Outcome) {
        if let Some(confirms) = &self.confirms {
            confirms.settle(number, and_before, outcome);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.closed.cancel();
        if let Some(confirms) = &self.confirms {
            confirms.lock().by_number.clear();
        }
    }
}

#[async_trait]
impl ChannelCallback for Watch {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), amqprs::error::Error> {
        super::say("channel", &close.to_string());
        self.closed.cancel();
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, cancel: Cancel) -> Result<(), amqprs::error::Error> {
        super::say("consumer", cancel.consumer_tag());
        self.closed.cancel();
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.settle(ack.delivery_tag(), ack.mutiple(), Outcome::Taken);
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        self.settle(nack.delivery_tag(), nack.multiple(), Outcome::Refused);
    }

    async fn publish_return(&mut self, _: &Channel, _: Return, properties: BasicProperties, _: Vec<u8>) {
        if let (Some(confirms), Some(id)) = (&self.confirms, properties.message_id()) {
            confirms.lock().returned.insert(id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_may_be_of_one_or_of_all_before_it() {
        let confirms = Confirms::default();
        let mut waiting: Vec<_> = (1..=5).map(|number| confirms.expect(number, number.to_string())).collect();
        confirms.lock().returned.insert("2".to_owned());
        confirms.settle(3, true, Outcome::Taken);
        confirms.settle(5, false, Outcome::Refused);
        let told: Vec<_> = waiting.iter_mut().map(|told| told.try_recv().ok()).collect();
        let (taken, returned, refused) = (Some(Outcome::Taken), Some(Outcome::Returned), Some(Outcome::Refused));
        assert_eq!(told, [taken, returned, taken, None, refused]);
        confirms.settle(0, true, Outcome::Taken);
        assert_eq!(waiting[3].try_recv(), Ok(Outcome::Taken));
        assert!(confirms.lock().returned.is_empty());
    }

    #[test]
    fn a_channel_that_is_gone_leaves_nobody_waiting() {
        let (closed, confirms) = (CancellationToken::new(), Confirms::default());
        let mut waiting = confirms.expect(1, "1".to_owned());
        drop(Watch::new(closed.clone(), Some(confirms)));
        assert!(closed.is_cancelled());
        assert_eq!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
