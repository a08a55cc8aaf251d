//! The server: it starts from what is on its disk, answers, and dies wherever it stands.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use axum::{Router, body::Body};
use hostler_agent::tether::Tether;
use hostler_control::{Keyring, Limits, Master, Pace, PeerIdentity, Sealer, Server, ServerConfig, Sources};
use hostler_db::Mode;
use hostler_model::{Ids, catalogue::Catalogue, defaults::Defaults, event::Actor, placement::Policy};
use hostler_store::{Config, NewJoinToken, Store, Timing};
use hostler_trust::{AccessIssuer, Authority, JoinToken};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::{task::JoinHandle, task::yield_now};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    check,
    dice::Dice,
    disk::Disk,
    history::History,
    net::{Door, Message, Net, Said},
    wall::Wall,
};

/// How many turns of the scheduler those get that a dead server leaves behind: each ends at its next.
const LAST_TURNS: usize = 32;

/// A server that lives. Clones share it.
#[derive(Clone)]
pub struct Live {
    pub store: Store,
    pub life: Tether,
    history: History,
    server: Server,
    people: Router,
    agents: Router,
}

/// What a server leaves when it dies.
pub struct Site {
    dir: PathBuf,
    pub wall: Wall,
    dice: Dice,
    pub net: Net,
    pub history: History,
    disk: Mutex<Disk>,
    running: tokio::sync::Mutex<Option<Running>>,
}

struct Running {
    live: Live,
    loops: JoinHandle<()>,
    closing: CancellationToken,
}

impl Site {
    pub fn new(dir: &Path, wall: Wall, dice: Dice, net: Net, history: History) -> Site {
        let disk = Mutex::new(Disk::new(dir.join("hostler.db")));
        Site { dir: dir.to_owned(), wall, dice, net, history, disk, running: tokio::sync::Mutex::default() }
    }

    /// A server over what is there, which nobody can reach yet.
    pub async fn open(&self) -> anyhow::Result<Live> {
        let (clock, ids) = (self.wall.clock(), Ids::seeded(self.dice.number()));
        let config = Config {
            mode: Mode::Inline,
            clock: clock.clone(),
            ids: ids.clone(),
            timing: Timing::default(),
            placement: Policy::default(),
        };
        let store = Store::open(&self.path(), config)?;
        let ca = self.dir.join("ca");
        let sealer = Sealer::new(store.clone(), Master::file(&self.dir.join("master.key"))?);
        let server = Server::new(ServerConfig {
            broker: None,
            store: store.clone(),
            clock: clock.clone(),
            ids,
            authority: Authority::load_or_create(&ca, clock.now())?,
            keys: Keyring::open(store.clone(), sealer.clone()).await?,
            sealer,
            node_validity: hostler_trust::ca::NODE_VALIDITY,
            access: AccessIssuer::open("simulation", &ca, clock.now())?,
            oidc: None,
            issuer: "simulation".to_owned(),
            blobs: self.dir.join("blobs"),
            sources: Sources {
                allow: Vec::new(),
                roots: Vec::new(),
                files: Vec::new(),
                catalogue: Catalogue::default(),
            },
            defaults: Defaults::default(),
            names: Vec::new(),
            pace: pace(),
            limits: Limits::default(),
        });
        let (people, agents) = (server.api(), server.internal());
        Ok(Live { store, life: Tether::default(), history: self.history.clone(), server, people, agents })
    }

    /// Begins to serve.
    pub async fn serve(&self, live: Live) {
        live.store.begin_service();
        let closing = CancellationToken::new();
        let (server, until) = (live.server.clone(), closing.clone());
        let loops = tokio::spawn(async move { server.run_loops(until).await });
        self.net.serve(Some(live.clone()));
        *self.running.lock().await = Some(Running { live, loops, closing });
    }

    /// Starts a server from what is on the disk, where none lives.
    pub async fn start(&self) {
        if self.running.lock().await.is_some() {
            return;
        }
        let trace = self.net.trace();
        trace.note("the server starts");
        let Some(live) = trace.unless("the server cannot start", self.open().await) else { return };
        self.history.compare(&live.store).await;
        check::doctor(&live.store)
            .await
            .unwrap_or_else(|error| vec![error.to_string()])
            .iter()
            .for_each(|wrong| trace.wrong(wrong));
        self.serve(live).await;
    }

