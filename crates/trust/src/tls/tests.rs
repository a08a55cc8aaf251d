//! Who gets through to the internal listener, over real sockets: nodes of ours, joiners without a certificate, nobody
//! else; and whom a client believes to be its server.

use std::{sync::Arc, time::Duration};

use hostler_model::{Ids, Timestamp};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::{NodeIdentity, NodeKey, PeerCertificate, ca::NODE_VALIDITY};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000)
}

fn clock_at(moment: Timestamp) -> Clock {
    Clock::from_fn(move || moment)
}

fn identity() -> NodeIdentity {
    let ids = Ids::seeded(1);
    NodeIdentity { node: ids.next(now()), enrolment: ids.next(now()) }
}

fn credentials(authority: &Authority) -> Credentials {
    let (key, who) = (NodeKey::generate().unwrap(), identity());
    let csr = key.csr("node-1").unwrap();
    let signed = authority.sign_node(&csr, who.node, who.enrolment, now(), NODE_VALIDITY).unwrap();
    Credentials::new(&key, &signed, authority.ca_pem()).unwrap()
}

/// What the two sides of one conversation saw.
struct Seen {
    server: Result<Option<PeerCertificate>, String>,
    client: Result<Option<Vec<u8>>, String>,
}

struct Scene<'a> {
    authority: &'a Authority,
    expired: ExpiredClients,
    trust: ServerTrust<'a>,
    credentials: Option<&'a Credentials>,
    name: &'static str,
    at: Timestamp,
}

impl<'a> Scene<'a> {
    fn new(authority: &'a Authority) -> Self {
        let trust = ServerTrust::Authority(authority.ca_pem());
        Scene { authority, expired: ExpiredClients::Refuse, trust, credentials: None, name: "127.0.0.1", at: now() }
    }

    async fn play(self) -> Seen {
        let clock = clock_at(self.at);
        let pair = self.authority.server_certificate(&["node.example".into()], now()).unwrap();
        let server = server_config(self.authority, pair, self.expired, &clock).unwrap();
        let client = client_config(self.trust, self.credentials, &clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, client) = tokio::join!(serve(listener, server), call(address, client, self.name));
        Seen { server: server.map_err(|error| error.to_string()), client: client.map_err(|error| error.to_string()) }
    }
}

/// Shakes hands, reads a greeting, answers it.
async fn serve(listener: TcpListener, config: rustls::ServerConfig) -> std::io::Result<Option<PeerCertificate>> {
    let (tcp, _) = listener.accept().await?;
    let mut tls = TlsAcceptor::from(Arc::new(config)).accept(tcp).await?;
    let peer = tls.get_ref().1.peer_certificates().map(|chain| PeerCertificate::parse(&chain[0]).unwrap());
    let mut greeting = [0; 5];
    tls.read_exact(&mut greeting).await?;
    tls.write_all(&greeting).await?;
    tls.shutdown().await?;
    Ok(peer)
}

/// Greets and waits for the answer; the protocol that was agreed on.
async fn call(
    address: std::net::SocketAddr,
    config: rustls::ClientConfig,
    name: &'static str,
) -> std::io::Result<Option<Vec<u8>>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name).unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    tls.write_all(b"hello").await?;
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await?;
    assert_eq!(answer, b"hello");
    Ok(tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
}

