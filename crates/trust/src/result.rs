//! Results that travel by a road where nobody shows a certificate: signed with the node's own key, with its certificate
//! in the envelope.
//!
//! ```text
//! Report ──NodeSigner──► compact JWS (ES256, x5c) ──Authority::believe──► who says so, and the Report
//! ```
//!
//! Whether that enrolment is still welcome is asked elsewhere, as of one that shows its certificate on a connection.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use hostler_model::{Timestamp, internal::Report};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::WebPkiClientVerifier,
};
use serde::{Deserialize, Serialize};

use crate::{Authority, Credentials, NodeIdentity, PeerCertificate};

const TYP: &str = "hostler-result+jwt";

/// Why a result is not believed. The texts are stable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ResultRefusal {
    /// Not a signed result at all.
    #[error("malformed: this is not a signed result")]
    Malformed,
    /// The certificate in it is not one of a node of ours, or has ended.
    #[error("bad_certificate: the certificate is not one of this control plane's nodes, or has ended")]
    BadCertificate,
    /// Not signed by the key of that certificate, or changed on its way.
    #[error("bad_signature: the signature is wrong")]
    BadSignature,
    /// Of another control plane.
    #[error("wrong_audience: the result is for another server")]
    WrongAudience,
}

/// A result that could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("the result could not be signed: {0}")]
pub struct SignError(#[from] jsonwebtoken::errors::Error);

#[derive(Serialize)]
struct Said<'a> {
    aud: &'a str,
    report: &'a Report,
}

#[derive(Deserialize)]
struct Heard {
    aud: String,
    report: Report,
}

/// Signs the results of one node.
#[derive(Clone)]
pub struct NodeSigner {
    header: Arc<Header>,
    key: Arc<EncodingKey>,
}

impl NodeSigner {
    /// With the node's credentials.
    pub fn new(credentials: &Credentials) -> NodeSigner {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(TYP.to_owned());
        header.x5c = Some(credentials.chain().iter().map(|certificate| BASE64_STANDARD.encode(certificate)).collect());
        let key = EncodingKey::from_ec_der(credentials.private_key().secret_der());
        NodeSigner { header: header.into(), key: key.into() }
    }

    /// A result as a compact JWS, for the server of this name.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn sign(&self, report: &Report, server: &str) -> Result<String, SignError> {
        Ok(jsonwebtoken::encode(&self.header, &Said { aud: server, report }, &self.key)?)
    }
}

impl fmt::Debug for NodeSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSigner(…)")
    }
}

impl Authority {
    /// Who says so, and what, if it is to be believed at this moment by the server of this name. The certificate is
    /// looked at before the signature, and that before anything that was signed.
    ///
    /// # Errors
    /// The first reason not to, in the order of [`ResultRefusal`].
    pub fn believe(&self, token: &str, server: &str, now: Timestamp) -> Result<(NodeIdentity, Report), ResultRefusal> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| ResultRefusal::Malformed)?;
        if header.typ.as_deref() != Some(TYP) || header.alg != Algorithm::ES256 {
            return Err(ResultRefusal::Malformed);
        }
        let [encoded] = &header.x5c.ok_or(ResultRefusal::Malformed)?[..] else { return Err(ResultRefusal::Malformed) };
        let certificate = BASE64_STANDARD.decode(encoded).map_err(|_| ResultRefusal::Malformed)?;
        let certificate = CertificateDer::from(certificate);
        let (identity, key) = self.key_of(&certificate, now).ok_or(ResultRefusal::BadCertificate)?;
        let heard = jsonwebtoken::decode::<Heard>(token, &key, &signature_only())
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => ResultRefusal::BadSignature,
                _ => ResultRefusal::Malformed,
            })?
            .claims;
        if heard.aud != server {
            return Err(ResultRefusal::WrongAudience);
        }
        Ok((identity, heard.report))
    }

    /// The identity and the key of a certificate of ours that has not ended.
    fn key_of(&self, certificate: &CertificateDer<'_>, now: Timestamp) -> Option<(NodeIdentity, DecodingKey)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate().clone()).ok()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_micros(u64::try_from(now.as_micros()).ok()?));
        verifier.verify_client_cert(certificate, &[], at).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let point = &parsed.public_key().subject_public_key.data;
        Some((PeerCertificate::parse(certificate).ok()?.identity, DecodingKey::from_ec_der(point)))
    }
}

fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

#[cfg(test)]
mod tests;
