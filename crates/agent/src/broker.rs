//! The road by a message broker: offers come, results go. What needs an answer at once (joining, the lease of what is
//! about to begin, heartbeats, progress, texts, images) stays a call to the server.
//!
//! ```text
//! delivered ─► verified as from a poll ─► a slot is kept ─► journal.offered ─► acknowledged
//!           ─► started: the server leases it ─► received as from a poll: journal, fence, handler
//!                                       └─► over: forgotten
//! ```
//!
//! Nothing is done before the lease. An offer that cannot be believed is rejected, and its task ends with that reason. An
//! agent that ends in between finds its offers in the journal, and asks again.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use hostler_broker::{Broker, BrokerError, Delivery, Kept, Letter, Session};
use hostler_link::LinkError;
use hostler_model::{
    Ids,
    broker::{RESULTS, SIGNED_RESULT, Settled, TELEMETRY, offer_id, offers_queue, result_key, telemetry_key},
    error::Code,
    internal::{Assignment, Heartbeat, HeldLease, Receipt, Receipts, Report},
    refused::Why,
    task::Intent,
};
use http::StatusCode;
use serde_json::json;
use tokio::sync::watch;

use crate::{agent::Node, backoff::Outage, inbox, metrics::Counter};

/// After what an offer that may not begin yet is asked about again: its node's queue is paused, say.
const NOT_YET: Duration = Duration::from_secs(2);
/// Beyond the slots, so that what is to be undone does not wait behind what waits for one.
const BESIDE: usize = 16;

/// The road, with its connection as long as there is one.
#[derive(Debug)]
pub struct Road {
    broker: Broker,
    session: watch::Sender<Option<Arc<Session>>>,
}

impl Road {
    /// To this broker; not open yet.
    pub fn new(broker: Broker) -> Road {
        Road { broker, session: watch::Sender::new(None) }
    }

    /// The connection, once there is one.
    pub async fn open(&self) -> Arc<Session> {
        let mut session = self.session.subscribe();
        match session.wait_for(Option::is_some).await.ok().and_then(|session| session.clone()) {
            Some(session) => session,
            // The sender lives as long as we do.
            None => std::future::pending().await,
        }
    }

    fn current(&self) -> Result<Arc<Session>, LinkError> {
        self.session.borrow().clone().ok_or_else(|| self.broken(BrokerError::Closed))
    }

    fn broken(&self, error: BrokerError) -> LinkError {
        LinkError::Broken { url: self.broker.address.to_string(), source: Box::new(error) }
    }

    /// Sends results, and waits until the server has written them down.
    ///
    /// # Errors
    /// When it is not known that it has all of them.
    pub async fn results(&self, node: &Node, batch: &[Report]) -> Result<Receipts, LinkError> {
        let session = self.current()?;
        let receipts = join_all(batch.iter().map(|report| self.result(node, &session, report))).await;
        Ok(Receipts { receipts: receipts.into_iter().collect::<Result<_, _>>()? })
    }

    async fn result(&self, node: &Node, session: &Session, report: &Report) -> Result<Receipt, LinkError> {
        let trust = node.trust.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let signed = trust.signer.sign(vec![report.clone()], &trust.issuer);
        let signed = signed.map_err(|error| LinkError::BadRequest(error.to_string()))?;
        let body = serde_json::to_vec(&signed).map_err(|error| LinkError::BadRequest(error.to_string()))?;
        let id = offer_id(report.task, report.fence);
        let letter = Letter { content_type: SIGNED_RESULT, ..Letter::json(RESULTS, result_key(report.task), id, body) };
        let answer = session.request(letter).await.map_err(|error| self.broken(error))?;
        match serde_json::from_slice(&answer) {
            Ok(Settled::Receipt(receipt)) => Ok(receipt),
            Ok(Settled::Refused { identity, detail }) => {
                let status = if identity { StatusCode::FORBIDDEN } else { StatusCode::UNPROCESSABLE_ENTITY };
                Err(LinkError::Unexpected { status, detail })
            }
            Err(error) => Err(LinkError::Unreadable(error.to_string())),
        }
    }

    /// Lets others at the broker read a heartbeat that the server has. One that gets lost is followed by the next.
    pub fn tell(&self, node: &Node, heartbeat: &Heartbeat) {
        let Ok(session) = self.current() else { return };
        let id = node.server.node();
        let said = json!({
            "agentId": id, "at": node.clock.now(), "facts": heartbeat.facts, "leases": heartbeat.leases,
            "inventory": heartbeat.inventory,
        });
        let body = said.to_string().into_bytes();
        let letter = Letter {
            kept: Kept::InMemory,
            mandatory: false,
            ..Letter::json(TELEMETRY, telemetry_key(id), telemetry_key(id), body)
        };
        node.tether.spawn(async move {
            if let Err(error) = session.publish(letter).await {
                tracing::debug!(%error, "a heartbeat's copy was not sent");
            }
        });
    }
}

