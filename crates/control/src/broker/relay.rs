//! Sends what is in the outbox, and notes what the broker has.
//!
//! The outbox hands each offer to one who sends at a time. What the broker confirmed is noted and never sent again; what
//! it did not is handed out again. Wake-ups make it fast, a look each second makes it certain.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
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

use super::{SIGNED, offers_of};
use crate::{
    app::{App, Error, bell::LOOK},
    loops::Outage,
};

/// How many offers go out together.
const PIECE: usize = 128;
/// How many such pieces may be under way.
const PIECES: usize = 8;
/// Beyond this the broker cannot count the time for which a message is good.
const LONGEST: Duration = Duration::from_secs(20 * 24 * 3600);

/// Sends until the connection is gone. A queue that takes its time to confirm does not keep the others waiting.
pub(super) async fn run(app: &App, session: &Session) {
    let mut wakes = app.store.wakes();
    let (queues, outage) = (HashSet::new(), Outage::new("relay"));
    let mut relay = Relay { app, session, queues, look: Instant::now(), outage };
    let mut sending = FuturesUnordered::new();
    while !session.is_closed() || !sending.is_empty() {
        let mut more = false;
        if !session.is_closed() && sending.len() < PIECES {
            relay.declare().await;
            let offers = relay.take().await;
            more = offers.len() == PIECE;
            if !offers.is_empty() {
                sending.push(send(app, session, offers));
            }
        }
        tokio::select! {
            Some(missing) = sending.next(), if !sending.is_empty() => relay.miss(&missing),
            () = session.closed(), if !session.is_closed() => {}
            () = woken(&mut wakes), if !more => {}
            () = tokio::time::sleep(LOOK), if !more => {}
            () = std::future::ready(()), if more && sending.len() < PIECES => {}
        }
    }
}

/// Until some node may have something to fetch.
async fn woken(wakes: &mut broadcast::Receiver<Wakes>) {
    loop {
        match wakes.recv().await {
            Ok(wake) if wake.nodes.is_empty() && !wake.all => {}
            Ok(_) | Err(RecvError::Lagged(_)) => break,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
    // One look serves all that came meanwhile.
    while wakes.try_recv().is_ok() {}
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
            match self.session.queue(&offers_of(&node)).await {
                Ok(()) => drop(self.queues.insert(node.id)),
                Err(error) => tracing::warn!(node.id = %node.id, %error, "the queue of a node's offers cannot be made"),
            }
        }
    }

    /// What is due. Where no node's tasks travel so, nothing can be.
    async fn take(&mut self) -> Vec<Offer> {
        if self.queues.is_empty() {
            return Vec::new();
        }
        let offers = self.app.store.offers(PIECE).await;
        self.outage.note(&offers);
        offers.unwrap_or_default()
    }

    /// Queues that are not there after all are made again.
    fn miss(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            self.queues.remove(node);
            self.look = Instant::now();
        }
    }
}

/// Sends offers, and notes what became of them; the nodes whose queues are not there.
async fn send(app: &App, session: &Session, offers: Vec<Offer>) -> Vec<NodeId> {
    let sent = join_all(offers.iter().map(|offer| publish(app, session, offer))).await;
    let (mut confirmed, mut returned, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (offer, sent) in offers.iter().zip(sent) {
        let Err(error) = sent else {
            confirmed.push(named(offer));
            continue;
        };
        if !session.is_closed() {
            tracing::warn!(task.id = %offer.leased.task, node.id = %offer.node, %error, "an offer could not be sent; it is sent again");
        }
        match error {
            SendError::Broker(BrokerError::Unroutable { .. }) => missing.push(offer.node),
            // Its queue does not answer: it is due again after a while, and the others go first.
            SendError::Broker(BrokerError::Silent { .. }) => continue,
            SendError::Broker(_) | SendError::Sign(_) => {}
        }
        returned.push(offer.leased.task);
    }
    app.metrics.offered(confirmed.len(), offers.len() - confirmed.len());
    note(app, confirmed, returned).await;
    missing
}

/// What is not noted is sent once more, after a while; its fence makes that harmless.
async fn note(app: &App, confirmed: Vec<(TaskId, Fence, Intent)>, returned: Vec<TaskId>) {
    let mut outage = Outage::new("relay");
    if !confirmed.is_empty() {
        outage.note(&app.store.confirm_offers(confirmed).await);
    }
    if !returned.is_empty() {
        outage.note(&app.store.return_offers(returned).await);
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
            (signed.into_bytes(), SIGNED)
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