    /// Ends the server where it stands. What its disk had not yet is lost.
    pub async fn crash(&self) {
        let Some(Running { live, loops, closing }) = self.running.lock().await.take() else { return };
        self.net.trace().note("the server dies");
        self.net.serve(None);
        live.life.cut();
        closing.cancel();
        live.server.close();
        live.life.gone().await;
        // A pass that is under way ends as one that was committed just before.
        drop(loops.await);
        drop(live);
        for _ in 0..LAST_TURNS {
            yield_now().await;
        }
        self.disk().lose();
    }

    /// A token with which the node of this name joins anew, where a server lives that makes one.
    pub async fn join_token(&self, node: &str) -> Option<JoinToken> {
        let live = self.net.server()?;
        live.join_token(&Ids::seeded(self.dice.number()), &self.wall, node).await.ok()
    }

    /// The host writes back what it has not been told to, as it does from time to time.
    pub fn write_back(&self) {
        self.disk().write_back();
    }

    /// Its disk is full, or has room again.
    pub fn fill(&self, full: bool) {
        self.disk().fill(full);
    }

    pub fn path(&self) -> PathBuf {
        self.disk().path().to_owned()
    }

    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// As often as it has to be: the loops look at what changed by itself, and looking costs time.
fn pace() -> Pace {
    let seconds = Duration::from_secs;
    Pace {
        lapse_leases: seconds(2),
        expire_queued: seconds(2),
        expire_running: seconds(2),
        judge_nodes: seconds(5),
        restart_vms: seconds(1),
        expire_vms: seconds(5),
        // Blobs are cleared on threads of their own, and there is nothing to clear.
        collect_blobs: seconds(1 << 30),
        ..Pace::default()
    }
}

impl Live {
    /// Answers a message, with all that is to be noted of it.
    pub async fn answer(&self, message: Message) -> Said {
        let trace = self.history.trace().clone();
        trace.note(format!("{} {} {}", message.from, message.method, message.uri));
        let asked = self.history.before(&self.store, &message).await;
        let said = self.pass(&message).await;
        trace.note(format!("{} {} {}: {}", message.from, message.method, message.uri.path(), said.status));
        // A full disk is said to be one, and nothing else may go wrong.
        if said.status.is_server_error() && said.status != StatusCode::INSUFFICIENT_STORAGE {
            let text = String::from_utf8_lossy(&said.body);
            trace.wrong(format!("{} {}: {} {text}", message.method, message.uri, said.status));
        }
        self.history.after(&self.store, asked, &said).await;
        said
    }

    async fn pass(&self, message: &Message) -> Said {
        let mut request = Request::new(Body::from(message.body.clone()));
        *request.method_mut() = message.method.clone();
        *request.uri_mut() = message.uri.clone();
        *request.headers_mut() = message.headers.clone();
        let router = match message.door {
            Door::People => self.people.clone(),
            Door::Agents(identity) => {
                request.extensions_mut().extend(identity.map(PeerIdentity).map(extensions).unwrap_or_default());
                self.agents.clone()
            }
        };
        let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        let (parts, body) = response.into_parts();
        // A body of ours that breaks is an empty one, which no reader takes for an answer.
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Said { status: parts.status, headers: parts.headers, body }
    }

    /// A token that is good for one join of the node of this name.
    pub async fn join_token(&self, ids: &Ids, wall: &Wall, node: &str) -> anyhow::Result<JoinToken> {
        let token = JoinToken::generate(ids, self.server.app().authority.get().fingerprint());
        let new = NewJoinToken {
            id: ids.next(wall.clock().now()),
            token_hash: token.hash().to_string(),
            node_name: Some(node.parse()?),
            validity: Duration::from_secs(3600),
            approve: true,
            actor: Actor::system(),
        };
        self.store.create_join_token(new).await?;
        Ok(token)
    }

    pub fn server(&self) -> &Server {
        &self.server
    }
}

fn extensions(identity: PeerIdentity) -> http::Extensions {
    let mut extensions = http::Extensions::new();
    extensions.insert(identity);
    extensions
}