/// Takes offers for as long as the agent lives, over one connection after another.
pub async fn take(node: &Arc<Node>, road: &Road, ids: Ids) {
    resume(node, &ids).await;
    let mut outage = Outage::none(ids.clone(), "broker");
    loop {
        let error = match road.broker.open().await {
            Ok(session) => consume(node, road, Arc::new(session), &ids, &mut outage).await,
            Err(error) => error,
        };
        road.session.send_replace(None);
        outage.pause(&error).await;
    }
}

/// What an agent before this one had acknowledged.
async fn resume(node: &Arc<Node>, ids: &Ids) {
    let mut outage = Outage::none(ids.clone(), "offers");
    let offers = loop {
        match node.journal.offers().await {
            Ok(offers) => break offers,
            Err(error) => outage.pause(&error).await,
        }
    };
    for offer in offers {
        let (node, ids) = (node.clone(), ids.clone());
        let tether = node.tether.clone();
        tether.spawn(async move {
            let _place = place(&node, &offer).await;
            begin(&node, &offer, ids).await;
        });
    }
}

async fn consume(node: &Arc<Node>, road: &Road, session: Arc<Session>, ids: &Ids, outage: &mut Outage) -> BrokerError {
    let most = node.facts.slots.total().saturating_add(BESIDE);
    let prefetch = u16::try_from(most).unwrap_or(u16::MAX);
    // Results have a way whether or not there is a queue for us yet.
    road.session.send_replace(Some(session.clone()));
    let mut consumer = match session.consume(&offers_queue(node.server.node()), prefetch).await {
        Ok(consumer) => consumer,
        Err(error) => return error,
    };
    outage.over();
    tracing::info!(node.id = %node.server.node(), broker = %road.broker.address, "taking tasks from the broker");
    loop {
        tokio::select! {
            delivery = consumer.next() => match delivery {
                Some(delivery) => {
                    let (node, session, ids) = (node.clone(), session.clone(), ids.clone());
                    let tether = node.tether.clone();
                    tether.spawn(async move { offered(&node, &session, delivery, ids).await });
                }
                None => return BrokerError::Closed,
            },
            () = session.closed() => return BrokerError::Closed,
        }
    }
}

/// A place among its class, for what is to be done; what is to be undone takes none.
async fn place(node: &Arc<Node>, offer: &Assignment) -> Option<crate::attempt::Reserved> {
    match offer.intent {
        Intent::Run => Some(node.works.reserve(offer.kind.spec().class).await),
        Intent::Abort => None,
    }
}

async fn offered(node: &Arc<Node>, session: &Session, delivery: Delivery, ids: Ids) {
    let token = String::from_utf8_lossy(&delivery.body).into_owned();
    let Some(offer) = inbox::believe(node, &[token]).await.pop() else {
        if let Err(error) = delivery.reject().await {
            tracing::debug!(%error, "an offer could not be rejected; it comes again");
        }
        return;
    };
    let _place = tokio::select! {
        place = place(node, &offer) => place,
        // It comes again over the next connection.
        () = session.closed() => return,
    };
    if let Err(error) = node.journal.offered(&offer, node.clock.now()).await {
        // Not acknowledged: the broker delivers it again, over the next connection at the latest.
        tracing::error!(%error, task.id = %offer.sub, "the journal cannot be written, so an offer was not taken");
        return;
    }
    if let Err(error) = delivery.ack().await {
        tracing::debug!(%error, "an offer could not be acknowledged; it comes again, and is ours already");
    }
    begin(node, &offer, ids).await;
}

/// Asks for the lease until there is an answer, and begins.
async fn begin(node: &Arc<Node>, offer: &Assignment, ids: Ids) {
    let held = HeldLease { task: offer.sub, fence: offer.fence };
    let mut outage = Outage::none(ids, "started");
    loop {
        match node.server.started(held.task, held.fence).await {
            Ok(granted) => match inbox::receive(node, &granted.tasks).await {
                Ok(()) => break,
                Err(error) => outage.pause(&error).await,
            },
            Err(error) if is_over(&error) => {
                over(node, held).await;
                break;
            }
            Err(error) if is_not_yet(&error) => tokio::time::sleep(NOT_YET).await,
            Err(error) => outage.pause(&error).await,
        }
    }
    if let Err(error) = node.journal.forget_offer(held).await {
        // The next start asks about it once more, and is answered as before.
        tracing::error!(%error, "the journal cannot note that an offer was begun");
    }
}

/// An offer that is not to be begun: it was cancelled, or another attempt is current; or it was begun here before, and comes
/// once more.
async fn over(node: &Node, held: HeldLease) {
    let latest = node.journal.latest(held.task).await.ok().flatten();
    if latest.is_some_and(|latest| latest >= held.fence) {
        inbox::refuse(node, Why::OldFence, Some((held.task, held.fence)));
        return inbox::keep_refusals(node).await;
    }
    node.metrics.add(Counter::Lapsed);
    tracing::info!(task.id = %held.task, fence = %held.fence, "an offer is over; it was not begun");
}

fn is_over(error: &LinkError) -> bool {
    matches!(refusal(error), Some(Code::StaleFence | Code::TaskNotFound))
}

fn is_not_yet(error: &LinkError) -> bool {
    refusal(error) == Some(Code::NodeStateConflict)
}

fn refusal(error: &LinkError) -> Option<Code> {
    error.problem().map(|problem| problem.code)
}
