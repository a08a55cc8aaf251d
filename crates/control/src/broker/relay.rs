//! Sends what is in the outbox, and notes what the broker has.
//!
//! The outbox hands each offer to one who sends at a time. What the broker confirmed is noted and never sent again; what
//! it did not is handed out again. Wake-ups make it fast, a look each second makes it certain.

use std::{collections::HashSet, time::Duration};

use futures_util::future::join_all;
use hostler_broker::{BrokerError, Letter, Session};
use hostler_model::{
    Fence, NodeId, TaskId,
    broker::{JOBS, PlainTask, Transport, offer_id, offers_key},
    task::Intent,
};
use hostler_store::{Offer, Wakes};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};

use super::offers_of;
use crate::{
    app::{App, Error, bell::LOOK},
    loops::Outage,
};

/// How many offers go out together.
const PIECE: usize = 128;
/// Beyond this the broker cannot count the time for which a message is good.
const LONGEST: Duration = Duration::from_secs(20 * 24 * 3600);

/// Sends until the connection is gone.
pub(super) async fn run(app: &App, session: &Session) {
    let mut wakes = app.store.wakes();
    let (queues, outage) = (HashSet::new(), Outage::new("relay"));
    let mut relay = Relay { app, session, queues, look: Instant::now(), outage };
    while !session.is_closed() {
        relay.declare().await;
        while relay.send().await == PIECE && !session.is_closed() {}
        tokio::select! {
            () = session.closed() => {}
            () = woken(&mut wakes) => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Until some node may have something to fetch.
async fn woken(wakes: &mut broadcast::Receiver<Wakes>) {
    loop {
        match wakes.recv().await {
            Ok(wake) if wake.nodes.is_empty() => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

struct Relay<'a> {
    app: &'a App,
    session: &'a Session,
    /// Nodes whose queues are there.
    queues: HashSet<NodeId>,
    /// When to look whether there are others.
    look: Instant,
    outage: Outage,
}

impl Relay<'_> {
    /// Nodes consume queues that are there, so theirs are made before anything is offered.
    async fn declare(&mut self) {
        if Instant::now() < self.look {
            return;
        }
        self.look = Instant::now() + LOOK;
        let nodes = self.app.store.nodes().await;
        self.outage.note(&nodes);
        for node in nodes.unwrap_or_default() {
            if node.transport == Transport::Poll || self.queues.contains(&node.id) {
                continue;
            }
            match self.session.queue(&offers_of(node.id)).await {
                Ok(()) => drop(self.queues.insert(node.id)),
                Err(error) => tracing::warn!(node.id = %node.id, %error, "the queue of a node's offers cannot be made"),
            }
        }
    }

    /// Sends what is due; how much that was.
    async fn send(&mut self) -> usize {
        let offers = self.app.store.offers(PIECE).await;
        self.outage.note(&offers);
        let offers = offers.unwrap_or_default();
        let sent = join_all(offers.iter().map(|offer| publish(self.app, self.session, offer))).await;
        let (mut confirmed, mut returned) = (Vec::new(), Vec::new());
        for (offer, sent) in offers.iter().zip(sent) {
            match sent {
                Ok(()) => confirmed.push(named(offer)),
                Err(error) => {
                    self.failed(offer, &error);
                    returned.push(offer.leased.task);
                }
            }
        }
        self.app.metrics.offered(confirmed.len(), returned.len());
        let all_failed = confirmed.is_empty() && !returned.is_empty();
        self.note(confirmed, returned).await;
        // What failed is due again at once: the pause is for it.
        if all_failed { 0 } else { offers.len() }
    }

    /// What is not noted is sent once more, after a while; its fence makes that harmless.
    async fn note(&mut self, confirmed: Vec<(TaskId, Fence, Intent)>, returned: Vec<TaskId>) {
        if !confirmed.is_empty() {
            self.outage.note(&self.app.store.confirm_offers(confirmed).await);
        }
        if !returned.is_empty() {
            self.outage.note(&self.app.store.return_offers(returned).await);
        }
    }

    fn failed(&mut self, offer: &Offer, error: &SendError) {
        if let SendError::Broker(BrokerError::Unroutable { .. }) = error {
            self.queues.remove(&offer.node);
            self.look = Instant::now();
        }
        if !self.session.is_closed() {
            tracing::warn!(task.id = %offer.leased.task, node.id = %offer.node, %error, "an offer could not be sent; it is sent again");
        }
    }
}

fn named(offer: &Offer) -> (TaskId, Fence, Intent) {
    (offer.leased.task, offer.leased.fence, offer.leased.intent)
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Sign(#[from] Error),
}

async fn publish(app: &App, session: &Session, offer: &Offer) -> Result<(), SendError> {
    Ok(session.publish(letter(app, offer)?).await?)
}

fn letter(app: &App, offer: &Offer) -> Result<Letter, Error> {
    let leased = &offer.leased;
    let (body, content_type) = match offer.form {
        Transport::Plain => (plain(offer)?, "application/json"),
        Transport::Amqp | Transport::Poll => {
            let signed = app.assignments(offer.node, vec![leased.clone()])?.pop().unwrap_or_default();
            (signed.into_bytes(), "application/jose")
        }
    };
    let good_for = offer.expires_at.since(app.clock.now()).max(Duration::from_millis(1));
    let id = offer_id(leased.task, leased.fence);
    let letter = Letter::json(JOBS, offers_key(offer.node), id, body);
    Ok(Letter { content_type, expires: Some(good_for).filter(|time| *time < LONGEST), ..letter })
}

fn plain(offer: &Offer) -> Result<Vec<u8>, Error> {
    let leased = &offer.leased;
    let task = PlainTask {
        task_id: leased.task,
        agent_id: offer.node,
        tenant_id: offer.tenant,
        action: leased.kind,
        target: leased.target.clone(),
        data: leased.params.clone(),
        deadline: leased.deadline,
    };
    serde_json::to_vec(&task).map_err(|_| Error::Fault("a task could not be written as JSON"))
}
