//! Which agent calls: the identity in its certificate, as the listener or an in-process caller hands it in. Never
//! here: whether its enrolment is still the node's (the store says).

use axum::extract::{FromRequestParts, Request};
use hostler_model::{Code, NodeId, Refusal, event::RequestOrigin, id::RequestId};
use hostler_trust::{NodeIdentity, PeerCertificate};
use http::request::Parts;

use super::{
    listen::PeerAddress,
    router::{JOIN, RENEW},
};
use crate::app::{App, Error, Result};

/// Who a request comes from, for callers in this process: what the TLS listener takes from the certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerIdentity(pub NodeIdentity);

/// In which request a certificate is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct InRequest {
    /// For the audit.
    pub(super) origin: RequestOrigin,
    /// Whether the certificate that the caller has is over.
    pub(super) late: bool,
}

/// Lets a request in: to the join anybody, to everything else the node whose path it is. A certificate that has ended
/// still opens the renewal; the listener lets in no older one than that allows.
pub(super) fn admit(app: &App, route: Option<&'static str>, id: RequestId, request: &mut Request) -> Result<()> {
    if route == Some(JOIN) || route == Some(RENEW) {
        let source = request.extensions().get().map(|PeerAddress(address)| *address);
        let shown = request.extensions().get::<PeerCertificate>();
        // Whoever shows a certificate is no stranger, and strangers at the same address keep nobody from renewing it.
        if let (Some(source), None) = (source, shown) {
            app.rates.certificate(source)?;
        }
        let late = shown.is_some_and(|certificate| certificate.is_expired(app.clock.now()));
        let origin = RequestOrigin { request: Some(id), source };
        request.extensions_mut().insert(InRequest { origin, late });
    }
    if route == Some(JOIN) {
        return Ok(());
    }
    let certificate = request.extensions().get::<PeerCertificate>().copied();
    let in_process = request.extensions().get::<PeerIdentity>().map(|peer| peer.0);
    let identity = certificate.map(|certificate| certificate.identity).or(in_process).ok_or_else(no_certificate)?;
    if route != Some(RENEW) && certificate.is_some_and(|certificate| certificate.is_expired(app.clock.now())) {
        return Err(expired().into());
    }
    if route.is_some() && node_of(request.uri().path()) != Some(identity.node) {
        return Err(mismatch(identity.node).into());
    }
    request.extensions_mut().insert(PeerIdentity(identity));
    Ok(())
}

/// `/internal/v1/nodes/{node}/…`: the node.
fn node_of(path: &str) -> Option<NodeId> {
    path.strip_prefix("/internal/v1/nodes/")?.split('/').next()?.parse().ok()
}

fn no_certificate() -> Refusal {
    Refusal::new(Code::Unauthenticated, "a client certificate is needed; a node gets one by joining")
}

fn expired() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the client certificate has ended; renew it")
}

fn mismatch(node: NodeId) -> Refusal {
    Refusal::new(Code::IdentityMismatch, "the path names another node than the certificate does")
        .with("certificate_node", node.to_string())
}

impl<S: Sync> FromRequestParts<S> for PeerIdentity {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get().copied().ok_or(Error::Fault("a request without an identity passed the gate"))
    }
}

impl<S: Sync> FromRequestParts<S> for InRequest {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get().copied().ok_or(Error::Fault("a request for a certificate passed the gate unseen"))
    }
}
