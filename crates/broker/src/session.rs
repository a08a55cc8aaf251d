//! One connection to RabbitMQ, with a channel on which is published and one for each consumer.

mod confirms;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use amqprs::{
    BasicProperties, FieldTable, FieldValue,
    channel::{
        BasicAckArguments, BasicConsumeArguments, BasicPublishArguments, BasicQosArguments, BasicRejectArguments,
        Channel, ConfirmSelectArguments, ConsumerMessage, ExchangeDeclareArguments, QueueBindArguments,
        QueueDeclareArguments,
    },
    connection::{Connection, OpenConnectionArguments},
    tls::TlsAdaptor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::confirms::{Confirms, Watch};
use crate::{Broker, BrokerError, Delivery, Kept, Letter, Queue};

/// How long the broker may take for anything but a confirmation.
const ANSWER: Duration = Duration::from_secs(15);
/// How long it may take to confirm: a queue with copies on other brokers writes to their disks first.
const CONFIRM: Duration = Duration::from_secs(20);
/// How long whoever answers a request may take.
const REPLY: Duration = Duration::from_secs(30);
/// Heartbeats of the connection, in seconds: two that are missing end it.
const HEARTBEAT: u16 = 10;
/// The queue that stands for this connection's own answers.
const REPLIES: &str = "amq.rabbitmq.reply-to";
/// The longest name that the protocol can say.
const NAME: usize = 255;

type Replies = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

/// An open connection. Dropped, it is closed.
pub struct Session {
    connection: Connection,
    publisher: Channel,
    /// The number of the last message that was published: they are counted in the order in which they are sent.
    sequence: tokio::sync::Mutex<u64>,
    confirms: Confirms,
    replies: Replies,
    closed: CancellationToken,
}

impl Session {
    pub(crate) async fn open(broker: &Broker) -> Result<Session, BrokerError> {
        let address = &broker.address;
        let unreachable = |why: String| BrokerError::Unreachable { address: address.to_string(), why };
        let arguments = arguments(broker)?;
        let opening = tokio::time::timeout(ANSWER, Connection::open(&arguments)).await;
        let connection = opening
            .map_err(|_| unreachable(format!("no answer within {} s", ANSWER.as_secs())))?
            .map_err(|error| unreachable(error.to_string()))?;
        let closed = CancellationToken::new();
        watch(&connection, closed.clone());
        let (confirms, replies) = (Confirms::default(), Replies::default());
        let publisher = answered("open a channel", connection.open_channel(None)).await?;
        let callback = Watch::new(closed.clone(), Some(confirms.clone()));
        answered("watch a channel", publisher.register_callback(callback)).await?;
        answered("confirm what is published", publisher.confirm_select(ConfirmSelectArguments::new(false))).await?;
        let own = BasicConsumeArguments::new(REPLIES, "replies").manual_ack(false).finish();
        let (_, answers) = answered("bring answers", publisher.basic_consume_rx(own)).await?;
        tokio::spawn(bring(answers, replies.clone()));
        Ok(Session { connection, publisher, sequence: tokio::sync::Mutex::default(), confirms, replies, closed })
    }

    /// Declares a durable exchange.
    ///
    /// # Errors
    /// When the broker refuses: there may be one of another kind.
    pub async fn exchange(&self, name: &str, kind: &str) -> Result<(), BrokerError> {
        let channel = answered("open a channel", self.connection.open_channel(None)).await?;
        let exchange = ExchangeDeclareArguments::new(name, kind).durable(true).finish();
        answered(&format!("declare the exchange {name}"), channel.exchange_declare(exchange)).await
    }

    /// Whether there is an exchange of this name.
    ///
    /// # Errors
    /// When the connection is gone, or the broker does not let us ask.
    pub async fn has_exchange(&self, name: &str) -> Result<bool, BrokerError> {
        let channel = answered("open a channel", self.connection.open_channel(None)).await?;
        let looked = ExchangeDeclareArguments::new(name, "direct").passive(true).finish();
        let found = answered(&format!("look for the exchange {name}"), channel.exchange_declare(looked)).await;
        // The broker closes the channel on which it is asked for what is not there.
        if self.connection.is_open() { Ok(found.is_ok()) } else { found.map(|()| true) }
    }

