//! The network between the one server and everybody else: it delays, drops, repeats, and thereby reorders; it is cut for
//! some; and nobody answers while the server is away.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    future::pending,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hostler_link::{Body, Link};
use hostler_trust::NodeIdentity;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use tokio::{
    sync::{Notify, oneshot},
    time::{sleep, timeout},
};
use tower::{BoxError, service_fn};

use crate::{dice::Dice, server::Live, trace::Trace};

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    User(usize),
    Node(usize),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::User(n) => write!(f, "user{n}"),
            End::Node(n) => write!(f, "node{n}"),
        }
    }
}

/// At which door of the server a message is handed in.
#[derive(Clone, Copy)]
pub enum Door {
    People,
    /// With the identity of the certificate, once there is one.
    Agents(Option<NodeIdentity>),
}

/// How the network is.
#[derive(Clone)]
pub struct Weather {
    /// How long a message takes, each way, in milliseconds.
    pub takes: Range<u64>,
    /// How often it takes ten times as long.
    pub slow: f64,
    /// How often a request is lost.
    pub lost: f64,
    /// How often an answer is lost.
    pub unanswered: f64,
    /// How often a request arrives twice.
    pub twice: f64,
}

impl Weather {
    pub fn fair() -> Weather {
        Weather { takes: 1..20, slow: 0.0, lost: 0.0, unanswered: 0.0, twice: 0.0 }
    }

    pub fn foul(dice: &Dice) -> Weather {
        let rate = |most: u64| dice.within(0..most) as f64 / 1000.0;
        Weather {
            takes: 1..dice.within(10..400),
            slow: rate(200),
            lost: rate(200),
            unanswered: rate(200),
            twice: rate(200),
        }
    }
}

/// A request on its way, as often as it is delivered.
#[derive(Clone)]
pub struct Message {
    pub from: End,
    pub door: Door,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the server said.
pub struct Said {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
struct Lost(&'static str);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Lost {}

/// The network. Clones share it.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    dice: Dice,
    trace: Trace,
    weather: Mutex<Weather>,
    cut: Mutex<BTreeSet<End>>,
    server: Mutex<Option<Live>>,
    /// Told when a message reaches the server.
    arrived: Notify,
}

/// What becomes of one message.
struct Fate {
    out: Duration,
    back: Duration,
    lost: bool,
    unanswered: bool,
    /// Whether whoever sent it hears at once that it was lost.
    heard: bool,
    again: Option<Duration>,
    /// Whether the server stops working on it when nobody waits any more.
    given_up: bool,
}

impl Net {
    pub fn new(dice: Dice, trace: Trace) -> Net {
        Net(Arc::new(Inner {
            dice,
            trace,
            weather: Mutex::new(Weather::fair()),
            cut: Mutex::default(),
            server: Mutex::default(),
            arrived: Notify::new(),
        }))
    }

    /// A way from one end to the server.
    pub fn link(&self, from: End, door: Door) -> Link {
        let net = self.clone();
        Link::service(service_fn(move |request: Request<Body>| {
            let net = net.clone();
            async move { net.carry(from, door, request).await }
        }))
    }

    pub fn weather(&self, weather: Weather) {
        *lock(&self.0.weather) = weather;
    }

    pub fn cut(&self, end: End) {
        lock(&self.0.cut).insert(end);
    }

    pub fn mend(&self, end: End) {
        lock(&self.0.cut).remove(&end);
    }

    /// From now on this server answers; or none.
    pub fn serve(&self, server: Option<Live>) {
        *lock(&self.0.server) = server;
    }

    pub fn server(&self) -> Option<Live> {
        lock(&self.0.server).clone()
    }

    /// Waits until a message reaches the server, but not for long.
    pub async fn busy(&self) {
        // Nobody may be sending anything.
        let _ = timeout(Duration::from_secs(3), self.0.arrived.notified()).await;
    }

    fn is_cut(&self, end: End) -> bool {
        lock(&self.0.cut).contains(&end)
    }

    fn fate(&self) -> Fate {
        let (weather, dice) = (lock(&self.0.weather).clone(), &self.0.dice);
        let way = || {
            let takes = dice.ms(weather.takes.clone());
            if dice.happens(weather.slow) { takes * 10 } else { takes }
        };
        Fate {
            out: way(),
            back: way(),
            lost: dice.happens(weather.lost),
            unanswered: dice.happens(weather.unanswered),
            heard: dice.happens(0.7),
            again: dice.happens(weather.twice).then(|| way() * 3),
            given_up: dice.happens(0.5),
        }
    }

    async fn carry(&self, from: End, door: Door, request: Request<Body>) -> Result<Response<Full<Bytes>>, BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let message = Message { from, door, method: parts.method, uri: parts.uri, headers: parts.headers, body };
        let fate = self.fate();
        sleep(fate.out).await;
        if fate.lost || self.is_cut(from) {
            return lost(&fate, "the request was lost").await;
        }
        if let Some(later) = fate.again {
            tokio::spawn(self.clone().repeat(message.clone(), later));
        }
        let Some(said) = self.deliver(message, fate.given_up).await else {
            return lost(&fate, "nobody answers").await;
        };
        sleep(fate.back).await;
        if fate.unanswered || self.is_cut(from) {
            return lost(&fate, "the answer was lost").await;
        }
        let mut response = Response::new(Full::new(said.body));
        (*response.status_mut(), *response.headers_mut()) = (said.status, said.headers);
        Ok(response)
    }

    /// The same message once more, whose answer nobody hears.
    async fn repeat(self, message: Message, later: Duration) {
        sleep(later).await;
        if !self.is_cut(message.from) {
            self.deliver(message, false).await;
        }
    }

    /// Hands a message to the server, which works on it in a task of its own: it may go on when nobody waits any more.
    async fn deliver(&self, message: Message, given_up: bool) -> Option<Said> {
        let server = self.server()?;
        let (tell, said) = oneshot::channel();
        let life = server.life.clone();
        life.spawn(async move {
            let mut tell: oneshot::Sender<Said> = tell;
            let said = tokio::select! {
                biased;
                said = server.answer(message) => said,
                () = tell.closed(), if given_up => return,
            };
            // Nobody may be waiting.
            drop(tell.send(said));
        });
        self.0.arrived.notify_waiters();
        said.await.ok()
    }

    pub fn trace(&self) -> &Trace {
        &self.0.trace
    }
}

async fn lost(fate: &Fate, why: &'static str) -> Result<Response<Full<Bytes>>, BoxError> {
    if fate.heard {
        return Err(Lost(why).into());
    }
    let never: Infallible = pending().await;
    match never {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
