//! Listeners: connections accepted, TLS for agents, HTTP/1.1 and HTTP/2 on both, and an end that lets requests finish.
//!
//! axum-server does most of this; here the accept loop is our own (over hyper-util) because its graceful end can miss a
//! connection that is just being accepted, and because a handshake must hand its certificate to every request. Never
//! here: what a request means.

use std::{collections::BTreeSet, convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hostler_model::NodeId;
use hostler_trust::PeerCertificate;
use http::Extensions;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's head; over HTTP/1.1 also how long a connection may idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(75);
/// A peer that has said nothing for so long is asked whether it lives. What waits for one that does not is given up: a
/// poll above all, to which work would be leased that nobody fetches.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long it may take to say so.
const PATIENCE: Duration = Duration::from_secs(5);
/// How large a request's head may be: a poll that lists a thousand leases has some 50 KiB.
const HEAD_BYTES: usize = 128 << 10;
/// How many connections there may be: of 10,000 agents, and of those among them that come back before their old one is
/// known to be dead. Beyond that, new ones wait in the kernel's queue.
const CONNECTIONS: usize = 16_384;
/// How long requests may take to end once the server goes away.
const GRACE: Duration = Duration::from_secs(10);
/// After a failed accept (no file descriptors left, say): long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a connection comes from, as every request on it knows.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub IpAddr);

/// What a listener speaks before HTTP.
#[derive(Clone)]
pub(crate) enum Wire {
    /// Nothing: loopback, or behind a proxy that does.
    Plain,
    /// TLS that asks for no certificate.
    Public(Arc<rustls::ServerConfig>),
    /// TLS; a client's certificate is read, and its connections end when its node is among those that were revoked.
    Tls(Arc<rustls::ServerConfig>, watch::Receiver<BTreeSet<NodeId>>),
}

/// Serves until `closing`, then lets requests end.
pub(crate) async fn serve(listener: TcpListener, wire: Wire, router: Router, closing: CancellationToken) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, address, permit)) = accepted else { continue };
        let one = connection((stream, address), wire.clone(), router.clone(), closing.clone());
        connections.spawn(async move {
            one.await;
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "connections were cut off");
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, PeerAddress, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are small and awaited; one that cannot be hurried is still an answer.
            let _ = stream.set_nodelay(true);
            Some((stream, PeerAddress(peer.ip()), permit))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(
    (stream, address): (TcpStream, PeerAddress),
    wire: Wire,
    router: Router,
    closing: CancellationToken,
) {
    let mut known = Extensions::new();
    known.insert(address);
    match wire {
        Wire::Plain => speak(stream, known, router, closing).await,
        Wire::Public(config) => match shake(stream, config).await {
            Ok((stream, _)) => speak(stream, known, router, closing).await,
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        },
        Wire::Tls(config, revoked) => match shake(stream, config).await {
            Ok((stream, None)) => speak(stream, known, router, closing).await,
            Ok((stream, Some(peer))) => {
                known.insert(peer);
                tokio::select! {
                    biased;
                    () = cut(peer, revoked) => tracing::info!(node.id = %peer.identity.node, "a revoked node's connection was cut"),
                    () = speak(stream, known, router, closing) => {}
                }
            }
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        },
    }
}

/// Returns when the node was revoked.
async fn cut(peer: PeerCertificate, mut revoked: watch::Receiver<BTreeSet<NodeId>>) {
    if revoked.wait_for(|revoked| revoked.contains(&peer.identity.node)).await.is_err() {
        // The server is gone, and its connections with it.
        std::future::pending().await
    }
}

async fn shake(
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
) -> io::Result<(Box<TlsStream<TcpStream>>, Option<PeerCertificate>)> {
    let shaken = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
    // A session is more than a thousand bytes, and whoever takes it over would have room for it once more.
    let stream = Box::new(shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??);
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = certificate.map(PeerCertificate::parse).transpose().map_err(io::Error::other)?;
    Ok((stream, peer))
}

async fn speak<S>(stream: S, known: Extensions, router: Router, closing: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().extend(known.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // An error here is a peer that went away or spoke no HTTP: nothing that anybody here could mend.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(PATIENCE)
        .max_header_list_size(HEAD_BYTES as u32);
    builder
}