    /// How many messages wait in a queue, and how many consume it; `None`: there is none.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn look(&self, name: &str) -> Result<Option<(u32, u32)>, BrokerError> {
        let channel = answered("open a channel", self.connection.open_channel(None)).await?;
        let looked = QueueDeclareArguments::new(name).passive(true).finish();
        match answered(&format!("look for the queue {name}"), channel.queue_declare(looked)).await {
            Ok(found) => Ok(found.map(|(_, messages, consumers)| (messages, consumers))),
            Err(_) if self.connection.is_open() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Declares a queue and what feeds it. One that is there already stays as it is, whoever made it.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn queue(&self, queue: &Queue) -> Result<(), BrokerError> {
        let Queue { name, from: (exchange, key), .. } = queue;
        let mut channel = answered("open a channel", self.connection.open_channel(None)).await?;
        let looked = QueueDeclareArguments::new(name).passive(true).finish();
        if answered("look for a queue", channel.queue_declare(looked)).await.is_err() {
            // The broker closes the channel on which it is asked for what is not there.
            channel = answered("open a channel", self.connection.open_channel(None)).await?;
            let declared = QueueDeclareArguments::durable_client_named(name).arguments(arguments_of(queue)).finish();
            answered(&format!("declare the queue {name}"), channel.queue_declare(declared)).await?;
        }
        let bound = QueueBindArguments::new(name, exchange, key);
        answered(&format!("bind the queue {name}"), channel.queue_bind(bound)).await
    }

    /// Publishes a message, and waits until the broker has it.
    ///
    /// # Errors
    /// When it is not known to have it; it may have it all the same.
    pub async fn publish(&self, letter: Letter) -> Result<(), BrokerError> {
        let Letter { exchange, key, .. } = &letter;
        let (exchange, key) = (exchange.clone(), key.clone());
        let confirmed = self.send(letter).await?;
        tokio::select! {
            confirmed = tokio::time::timeout(CONFIRM, confirmed) => match confirmed {
                Ok(Ok(outcome)) => outcome.told(exchange, key),
                Ok(Err(_)) => Err(BrokerError::Closed),
                Err(_) => Err(BrokerError::Silent { doing: format!("confirm a message of {exchange}"), after: CONFIRM }),
            },
            () = self.closed.cancelled() => Err(BrokerError::Closed),
        }
    }

    async fn send(&self, letter: Letter) -> Result<oneshot::Receiver<confirms::Outcome>, BrokerError> {
        let short = [
            Some(&letter.exchange),
            Some(&letter.key),
            Some(&letter.id),
            letter.correlation.as_ref(),
            letter.reply_to.as_ref(),
        ];
        if short.into_iter().flatten().any(|name| name.len() > NAME) {
            return Err(BrokerError::Refused { doing: "publish".to_owned(), why: "a name is too long".to_owned() });
        }
        if self.closed.is_cancelled() {
            return Err(BrokerError::Closed);
        }
        let (properties, id) = (properties(&letter), letter.id);
        let to = BasicPublishArguments::new(&letter.exchange, &letter.key).mandatory(letter.mandatory).finish();
        let mut sequence = self.sequence.lock().await;
        let number = *sequence + 1;
        let confirmed = self.confirms.expect(number, id);
        let sent = answered("take a message", self.publisher.basic_publish(properties, letter.body, to)).await;
        if let Err(error) = sent {
            // Whether it was counted is not known.
            self.closed.cancel();
            return Err(error);
        }
        *sequence = number;
        Ok(confirmed)
    }

    /// Publishes a message, and waits for the answer to it.
    ///
    /// # Errors
    /// When there is none; the message may have arrived all the same.
    pub async fn request(&self, letter: Letter) -> Result<Vec<u8>, BrokerError> {
        let id = letter.id.clone();
        let (tell, answer) = oneshot::channel();
        self.lock().insert(id.clone(), tell);
        let asked = Letter { correlation: Some(id.clone()), reply_to: Some(REPLIES.to_owned()), ..letter };
        let answered = async {
            self.publish(asked).await?;
            tokio::select! {
                answer = tokio::time::timeout(REPLY, answer) => match answer {
                    Ok(Ok(answer)) => Ok(answer),
                    Ok(Err(_)) => Err(BrokerError::Closed),
                    Err(_) => Err(BrokerError::Silent { doing: "bring an answer".to_owned(), after: REPLY }),
                },
                () = self.closed.cancelled() => Err(BrokerError::Closed),
            }
        }
        .await;
        self.lock().remove(&id);
        answered
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<Vec<u8>>>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Consumes a queue, with at most so many deliveries neither acknowledged nor rejected.
    ///
    /// # Errors
    /// When the broker refuses: there may be no such queue.
    pub async fn consume(&self, queue: &str, prefetch: u16) -> Result<Consumer, BrokerError> {
        let channel = answered("open a channel", self.connection.open_channel(None)).await?;
        answered("bound deliveries", channel.basic_qos(BasicQosArguments::new(0, prefetch, false))).await?;
        let asked = BasicConsumeArguments::new(queue, "hostler");
        let (_, deliveries) = answered(&format!("deliver from {queue}"), channel.basic_consume_rx(asked)).await?;
        answered("watch a channel", channel.register_callback(Watch::new(self.closed.clone(), None))).await?;
        Ok(Consumer { channel, deliveries })
    }

    /// Ends it.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Until the connection, or a part of it, is gone.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("closed", &self.closed.is_cancelled()).finish_non_exhaustive()
    }
}

/// Says when the connection is gone. It may have gone before this began to listen, so it looks from time to time, too.
fn watch(connection: &Connection, closed: CancellationToken) {
    let connection = connection.clone();
    tokio::spawn(async move {
        loop {
            let look = tokio::time::timeout(Duration::from_secs(1), connection.listen_network_io_failure());
            tokio::select! {
                () = closed.cancelled() => return,
                gone = look => if gone.is_ok() || !connection.is_open() {
                    closed.cancel();
                    return;
                },
            }
        }
    });
}

async fn bring(mut answers: mpsc::UnboundedReceiver<ConsumerMessage>, replies: Replies) {
    while let Some(message) = answers.recv().await {
        let correlation = message.basic_properties.as_ref().and_then(|properties| properties.correlation_id());
        let waiting = correlation.and_then(|id| replies.lock().unwrap_or_else(PoisonError::into_inner).remove(id));
        if let Some(waiting) = waiting {
            // Who asked may have gone.
            drop(waiting.send(message.content.unwrap_or_default()));
        }
    }
}

/// Deliveries of one queue.
pub struct Consumer {
    channel: Channel,
    deliveries: mpsc::UnboundedReceiver<ConsumerMessage>,
}

impl Consumer {
    /// The next one; none when the channel is gone.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            let message = self.deliveries.recv().await?;
            if let Some(delivery) = delivery(message, &self.channel) {
                return Some(delivery);
            }
        }
    }

