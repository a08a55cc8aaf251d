//! hostler's server: API, app, loops, dispatch.
//!
//! ```text
//! http (one file per noun) ──► app (one file per noun) ──► store
//! loops ──► store          dispatch ──► store (leases), trust (signatures)          broker ──► store, trust
//! ```
//!
//! A [`Server`] is a value: its two routers can be called in process, with an agent's identity as a request extension
//! ([`PeerIdentity`]), or served over TCP. Time, ids and keys come in with [`ServerConfig`]. Never here: state that a
//! restart would miss, SQL, the agent.

pub mod app;
mod broker;
mod dispatch;
mod http;
mod loops;
mod metrics;
pub mod oidc;
mod rate;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use hostler_broker::Broker;
use hostler_model::{Clock, Ids, defaults::Defaults};
use hostler_store::Store;
use hostler_trust::{
    AccessIssuer, Authority, Current, ResultVerifier,
    ca::CaError,
    tls::{self, ExpiredClients, PublicCertificate, RENEWAL_GRACE, TlsError},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

pub use self::{
    app::{
        App,
        import::Sources,
        key::Keyring,
        master::Master,
        seal::{Owner, Sealer},
    },
    broker::doctor::reach as reach_broker,
    dispatch::Dispatch,
    http::{PeerAddress, PeerIdentity, openapi},
    loops::Pace,
    metrics::Metrics,
    oidc::{Oidc, OidcConfig},
    rate::RateLimits,
};
use self::{
    app::{bell::Bell, blob::Blobs},
    http::listen::{self, Wire},
    rate::Rates,
};

/// How often files that an operator renews are looked at.
const FILES_LOOK: Duration = Duration::from_secs(2);

/// What a server is made of.
#[derive(Debug)]
pub struct ServerConfig {
    /// Every durable fact.
    pub store: Store,
    /// Where time comes from; the same one as the store's.
    pub clock: Clock,
    /// Where ids come from.
    pub ids: Ids,
    /// Signs the certificates of nodes and of the internal listener.
    pub authority: Authority,
    /// The keys that sign tasks.
    pub keys: Keyring,
    /// Seals what rests encrypted.
    pub sealer: Sealer,
    /// How long a node's certificate lives: [`hostler_trust::ca::NODE_VALIDITY`] unless an operator says otherwise.
    pub node_validity: Duration,
    /// Issues access tokens.
    pub access: AccessIssuer,
    /// An identity provider whose tokens are believed.
    pub oidc: Option<Oidc>,
    /// What this control plane calls itself: the `iss` of tasks.
    pub issuer: String,
    /// The folder of image bytes.
    pub blobs: PathBuf,
    /// Where imports may come from.
    pub sources: Sources,
    /// What machines get that do not say it.
    pub defaults: Defaults,
    /// Host names and addresses, beside loopback, under which agents reach the internal listener.
    pub names: Vec<String>,
    /// How often the loops run.
    pub pace: Pace,
    /// How much at once.
    pub limits: Limits,
    /// The message broker by which some nodes get their tasks.
    pub broker: Option<Broker>,
}

/// How much at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest blob, in bytes; 64 GiB by default: larger than common cloud images, smaller than most disks.
    pub blob_bytes: u64,
    /// How often somebody may call; without a limit by default.
    pub rates: RateLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { blob_bytes: 64 << 30, rates: RateLimits::default() }
    }
}

