//! Listeners: connections accepted, TLS for agents, HTTP/1.1 and HTTP/2 on both, and an end that lets requests finish.
//!
//! axum-server does most of this; here the accept loop is our own (over hyper-util) because its graceful end can miss a
//! connection that is just being accepted, and because a handshake must hand its certificate to every request. Never
//! here: what a request means.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request, response::Response};
use hostler_model::NodeId;
use hostler_trust::PeerCertificate;
use http::{Extensions, HeaderValue, header};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::idle::Usage;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's head; over HTTP/1.1 also how long a connection may idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(75);
/// A peer that has said nothing for so long is asked whether it lives. What waits for one that does not is given up: a
/// poll above all, to which work would be leased that nobody fetches.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long it may take to say so.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection without a certificate may be without a request, or an answer's next piece lie untaken. Who has none
/// may be anybody, and places are few.
const IDLE: Duration = Duration::from_secs(90);
/// The same where agents connect: without a certificate one joins, and nothing else.
const JOINING: Duration = Duration::from_secs(15);
/// How large a request's head may be: a poll that lists a thousand leases has some 50 KiB.
const HEAD_BYTES: usize = 128 << 10;
/// How many connections there may be: of 10,000 agents, and of those among them that come back before their old one is
/// known to be dead. Beyond that, new ones wait in the kernel's queue.
const CONNECTIONS: usize = 16_384;
/// How long requests may take to end once the server goes away.
const GRACE: Duration = Duration::from_secs(10);
/// How long a connection lasts that a revoked or removed node opens: long enough for one refusal.
const FAREWELL: Duration = Duration::from_secs(2);
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
    /// TLS; a client's certificate is read, and its connections end when its node is among those that were revoked or removed.
    /// What is shown is what there is at the time of each handshake.
    Tls(watch::Receiver<Arc<rustls::ServerConfig>>, watch::Receiver<BTreeSet<NodeId>>),
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
        connections.spawn(connection((stream, address, permit), wire.clone(), router.clone(), closing.clone()));
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

/// What a peer speaks.
#[derive(Clone, Copy)]
enum Spoken {
    /// HTTP/2, as was agreed on with the session.
    Http2,
    /// As it begins to.
    Either,
}

/// One connection, until it ends. Thousands of them wait for most of their time, so what one of them holds counts.
async fn connection(
    (stream, address, _room): (TcpStream, PeerAddress, OwnedSemaphorePermit),
    wire: Wire,
    router: Router,
    closing: CancellationToken,
) {
    let mut known = Extensions::new();
    known.insert(address);
    match wire {
        Wire::Plain => speak(Spoken::Either, stream, known, (router, Some(IDLE)), closing).await,
        Wire::Public(config) => match shake(stream, config).await {
            Ok((stream, _)) => speak(agreed(&stream), stream, known, (router, Some(IDLE)), closing).await,
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        },
        Wire::Tls(config, revoked) => match shake(stream, now(config)).await {
            Ok((stream, None)) => speak(agreed(&stream), stream, known, (router, Some(JOINING)), closing).await,
            Ok((stream, Some(peer))) => {
                known.insert(peer);
                tokio::select! {
                    biased;
                    () = cut(peer, revoked) => tracing::info!(node.id = %peer.identity.node, "a revoked or removed node's connection was cut"),
                    () = speak(agreed(&stream), stream, known, (router, None), closing) => {}
                }
            }
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        },
    }
}

fn now(config: watch::Receiver<Arc<rustls::ServerConfig>>) -> Arc<rustls::ServerConfig> {
    config.borrow().clone()
}

fn agreed(stream: &TlsStream<TcpStream>) -> Spoken {
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Spoken::Http2,
        Some(_) | None => Spoken::Either,
    }
}