    /// What can be had without waiting.
    pub fn ready(&mut self) -> Option<Delivery> {
        let message = self.deliveries.try_recv().ok()?;
        delivery(message, &self.channel)
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}

/// Where a delivery is acknowledged.
pub(crate) struct Acker {
    channel: Channel,
    tag: u64,
}

impl Acker {
    pub(crate) async fn ack(&self) -> Result<(), BrokerError> {
        let ack = BasicAckArguments::new(self.tag, false);
        answered("take an acknowledgement", self.channel.basic_ack(ack)).await
    }

    pub(crate) async fn reject(&self) -> Result<(), BrokerError> {
        let reject = BasicRejectArguments::new(self.tag, false);
        answered("take a rejection", self.channel.basic_reject(reject)).await
    }
}

impl fmt::Debug for Acker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acker").field(&self.tag).finish()
    }
}

fn delivery(message: ConsumerMessage, channel: &Channel) -> Option<Delivery> {
    let deliver = message.deliver?;
    let properties = message.basic_properties.unwrap_or_default();
    let text = |part: Option<&String>| part.cloned();
    let headers = properties.headers();
    let header = |name: &str| match headers?.get(&name.try_into().ok()?)? {
        FieldValue::S(text) => Some(text.as_ref().clone()),
        _ => None,
    };
    Some(Delivery {
        body: message.content.unwrap_or_default(),
        content_type: text(properties.content_type()).unwrap_or_default(),
        id: text(properties.message_id()).unwrap_or_default(),
        correlation: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        user: text(properties.user_id()),
        death: header("x-first-death-reason"),
        died_in: header("x-first-death-queue"),
        acker: Acker { channel: channel.clone(), tag: deliver.delivery_tag() },
    })
}