/// Why a server could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The internal listener's certificate could not be made.
    #[error("the internal listener's certificate could not be made")]
    Certificate(#[from] CaError),
    /// Its TLS could not be set up.
    #[error("the internal listener's TLS could not be set up")]
    Tls(#[from] TlsError),
    /// Routes that nobody said who may call.
    #[error("the table of who may call what has no line for {}", .0.join(", "))]
    Unlisted(Vec<String>),
    /// A listener failed.
    #[error("a listener failed")]
    Listen(#[from] io::Error),
}

/// A control plane. Clones share it.
#[derive(Clone, Debug)]
pub struct Server {
    app: Arc<App>,
    names: Arc<[String]>,
    pace: Pace,
    certificate: Option<Arc<PublicCertificate>>,
}

impl Server {
    /// A server that answers at once. It needs a tokio runtime: what rings and what dispatches begin here.
    pub fn new(config: ServerConfig) -> Server {
        let closing = CancellationToken::new();
        let metrics = Arc::new(Metrics::default());
        let blobs = Blobs::new(config.blobs, config.limits.blob_bytes);
        blobs.sweep();
        let known = Arc::new(app::caller::Known::default());
        tokio::spawn(app::caller::forget(known.clone(), config.store.wakes(), closing.clone()));
        let results = ResultVerifier::new(&config.authority).expect("an authority's certificate is one");
        let app = App {
            bell: Bell::start(config.store.wakes(), closing.clone()),
            dispatch: Dispatch::start(config.store.clone(), metrics.clone(), closing.clone()),
            store: config.store,
            clock: config.clock,
            ids: config.ids,
            authority: Current::of(config.authority.files(), config.authority),
            keys: config.keys,
            sealer: config.sealer,
            node_validity: config.node_validity,
            revoked: watch::Sender::default(),
            denials: Default::default(),
            refused_joins: Default::default(),
            logins: Default::default(),
            access: config.access,
            oidc: config.oidc,
            issuer: config.issuer,
            blobs,
            metrics,
            closing,
            sources: config.sources,
            defaults: config.defaults.into(),
            broker: config.broker,
            importing: app::import::Imports::default(),
            known,
            rates: Rates::new(config.limits.rates),
            results,
        };
        Server { app: Arc::new(app), names: config.names.into(), pace: config.pace, certificate: None }
    }

    /// What the routes call, for callers in this process.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// The routes of people.
    pub fn api(&self) -> Router {
        http::people(self.app.clone())
    }

    /// The routes of agents. A caller in this process adds [`PeerIdentity`] to its requests; over TCP they must only be
    /// served by [`Server::serve`], which takes identities from certificates.
    pub fn internal(&self) -> Router {
        http::agents(self.app.clone())
    }

    /// Ends what waits: long polls and event streams are answered, the multiplexer stops.
    pub fn close(&self) {
        self.app.closing.cancel();
    }

    /// Runs the loops, and what goes by the broker, until `shutdown`, and returns when each has ended its pass.
    pub async fn run_loops(&self, shutdown: CancellationToken) {
        let by_broker = async {
            if let Some(broker) = self.app.broker.clone() {
                broker::run(self.app.clone(), broker, shutdown.clone()).await;
            }
        };
        tokio::join!(loops::run(self.app.clone(), self.pace, shutdown.clone()), by_broker);
    }

    /// The same server, whose people come over TLS with this certificate.
    #[must_use]
    pub fn with_certificate(self, certificate: Arc<PublicCertificate>) -> Server {
        Server { certificate: Some(certificate), ..self }
    }

    /// Serves people on `api` and agents on `internal`, and runs the loops, until `shutdown`; then lets requests end.
    pub async fn serve(
        &self,
        api: TcpListener,
        internal: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let unlisted = http::unlisted();
        if !unlisted.is_empty() {
            return Err(ServeError::Unlisted(unlisted));
        }
        self.app.store.begin_service();
        let agents = watch::Sender::new(Arc::new(self.tls()?));
        let tls = Wire::Tls(agents.subscribe(), self.app.revoked.subscribe());
        let people = self.people_wire()?;
        let closing = self.app.closing.clone();
        let end = async {
            shutdown.cancelled().await;
            closing.cancel();
        };
        tokio::join!(
            end,
            self.run_loops(shutdown.clone()),
            self.follow_files(agents, shutdown.clone()),
            listen::serve(api, people, self.api(), shutdown.clone()),
            listen::serve(internal, tls, self.internal(), shutdown.clone()),
        );
        Ok(())
    }

    /// What people speak: TLS where there is a certificate for them.
    fn people_wire(&self) -> Result<Wire, ServeError> {
        Ok(match &self.certificate {
            Some(certificate) => Wire::Public(Arc::new(certificate.config(&self.app.clock)?)),
            None => Wire::Plain,
        })
    }

    /// Takes up again what an operator renews in files: the certificate of people, and that of the authority.
    async fn follow_files(&self, agents: watch::Sender<Arc<rustls::ServerConfig>>, shutdown: CancellationToken) {
        let agents = Arc::new(agents);
        while shutdown.run_until_cancelled(tokio::time::sleep(FILES_LOOK)).await.is_some() {
            let (server, agents) = (self.clone(), agents.clone());
            let looked = tokio::task::spawn_blocking(move || {
                server.follow_certificate();
                server.follow_authority(&agents);
            });
            if let Err(error) = looked.await {
                tracing::error!(%error, "the files of certificates could not be looked at");
            }
        }
    }

    fn follow_certificate(&self) {
        match self.certificate.as_ref().map(|certificate| certificate.reload()) {
            Some(Ok(true)) => tracing::info!("the API shows the certificate that is in its file now"),
            Some(Ok(false)) | None => {}
            Some(Err(error)) => tracing::error!(%error, "the API goes on with the certificate that it has"),
        }
    }

    fn follow_authority(&self, agents: &watch::Sender<Arc<rustls::ServerConfig>>) {
        match self.app.authority.reload(Authority::renewed) {
            Ok(true) => match self.tls() {
                Ok(config) => {
                    agents.send_replace(Arc::new(config));
                    let until = self.app.authority.get().expires_at();
                    tracing::info!(%until, "the authority is as its files have it now");
                }
                Err(error) => tracing::error!(%error, "agents are shown the certificate that they were shown"),
            },
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the server goes on with the authority that it has"),
        }
    }

    fn tls(&self) -> Result<rustls::ServerConfig, ServeError> {
        let authority = self.app.authority.get();
        let pair = authority.server_certificate(&self.names, self.app.clock.now())?;
        let expired = ExpiredClients::AdmitFor(RENEWAL_GRACE);
        Ok(tls::server_config(&authority, pair, expired, &self.app.clock)?)
    }
}
