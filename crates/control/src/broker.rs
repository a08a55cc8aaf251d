//! Tasks by way of a message broker, for nodes whose tasks travel so: offers go out, results, telemetry and dead offers come
//! in. A loop opens one connection after another; while there is none, the outbox keeps what is to be offered.
//!
//! ```text
//! open ─► declare ─► relay · results · dead offers · telemetry ──any of them ends──► a pause, and open again
//! ```
//!
//! What comes in is from outside: its size and form are looked at, what cannot be taken is counted and put aside, and
//! nothing that was taken is acknowledged before it is durable. Never here: a decision about a task (the store's steps).

mod dead;
pub(crate) mod doctor;
mod relay;
mod results;
mod telemetry;

pub(crate) use self::telemetry::sane;

use std::{sync::Arc, time::Duration};

use hostler_broker::{Broker, BrokerError, Consumer, Delivery, Queue, Session};
use hostler_model::{
    broker::{
        DEAD_QUEUE, JOBS, JOBS_DEAD, RESULTS, RESULTS_DEAD, RESULTS_DEAD_QUEUE, RESULTS_QUEUE, TELEMETRY,
        TELEMETRY_QUEUE, Transport, offers_key, offers_queue,
    },
    node::Node,
    retry::Backoff,
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, bell::LOOK},
    loops::Outage,
};

/// The form of a signed offer; in plain form an offer is JSON, and nobody's in particular.
const SIGNED: &str = "application/jose";
/// What there is to publish to, and of which kind each is.
const EXCHANGES: [(&str, &str); 5] =
    [(JOBS, "direct"), (JOBS_DEAD, "fanout"), (RESULTS, "topic"), (RESULTS_DEAD, "fanout"), (TELEMETRY, "topic")];
/// Pauses between attempts to open a connection: from this, twice as long each time, up to that.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often one message is delivered before it is put aside: who consumes it may have been killed that often.
const DELIVERIES: u16 = 20;
/// How often to an agent of ours: what waits for a slot there comes again with each connection, and no agent dies of it.
const TO_OURS: u16 = 1000;
/// How long a heartbeat is news.
const NEWS: Duration = Duration::from_secs(60);
/// How many heartbeats lie there at most.
const HEARTBEATS: u32 = 10_000;
/// How many results that could not be taken are kept for people.
const ASIDE: u32 = 10_000;
/// How many deliveries are taken in one step.
const BATCH: usize = 256;

/// Works until `closing`.
pub(crate) async fn run(app: Arc<App>, broker: Broker, closing: CancellationToken) {
    let mut tries = 0;
    loop {
        let error = serve(&app, &broker, &closing, &mut tries).await;
        app.metrics.broker_connected(false);
        if closing.is_cancelled() {
            return;
        }
        if tries == 0 {
            tracing::warn!(broker = %broker.address, %error, "the broker is not there; trying until it is");
        }
        tries += 1;
        let pause = Backoff::Exponential.pause(PAUSES.0, PAUSES.1, tries, app.ids.unit());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closing.cancelled() => return,
        }
    }
}

/// One connection, from its beginning to its end; why it ended.
async fn serve(app: &App, broker: &Broker, closing: &CancellationToken, tries: &mut u32) -> BrokerError {
    let opened = tokio::select! {
        opened = open(broker) => opened,
        () = closing.cancelled() => Err(BrokerError::Closed),
    };
    let session = match opened {
        Ok(session) => session,
        Err(error) => return error,
    };
    tracing::info!(broker = %broker.address, tries = *tries, "the broker is there");
    *tries = 0;
    app.metrics.broker_connected(true);
    let taking = async {
        let error = tokio::select! {
            error = results::run(app, &session) => error,
            error = dead::run(app, &session) => error,
            error = telemetry::run(app, &session) => error,
            () = session.closed() => BrokerError::Closed,
            () = closing.cancelled() => BrokerError::Closed,
        };
        session.close();
        error
    };
    // The relay notes what became of what it sent before it ends.
    let ((), error) = tokio::join!(relay::run(app, &session), taking);
    error
}

async fn open(broker: &Broker) -> Result<Session, BrokerError> {
    let session = broker.open().await?;
    for (name, kind) in EXCHANGES {
        session.exchange(name, kind).await?;
    }
    for queue in queues() {
        session.queue(&queue).await?;
    }
    Ok(session)
}

/// The server's own queues.
fn queues() -> [Queue; 4] {
    let of = |name: &str, from, key: &str| Queue {
        name: name.to_owned(),
        from: (from, key.to_owned()),
        dead: None,
        deliveries: None,
        keeps: None,
        most: None,
    };
    [
        of(DEAD_QUEUE, JOBS_DEAD, ""),
        Queue { dead: Some(RESULTS_DEAD), deliveries: Some(DELIVERIES), ..of(RESULTS_QUEUE, RESULTS, "task.#") },
        Queue { most: Some(ASIDE), ..of(RESULTS_DEAD_QUEUE, RESULTS_DEAD, "") },
        Queue { keeps: Some(NEWS), most: Some(HEARTBEATS), ..of(TELEMETRY_QUEUE, TELEMETRY, "#") },
    ]
}

/// The queue of a node's offers.
fn offers_of(node: &Node) -> Queue {
    let deliveries = match node.transport {
        Transport::Plain => DELIVERIES,
        Transport::Amqp | Transport::Poll => TO_OURS,
    };
    Queue {
        name: offers_queue(node.id),
        from: (JOBS, offers_key(node.id)),
        dead: Some(JOBS_DEAD),
        deliveries: Some(deliveries),
        keeps: None,
        most: None,
    }
}

/// What is there, once there is anything.
async fn gather(consumer: &mut Consumer) -> Option<Vec<Delivery>> {
    let mut batch = vec![consumer.next().await?];
    while batch.len() < BATCH
        && let Some(more) = consumer.ready()
    {
        batch.push(more);
    }
    Some(batch)
}

/// Asks the store until it answers, or the connection is gone, with which what was delivered comes again.
async fn insist<T, F>(session: &Session, whose: &'static str, mut ask: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = hostler_store::Result<T>>,
{
    let mut outage = Outage::new(whose);
    loop {
        let answer = ask().await;
        outage.note(&answer);
        match answer {
            Ok(answer) => return Some(answer),
            Err(_) if session.is_closed() => return None,
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Acknowledges what was taken. One that cannot be is delivered again, and was taken before.
async fn acknowledge(batch: &[Delivery]) -> Result<(), BrokerError> {
    for delivery in batch {
        delivery.ack().await?;
    }
    Ok(())
}