fn arguments(broker: &Broker) -> Result<OpenConnectionArguments, BrokerError> {
    let address = &broker.address;
    let mut arguments = OpenConnectionArguments::new(&address.host, address.port, &address.user, &address.password);
    arguments.virtual_host(&address.vhost).connection_name(&broker.name).heartbeat(HEARTBEAT);
    if address.tls {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| BrokerError::Tls(error.to_string()))?
            .with_root_certificates(authorities(&broker.authorities)?)
            .with_no_client_auth();
        let host = address.host.trim_matches(['[', ']']).to_owned();
        arguments.tls_adaptor(TlsAdaptor::new(tokio_rustls::TlsConnector::from(Arc::new(config)), host));
    }
    Ok(arguments.finish())
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, BrokerError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| BrokerError::Tls("the authorities are not PEM".to_owned()))?;
        roots.add(certificate).map_err(|error| BrokerError::Tls(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(BrokerError::Tls("no authority is known: name a file with their certificates".to_owned()));
    }
    Ok(roots)
}

fn properties(letter: &Letter) -> BasicProperties {
    let mut properties = BasicProperties::default();
    properties.with_content_type(letter.content_type).with_persistence(letter.kept == Kept::OnDisk);
    properties.with_message_id(&letter.id).with_app_id("hostler");
    if let Some(id) = &letter.correlation {
        properties.with_correlation_id(id);
    }
    if let Some(queue) = &letter.reply_to {
        properties.with_reply_to(queue);
    }
    if let Some(expires) = letter.expires {
        properties.with_expiration(&expires.as_millis().to_string());
    }
    properties.finish()
}

fn arguments_of(queue: &Queue) -> FieldTable {
    let mut table = FieldTable::new();
    let mut put = |name: &str, value: FieldValue| {
        if let Ok(name) = name.try_into() {
            table.insert(name, value);
        }
    };
    // Copies on several brokers where there are several; a queue of what need not be kept is no such queue.
    if queue.keeps.is_none() {
        put("x-queue-type", "quorum".into());
    }
    if let Some(dead) = queue.dead {
        put("x-dead-letter-exchange", dead.into());
        // What is given up stays until the other queue has it: that one may not have come up yet after a restart.
        put("x-dead-letter-strategy", "at-least-once".into());
        put("x-overflow", "reject-publish".into());
    }
    if let Some(deliveries) = queue.deliveries {
        put("x-delivery-limit", FieldValue::l(deliveries.into()));
    }
    if let Some(keeps) = queue.keeps {
        put("x-message-ttl", FieldValue::l(i64::try_from(keeps.as_millis()).unwrap_or(i64::MAX)));
    }
    if let Some(most) = queue.most {
        put("x-max-length", FieldValue::l(most.into()));
    }
    table
}

/// What the broker says to a request, which it must do in time.
async fn answered<T>(
    doing: &str,
    request: impl Future<Output = Result<T, amqprs::error::Error>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(BrokerError::Refused { doing: doing.to_owned(), why: error.to_string() }),
        Err(_) => Err(BrokerError::Silent { doing: doing.to_owned(), after: ANSWER }),
    }
}

/// Why the broker closed a channel or ended a consumer, for the log.
fn say(what: &str, why: &str) {
    tracing::warn!(what, why, "the broker ended a part of the connection; it is opened anew");
}
