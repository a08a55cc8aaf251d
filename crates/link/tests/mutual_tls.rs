//! A link over mutual TLS and HTTP/2: the server knows the node by its certificate, and what goes wrong in the
//! handshake reaches the caller as a sentence.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use axum::{
    Extension, Json, Router,
    http::{HeaderMap, Method, Version},
    middleware::AddExtension,
    routing::get,
};
use axum_server::{
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use hostler_link::{Link, LinkError, NO_BODY};
use hostler_model::{Clock, Ids};
use hostler_trust::{
    Authority, Credentials, NodeIdentity, NodeKey, PeerCertificate,
    ca::NODE_VALIDITY,
    tls::{ExpiredClients, ServerTrust, client_config, http_client, server_config},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tower::Layer;

type Peer = Option<PeerCertificate>;

/// Shakes hands, then tells every request of the connection who is at the other end.
#[derive(Clone)]
struct PeerAcceptor(RustlsAcceptor);

impl<S: Send + 'static> Accept<TcpStream, S> for PeerAcceptor {
    type Stream = TlsStream<TcpStream>;
    type Service = AddExtension<S, Peer>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let acceptor = self.0.clone();
        Box::pin(async move {
            let (stream, service) = acceptor.accept(stream, service).await?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let peer: Peer = certificate.and_then(|certificate| PeerCertificate::parse(certificate).ok());
            Ok((stream, Extension(peer).layer(service)))
        })
    }
}

async fn who(version: Version, Extension(peer): Extension<Peer>) -> Json<Value> {
    Json(json!({ "version": format!("{version:?}"), "node": peer.map(|peer| peer.identity.node) }))
}

/// A server of this authority on loopback; its base address.
fn serve(authority: &Authority) -> String {
    hostler_trust::install_crypto();
    let clock = Clock::system();
    let pair = authority.server_certificate(&[], clock.now()).unwrap();
    let config = server_config(authority, pair, ExpiredClients::Refuse, &clock).unwrap();
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(Arc::new(config)));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let router = Router::new().route("/who", get(who));
    let server = axum_server::from_tcp(listener).unwrap().acceptor(PeerAcceptor(acceptor));
    tokio::spawn(server.serve(router.into_make_service()));
    format!("https://{address}")
}

fn credentials(authority: &Authority) -> Credentials {
    let (now, ids, key) = (Clock::system().now(), Ids::seeded(1), NodeKey::generate().unwrap());
    let who = NodeIdentity { node: ids.next(now), enrolment: ids.next(now) };
    let csr = key.csr("node-1").unwrap();
    let signed = authority.sign_node(&csr, who.node, who.enrolment, now, NODE_VALIDITY).unwrap();
    Credentials::new(&key, &signed, authority.ca_pem()).unwrap()
}

async fn ask(base: &str, trust: ServerTrust<'_>, credentials: Option<&Credentials>) -> Result<Value, LinkError> {
    let config = client_config(trust, credentials, &Clock::system()).unwrap();
    let link = Link::http(http_client(config).unwrap(), base)?;
    Ok(link.call_json(Method::GET, "/who", NO_BODY, HeaderMap::new()).await?.body)
}

#[tokio::test]
async fn the_server_knows_a_node_by_its_certificate_and_a_joiner_as_nobody() {
    let authority = Authority::create(Clock::system().now()).unwrap();
    let base = serve(&authority);
    let mine = credentials(&authority);
    let said = ask(&base, ServerTrust::Authority(authority.ca_pem()), Some(&mine)).await.unwrap();
    assert_eq!(said, json!({"version": "HTTP/2.0", "node": mine.identity().node}));
    let said = ask(&base, ServerTrust::Fingerprint(authority.fingerprint()), None).await.unwrap();
    assert_eq!(said, json!({"version": "HTTP/2.0", "node": null}));
}

#[tokio::test]
async fn a_server_of_another_authority_is_unreachable_and_the_sentence_says_why() {
    let now = Clock::system().now();
    let (authority, other) = (Authority::create(now).unwrap(), Authority::create(now).unwrap());
    let base = serve(&authority);
    let error = ask(&base, ServerTrust::Fingerprint(other.fingerprint()), None).await.unwrap_err();
    assert!(error.was_not_sent());
    assert!(error.to_string().contains("is not the one in the join token"), "{error}");
    let error = ask(&base, ServerTrust::Authority(other.ca_pem()), None).await.unwrap_err();
    assert!(error.was_not_sent() && error.to_string().contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_node_of_another_authority_gets_no_answer() {
    let now = Clock::system().now();
    let (authority, other) = (Authority::create(now).unwrap(), Authority::create(now).unwrap());
    let base = serve(&authority);
    let stranger = credentials(&other);
    let answer = ask(&base, ServerTrust::Authority(authority.ca_pem()), Some(&stranger)).await;
    assert!(matches!(answer, Err(LinkError::Unreachable { .. } | LinkError::Broken { .. })), "{answer:?}");
}
