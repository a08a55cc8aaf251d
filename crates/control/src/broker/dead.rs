//! Takes offers that came to nothing: their agent rejected them, nobody took them in time, or whoever did died of them.

use hostler_broker::{BrokerError, Delivery, Session};
use hostler_model::{
    Fence, TaskId,
    broker::{DEAD_QUEUE, glimpse, offers_queue, read_offer_id},
};
use hostler_store::{DeadOffer, Death};

use super::{BATCH, SIGNED, acknowledge, gather, insist};
use crate::app::App;

/// Takes dead offers until the connection is gone.
pub(super) async fn run(app: &App, session: &Session) -> BrokerError {
    let mut consumer = match session.consume(DEAD_QUEUE, BATCH as u16).await {
        Ok(consumer) => consumer,
        Err(error) => return error,
    };
    while let Some(batch) = gather(&mut consumer).await {
        let dead: Vec<DeadOffer> = batch.iter().filter_map(|delivery| read(app, delivery)).collect();
        let Some(changed) = insist(session, "dead offers", || app.store.bury_offers(dead.clone())).await else {
            return BrokerError::Closed;
        };
        tracing::info!(offers = batch.len(), changed, "offers came back from the broker");
        if let Err(error) = acknowledge(&batch).await {
            return error;
        }
    }
    BrokerError::Closed
}

fn read(app: &App, delivery: &Delivery) -> Option<DeadOffer> {
    let death = match delivery.death.as_deref() {
        Some("rejected") => Some((Death::Rejected, "rejected")),
        Some("expired") => Some((Death::Expired, "expired")),
        Some("delivery_limit") => Some((Death::DeliveryLimit, "delivery_limit")),
        Some("maxlen") => Some((Death::Overflow, "maxlen")),
        Some(_) | None => None,
    };
    let (Some((death, word)), Some((task, fence))) = (death, read_offer_id(&delivery.id)) else {
        tracing::warn!(id = glimpse(delivery.id.as_bytes()), "a dead letter that is no offer of ours was thrown away");
        app.metrics.received(DEAD_QUEUE, "malformed");
        return None;
    };
    let signed = delivery.content_type == SIGNED;
    if signed && !is_ours(app, delivery, task, fence) {
        tracing::warn!(task.id = %task, "a dead offer that no server signed, or for another queue, was thrown away");
        app.metrics.received(DEAD_QUEUE, "not_believed");
        return None;
    }
    app.metrics.received(DEAD_QUEUE, word);
    Some(DeadOffer { task, fence, death, signed })
}

/// Whether a server signed this offer, of this attempt, and it died where it was sent to: one that somebody else put into
/// another node's queue says nothing about the task. It may well have run out.
fn is_ours(app: &App, delivery: &Delivery, task: TaskId, fence: Fence) -> bool {
    let offer = std::str::from_utf8(&delivery.body).ok().and_then(|text| app.keys.now().signed.signed(text).ok());
    offer.is_some_and(|offer| {
        let there = delivery.died_in.as_deref() == Some(&offers_queue(offer.aud));
        there && (offer.sub, offer.fence) == (task, fence)
    })
}