/// Returns when the node was revoked or removed. One that comes back after that may ask something first: the refusal says to
/// its agent, and so to who reads there, what happened.
async fn cut(peer: PeerCertificate, mut revoked: watch::Receiver<BTreeSet<NodeId>>) {
    if revoked.borrow().contains(&peer.identity.node) {
        return Box::pin(tokio::time::sleep(FAREWELL)).await;
    }
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

/// Speaks HTTP with a peer, of which every request is told what is `known`, until it has asked for nothing for too long.
async fn speak<S>(
    spoken: Spoken,
    stream: S,
    known: Extensions,
    (router, idle): (Router, Option<Duration>),
    closing: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limit = idle.map(|most| (Usage::new(), most));
    let usage = limit.as_ref().map(|(usage, _)| usage.clone());
    let service = service_fn(move |request: http::Request<Incoming>| {
        let under_way = usage.as_ref().map(Usage::begin);
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().extend(known.clone());
        let router = router.clone();
        async move {
            let answer = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            let answer = told_once(answer);
            Ok::<_, Infallible>(match under_way {
                Some(under_way) => under_way.answered(answer),
                None => answer,
            })
        }
    });
    let stream = TokioIo::new(stream);
    match spoken {
        Spoken::Http2 => {
            let connection = http2().serve_connection(stream, service);
            until_closed(pin!(connection), http2::Connection::graceful_shutdown, limit, closing).await;
        }
        Spoken::Either => {
            let either = either();
            let connection = either.serve_connection(stream, service);
            until_closed(pin!(connection), auto::Connection::graceful_shutdown, limit, closing).await;
        }
    }
}

/// Lets a connection be used until its peer goes away or asks for nothing, or the server goes away.
async fn until_closed<C: Future>(
    mut connection: Pin<&mut C>,
    end: impl FnOnce(Pin<&mut C>),
    limit: Option<(Usage, Duration)>,
    closing: CancellationToken,
) {
    // An error here is a peer that went away or spoke no HTTP: nothing that anybody here could mend.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = unused(limit) => {
            end(connection.as_mut());
            let _ = tokio::time::timeout(PATIENCE, connection).await;
        }
        () = closing.cancelled() => {
            end(connection.as_mut());
            let _ = connection.await;
        }
    }
}

async fn unused(limit: Option<(Usage, Duration)>) {
    match limit {
        Some((usage, most)) => usage.unused(most).await,
        None => std::future::pending().await,
    }
}

/// Marks the headers of an answer as not to be remembered. HTTP/2 would keep them in a table, to refer to them later, 4 KiB
/// for each connection, and among ours are the request's number and the time, which never come again.
fn told_once(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    if let Ok(now) = DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now())
        && let Ok(now) = HeaderValue::try_from(now)
    {
        headers.entry(header::DATE).or_insert(now);
    }
    headers.values_mut().for_each(|value| value.set_sensitive(true));
    answer
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(PATIENCE)
        .max_header_list_size(HEAD_BYTES as u32)
        .auto_date_header(false)
        // Nor are a request's headers kept, for the same reason as those of an answer.
        .header_table_size(0);
    builder
}

fn either() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(PATIENCE)
        .max_header_list_size(HEAD_BYTES as u32)
        .auto_date_header(false);
    builder
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_waits_holds_little_beside_its_buffers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let room = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let from = PeerAddress(listener.local_addr().unwrap().ip());
        let waits = connection((stream, from, room), Wire::Plain, Router::new(), CancellationToken::new());
        // HTTP's own state is some 1,500 of it; a second copy of that would be found.
        assert!(size_of_val(&waits) <= 3072, "{}", size_of_val(&waits));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_closed() {
        for (spoken, said) in [
            (Spoken::Either, ""),
            (Spoken::Either, "PRI * HT"),
            (Spoken::Either, "GET / HTTP/1.1\r\nhost: a\r\n"),
            (Spoken::Either, "GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
            (Spoken::Http2, ""),
            (Spoken::Http2, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ] {
            let (mut client, server) = tokio::io::duplex(4096);
            client.write_all(said.as_bytes()).await.unwrap();
            let router = (Router::new(), Some(IDLE));
            let spoken = speak(spoken, server, Extensions::new(), router, CancellationToken::new());
            let ended = tokio::time::timeout(IDLE + PATIENCE * 2, spoken).await;
            assert!(ended.is_ok(), "{said:?}");
        }
    }

    #[test]
    fn headers_of_an_answer_are_not_to_be_remembered() {
        let mut answer = Response::new(axum::body::Body::empty());
        answer.headers_mut().insert("x-request-id", HeaderValue::from_static("1"));
        let answer = told_once(answer);
        assert!(answer.headers().contains_key(header::DATE));
        assert!(answer.headers().values().all(HeaderValue::is_sensitive));
    }
}
