//! TLS for the internal listener and for those who call it: version 1.3, HTTP/2 or 1.1, certificates of our own
//! authority only.
//!
//! The listener asks for a client certificate and accepts none at all, because a joining node has none yet: whoever
//! serves a request demands a [`crate::PeerCertificate`] for everything but the join, and checks its end and its
//! enrolment. Sessions are never resumed, so every connection shows its certificate anew. Never here: routes, nodes
//! that are no longer welcome, the system's list of public authorities.

mod public;

use std::{fmt, sync::Arc, time::Duration};

use hostler_model::Clock;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::danger::ServerCertVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    time_provider::TimeProvider,
    version::TLS13,
};

pub use self::public::{FilesError, PublicCertificate};
use crate::{
    Authority, Credentials, Fingerprint,
    certificate::from_pem,
    verifier::{ExpiredFor, PinnedAuthority},
};

/// How long a node may renew an expired certificate: 30 days (DESIGN §6).
pub const RENEWAL_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);

const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Longer than one lost SYN and its repeats (1 + 2 s), shorter than a person's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that has said nothing for so long is asked whether it is there. Well under the idle timeouts of common
/// firewalls and NATs (60 s and more); a node's heartbeats come about as often, so that few have to ask.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// One that does not answer that within this time is gone, and another may be asked: both together are half a lease, so
/// that one whose network loses everything without a word costs no attempt where there is another.
const PATIENCE: Duration = Duration::from_secs(5);

/// A TLS configuration that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority's certificate cannot be read.
    #[error("the authority's certificate cannot be read: it must be PEM")]
    BadAuthority,
    /// rustls refused the pieces.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
    /// The verifier of client certificates could not be made.
    #[error("client certificates cannot be verified: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The HTTP client could not be made.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// A certificate chain (the leaf first, the authority last) and the leaf's key.
pub struct TlsPair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl TlsPair {
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        TlsPair { chain, key }
    }
}

impl fmt::Debug for TlsPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prints: Vec<_> = self.chain.iter().map(Fingerprint::of).collect();
        f.debug_struct("TlsPair").field("chain", &prints).finish_non_exhaustive()
    }
}

/// What the listener does with a client certificate that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpiredClients {
    /// Breaks the handshake off.
    Refuse,
    /// Lets it in for this long after its end. Whoever serves the request must then refuse it everything but a
    /// renewal: see [`crate::PeerCertificate::is_expired`].
    AdmitFor(Duration),
}

/// How a client knows the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerTrust<'a> {
    /// By the authority's certificate, PEM.
    Authority(&'a str),
    /// By the fingerprint of the authority that the server shows: all that a joining node has.
    Fingerprint(Fingerprint),
}

/// TLS for the internal listener.
///
/// # Errors
/// When rustls refuses the pieces.
pub fn server_config(
    authority: &Authority,
    pair: TlsPair,
    expired: ExpiredClients,
    clock: &Clock,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(client_verifier(authority, expired)?)
        .with_single_cert(pair.chain, pair.key)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_verifier(authority: &Authority, expired: ExpiredClients) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).allow_unauthenticated().build()?;
    Ok(match expired {
        ExpiredClients::Refuse => verifier,
        ExpiredClients::AdmitFor(grace) => Arc::new(ExpiredFor::new(grace, verifier)),
    })
}

/// TLS for a caller of the internal listener: an agent with its credentials, or a joining node without.
///
/// # Errors
/// When the authority's PEM cannot be read or rustls refuses the pieces.
pub fn client_config(
    trust: ServerTrust<'_>,
    credentials: Option<&Credentials>,
    clock: &Clock,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_details(provider(), time(clock)).with_protocol_versions(&[&TLS13])?;
    let builder = match trust {
        ServerTrust::Authority(pem) => builder.with_root_certificates(roots(pem)?),
        ServerTrust::Fingerprint(authority) => {
            let verifier: Arc<dyn ServerCertVerifier> = Arc::new(PinnedAuthority::new(authority, provider()));
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    let mut config = match credentials {
        Some(credentials) => builder.with_client_auth_cert(credentials.chain(), credentials.private_key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// An HTTP client over this TLS: no redirects, no proxy, connections kept alive, no limit on how long an answer may
/// take (a long poll's caller sets its own).
///
/// # Errors
/// When the client cannot be set up.
pub fn http_client(config: ClientConfig) -> Result<reqwest::Client, TlsError> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        .http2_keep_alive_interval(KEEPALIVE)
        .http2_keep_alive_timeout(PATIENCE)
        .http2_keep_alive_while_idle(true)
        .user_agent(concat!("hostler/", env!("CARGO_PKG_VERSION")));
    Ok(client.build()?)
}

/// An HTTP client for `http://` on loopback, which trusts no authority at all: an `https://` address fails.
///
/// # Errors
/// When the client cannot be set up.
pub fn plain_http_client() -> Result<reqwest::Client, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    http_client(config)
}

fn roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in from_pem(pem).ok_or(TlsError::BadAuthority)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

fn time(clock: &Clock) -> Arc<dyn TimeProvider> {
    Arc::new(ClockTime(clock.clone()))
}

/// Our clock as rustls asks for it.
#[derive(Debug)]
struct ClockTime(Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let micros = u64::try_from(self.0.now().as_micros()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_micros(micros)))
    }
}

#[cfg(test)]
mod tests;