#[tokio::test]
async fn a_node_of_ours_is_known_by_its_certificate() {
    let authority = Authority::create(now()).unwrap();
    let mine = credentials(&authority);
    let seen = Scene { credentials: Some(&mine), ..Scene::new(&authority) }.play().await;
    assert_eq!(seen.server.unwrap().unwrap().identity, identity());
    assert_eq!(seen.client.unwrap().as_deref(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_joiner_without_a_certificate_gets_through_as_nobody() {
    let authority = Authority::create(now()).unwrap();
    let seen = Scene::new(&authority).play().await;
    assert_eq!(seen.server, Ok(None));
    assert!(seen.client.is_ok());
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused() {
    let (authority, other) = (Authority::create(now()).unwrap(), Authority::create(now()).unwrap());
    let stranger = credentials(&other);
    let seen = Scene { credentials: Some(&stranger), ..Scene::new(&authority) }.play().await;
    assert!(seen.server.unwrap_err().contains("UnknownIssuer"));
    assert!(seen.client.is_err());
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::create(now()).unwrap();
    let mine = credentials(&authority);
    let at = now().plus(DAY + Duration::from_secs(1));
    let seen = Scene { credentials: Some(&mine), at, ..Scene::new(&authority) }.play().await;
    assert!(seen.server.unwrap_err().contains("expired"));
    assert!(seen.client.is_err());
}

#[tokio::test]
async fn an_expired_certificate_is_admitted_for_renewal_for_a_while() {
    let authority = Authority::create(now()).unwrap();
    let mine = credentials(&authority);
    let scene = |at| Scene {
        credentials: Some(&mine),
        expired: ExpiredClients::AdmitFor(RENEWAL_GRACE),
        at,
        ..Scene::new(&authority)
    };
    let at = now().plus(DAY + RENEWAL_GRACE);
    let peer = scene(at).play().await.server.unwrap().unwrap();
    assert_eq!(peer.identity, identity());
    assert!(peer.is_expired(at));
    assert!(!peer.is_expired(now().plus(DAY)));
    let late = scene(at.plus(Duration::from_secs(1))).play().await;
    assert!(late.server.unwrap_err().contains("expired"));
    let fresh = scene(now()).play().await;
    assert!(fresh.server.unwrap().is_some());
}

#[tokio::test]
async fn a_join_tokens_fingerprint_is_enough_to_know_the_server() {
    let authority = Authority::create(now()).unwrap();
    let trust = ServerTrust::Fingerprint(authority.fingerprint());
    assert!(Scene { trust, ..Scene::new(&authority) }.play().await.client.is_ok());
}

#[tokio::test]
async fn another_fingerprint_is_refused_with_a_sentence() {
    let authority = Authority::create(now()).unwrap();
    let other = Authority::create(now()).unwrap();
    let trust = ServerTrust::Fingerprint(other.fingerprint());
    let seen = Scene { trust, ..Scene::new(&authority) }.play().await;
    let sentence = seen.client.unwrap_err();
    assert!(sentence.contains("not the one in the join token"), "{sentence}");
    assert!(seen.server.is_err());
}

#[tokio::test]
async fn showing_the_right_authority_without_its_signature_is_refused() {
    // A chain that ends in the real authority's certificate, under a leaf that another one signed.
    let (real, fake) = (Authority::create(now()).unwrap(), Authority::create(now()).unwrap());
    let mut pair = fake.server_certificate(&[], now()).unwrap();
    pair.chain[1] = real.certificate().clone();
    let server = server_config(&fake, pair, ExpiredClients::Refuse, &clock_at(now())).unwrap();
    let trust = ServerTrust::Fingerprint(Fingerprint::of(real.certificate()));
    let client = client_config(trust, None, &clock_at(now())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, client) = tokio::join!(serve(listener, server), call(address, client, "127.0.0.1"));
    assert!(client.is_err());
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let (authority, other) = (Authority::create(now()).unwrap(), Authority::create(now()).unwrap());
    let trust = ServerTrust::Authority(other.ca_pem());
    assert!(Scene { trust, ..Scene::new(&authority) }.play().await.client.is_err());
}

#[tokio::test]
async fn a_server_is_known_by_the_names_it_was_given_and_no_other() {
    let authority = Authority::create(now()).unwrap();
    for trust in [ServerTrust::Authority(authority.ca_pem()), ServerTrust::Fingerprint(authority.fingerprint())] {
        for (name, known) in [("localhost", true), ("::1", true), ("node.example", true), ("evil.example", false)] {
            let seen = Scene { trust, name, ..Scene::new(&authority) }.play().await;
            assert_eq!(seen.client.is_ok(), known, "{name}");
        }
    }
}

#[tokio::test]
async fn a_node_cannot_pose_as_a_server() {
    // Its certificate is for clients only.
    let authority = Authority::create(now()).unwrap();
    let mine = credentials(&authority);
    let pair = TlsPair::new([mine.chain(), vec![authority.certificate().clone()]].concat(), mine.private_key());
    let server = server_config(&authority, pair, ExpiredClients::Refuse, &clock_at(now())).unwrap();
    let client = client_config(ServerTrust::Authority(authority.ca_pem()), None, &clock_at(now())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, client) = tokio::join!(serve(listener, server), call(address, client, "127.0.0.1"));
    assert!(client.is_err());
}
