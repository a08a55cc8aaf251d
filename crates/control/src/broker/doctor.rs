//! Whether the broker is as it must be: there, with what the servers declare, and with nobody's messages left lying. It
//! looks, and makes nothing.

use hostler_broker::{Broker, BrokerError, Session};
use hostler_model::{
    api::Check,
    broker::{DEAD_QUEUE, RESULTS_DEAD_QUEUE, RESULTS_QUEUE, TELEMETRY_QUEUE, Transport, offers_queue},
    node::Node,
};

use super::EXCHANGES;

/// What is lacking where no server has been connected yet.
const NOT_MADE: &str = "a server makes it when it connects: is one running, and may its user configure there?";

/// The broker by itself: whether it lets us in, and what of ours is there.
///
/// # Errors
/// It cannot be reached, or something there is of another kind than ours.
pub async fn reach(broker: &Broker) -> Result<String, BrokerError> {
    let session = broker.open().await?;
    let mut lacking = Vec::new();
    for (name, kind) in EXCHANGES {
        match session.has_exchange(name).await? {
            true => session.exchange(name, kind).await?,
            false => lacking.push(name),
        }
    }
    Ok(match lacking.is_empty() {
        true => format!("{} answers, and has the exchanges", broker.address),
        false => format!("{} answers; a server will make the exchanges {}", broker.address, lacking.join(", ")),
    })
}

/// Everything that can be seen of it, for these nodes.
pub(crate) async fn examine(broker: &Broker, nodes: &[Node]) -> Vec<Check> {
    let seen = match reach(broker).await {
        Ok(seen) => seen,
        Err(error) => {
            let advice = "tasks of nodes that it serves wait meanwhile: see that it runs, and that amqp_file has its \
                          address, its virtual host and a user of it";
            return vec![Check::new("broker", false, format!("{error}; {advice}"))];
        }
    };
    let mut checks = vec![Check::new("broker", true, seen)];
    let looked = async {
        let session = broker.open().await?;
        Ok::<_, BrokerError>([queues(&session).await?, offers(&session, nodes).await?, refused(&session).await?])
    };
    match looked.await {
        Ok(more) => checks.extend(more),
        Err(error) => checks.push(Check::new("broker queues", false, error.to_string())),
    }
    checks
}

/// The servers' own queues: there, and consumed.
async fn queues(session: &Session) -> Result<Check, BrokerError> {
    let mut ills = Vec::new();
    for name in [DEAD_QUEUE, RESULTS_QUEUE, TELEMETRY_QUEUE] {
        match session.look(name).await? {
            None => ills.push(format!("{name} is missing; {NOT_MADE}")),
            Some((messages, 0)) => {
                ills.push(format!("no server consumes {name}, with {messages} messages; restart the servers"));
            }
            Some(_) => {}
        }
    }
    Ok(told("broker queues", ills, "the servers' are there, and consumed"))
}

/// The nodes' queues: whoever has offers is there to take them.
async fn offers(session: &Session, nodes: &[Node]) -> Result<Check, BrokerError> {
    let mut ills = Vec::new();
    for node in nodes.iter().filter(|node| node.transport != Transport::Poll) {
        if let Some((messages, 0)) = session.look(&offers_queue(node.id)).await?.filter(|(messages, _)| *messages > 0) {
            let name = &node.name;
            ills.push(format!(
                "{messages} offers wait for {name}, and nobody consumes its queue; is its agent running?"
            ));
        }
    }
    Ok(told("broker offers", ills, "none waits for an agent that is not there"))
}

/// Results that could not be taken.
async fn refused(session: &Session) -> Result<Check, BrokerError> {
    let ills = match session.look(RESULTS_DEAD_QUEUE).await? {
        None => vec![format!("{RESULTS_DEAD_QUEUE} is missing; {NOT_MADE}")],
        Some((0, _)) => Vec::new(),
        Some((messages, _)) => vec![format!(
            "{messages} results that were refused lie in {RESULTS_DEAD_QUEUE}: look at who sent them, then `rabbitmqctl \
             purge_queue {RESULTS_DEAD_QUEUE}`"
        )],
    };
    Ok(told("broker dead letters", ills, "no result was refused"))
}

fn told(name: &str, ills: Vec<String>, otherwise: &str) -> Check {
    if ills.is_empty() { Check::new(name, true, otherwise) } else { Check::new(name, false, ills.join("; ")) }
}
