//! Takes results: settled first, answered then, acknowledged last. Those of our own agents are signed by the node's key
//! and answered with a receipt; those of others are plain, and believed of the node that they name as far as the broker
//! lets nobody else say so. What cannot be believed is put aside for people.

use futures_util::future::join_all;
use hostler_broker::{BrokerError, Delivery, Kept, Letter, Session};
use hostler_model::{
    Code, Refusal,
    broker::{RESULT_BYTES, RESULTS_QUEUE, SIGNED_RESULT, Settled, glimpse},
    internal::{Receipt, Reports},
};
use hostler_store::{Answer, PlainSettle, Settle};
use hostler_trust::ResultRefusal;

use super::{gather, insist};
use crate::app::App;

/// How many may be here unsettled: each may be large.
const AT_ONCE: u16 = 64;

/// Its enrolment is not the node's current one.
const IDENTITY: &str = "identity";
/// Its certificate has ended while it waited: its agent renews that, and signs anew.
const OVER: &str = "certificate";

/// Takes results until the connection is gone.
pub(super) async fn run(app: &App, session: &Session) -> BrokerError {
    let mut consumer = match session.consume(RESULTS_QUEUE, AT_ONCE).await {
        Ok(consumer) => consumer,
        Err(error) => return error,
    };
    while let Some(batch) = gather(&mut consumer).await {
        let Some(settled) = settle(app, session, &batch).await else { return BrokerError::Closed };
        let ended =
            join_all(batch.iter().zip(settled).map(|(delivery, settled)| conclude(app, session, delivery, settled)));
        if let Some(error) = ended.await.into_iter().find_map(Result::err) {
            return error;
        }
    }
    BrokerError::Closed
}

/// One of a batch: what it says, or why it is refused.
enum Read {
    Ours(Box<Settle>),
    Theirs(Box<PlainSettle>),
    Refused(Refused),
}

/// Why a result is refused: a word for counting, and a sentence.
#[derive(Clone, Debug)]
struct Refused {
    why: &'static str,
    detail: String,
}

async fn settle(app: &App, session: &Session, batch: &[Delivery]) -> Option<Vec<Result<Receipt, Refused>>> {
    let read: Vec<Read> = batch.iter().map(|delivery| read(app, delivery)).collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for one in &read {
        match one {
            Read::Ours(settle) => ours.push((**settle).clone()),
            Read::Theirs(settle) => theirs.push((**settle).clone()),
            Read::Refused(_) => {}
        }
    }
    let ours = insist(session, "results", || app.store.settle(ours.clone())).await?;
    let theirs = insist(session, "results", || app.store.settle_plain(theirs.clone())).await?;
    let (mut ours, mut theirs) = (ours.into_iter(), theirs.into_iter());
    let settled = |answer: Option<Answer<Receipt>>| match answer {
        Some(Ok(receipt)) => Ok(receipt),
        Some(Err(refusal)) => Err(Refused { why: reason(&refusal), detail: refusal.detail }),
        None => Err(Refused { why: "internal", detail: "the store answered fewer items than it was asked".to_owned() }),
    };
    Some(
        read.into_iter()
            .map(|one| match one {
                Read::Ours(_) => settled(ours.next()),
                Read::Theirs(_) => settled(theirs.next()),
                Read::Refused(refused) => Err(refused),
            })
            .collect(),
    )
}

fn reason(refusal: &Refusal) -> &'static str {
    if refusal.code == Code::IdentityMismatch || refusal.code == Code::NodeNotFound { IDENTITY } else { "internal" }
}

fn read(app: &App, delivery: &Delivery) -> Read {
    let body = delivery.body.as_slice();
    let refused = |why, detail: String| Read::Refused(Refused { why, detail });
    if body.len() > RESULT_BYTES {
        return refused("too_large", format!("{} bytes, and {RESULT_BYTES} are read at most", body.len()));
    }
    if delivery.content_type != SIGNED_RESULT {
        return match serde_json::from_slice(body) {
            Ok(result) => Read::Theirs(Box::new(PlainSettle { result, user: delivery.user.clone() })),
            Err(error) => refused("malformed", error.to_string()),
        };
    }
    let reports: Reports = match serde_json::from_slice(body) {
        Ok(reports) => reports,
        Err(error) => return refused("malformed", error.to_string()),
    };
    match app.believe(reports) {
        Ok((_, mut settles)) => match (settles.pop(), settles.is_empty()) {
            (Some(settle), true) => Read::Ours(Box::new(settle)),
            (Some(_), false) | (None, _) => refused("malformed", "a message has one result".to_owned()),
        },
        Err(refusal) => refused(disbelief(refusal), refusal.to_string()),
    }
}

/// Answers who waits for it, and lets go of the message.
async fn conclude(
    app: &App,
    session: &Session,
    delivery: &Delivery,
    settled: Result<Receipt, Refused>,
) -> Result<(), BrokerError> {
    let outcome = match &settled {
        Ok(Receipt::Settled) => "settled",
        Ok(Receipt::Stale) => "stale",
        Ok(Receipt::Unknown) => "unknown",
        Err(refused) => refused.why,
    };
    app.metrics.received(RESULTS_QUEUE, outcome);
    if let Some(to) = &delivery.reply_to {
        answer(session, delivery, to, &settled).await;
    }
    match settled {
        Ok(_) => delivery.ack().await,
        Err(refused) => {
            tracing::warn!(
                why = refused.why,
                detail = refused.detail,
                begins = glimpse(&delivery.body),
                "a result was refused"
            );
            delivery.reject().await
        }
    }
}

fn disbelief(refusal: ResultRefusal) -> &'static str {
    match refusal {
        ResultRefusal::BadCertificate => OVER,
        ResultRefusal::Malformed
        | ResultRefusal::BadSignature
        | ResultRefusal::WrongAudience
        | ResultRefusal::NotSigned => "not_believed",
    }
}

/// What the agent hears: a refusal that is not about the result leaves it the result.
fn told(settled: &Result<Receipt, Refused>) -> Settled {
    match settled {
        Ok(receipt) => Settled::Receipt(*receipt),
        Err(Refused { why, detail }) => {
            Settled::Refused { identity: [IDENTITY, OVER].contains(why), detail: detail.clone() }
        }
    }
}

/// A receipt that does not arrive is asked for again, with the result.
async fn answer(session: &Session, delivery: &Delivery, to: &str, settled: &Result<Receipt, Refused>) {
    let body = serde_json::to_vec(&told(settled)).unwrap_or_default();
    let letter = Letter {
        correlation: delivery.correlation.clone(),
        kept: Kept::InMemory,
        mandatory: false,
        ..Letter::json("", to.to_owned(), delivery.id.clone(), body)
    };
    if let Err(error) = session.publish(letter).await {
        tracing::debug!(%error, "a receipt could not be sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ended_while_a_result_waited_does_not_cost_the_result() {
        let told =
            |refusal: ResultRefusal| told(&Err(Refused { why: disbelief(refusal), detail: refusal.to_string() }));
        let is_of_the_result = |settled| matches!(settled, Settled::Refused { identity: false, .. });
        assert!(!is_of_the_result(told(ResultRefusal::BadCertificate)));
        assert!(is_of_the_result(told(ResultRefusal::BadSignature)));
    }
}
