//! Results, signed with the node's own key on whichever road they travel, so that what a node said can be proven later to
//! whoever keeps the authority's certificate.
//!
//! ```text
//! header  {"typ":"hostler-results+jwt","alg":"ES256","x5t#S256":"<sha256 of the node's certificate>"}
//! claims  {"aud":"<the server>","results":["<digest>", …]}: of results that go together (`hostler_model::proof`)
//! ```
//!
//! A signature and its verification cost more than all else that is done for a short result on its way, so there is one over
//! several. Whether the enrolment in the certificate is still welcome is asked elsewhere.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use hostler_model::{
    Timestamp,
    internal::{Report, Reports},
    proof::{self, TaskProof},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use serde::{Deserialize, Serialize};

use crate::{Authority, Credentials, NodeIdentity, PeerCertificate, certificate::from_pem, fingerprint::sha256};

const TYP: &str = "hostler-results+jwt";
/// How many results one signature is over. It is kept with each of them, and names them all.
const TOGETHER: usize = 8;
/// A signature over that many has less than 1,100 bytes. Each is kept with every task whose end it signs.
const LONGEST: usize = 4096;
/// How many certificates are remembered: of more nodes than a server has.
const REMEMBERED: usize = 16_384;

/// Why results are not believed. The texts are stable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ResultRefusal {
    /// Not signed results at all.
    #[error("malformed: these are not signed results")]
    Malformed,
    /// The certificate in it is not one of a node of ours, or has ended.
    #[error("bad_certificate: the certificate is not one of this control plane's nodes, or has ended")]
    BadCertificate,
    /// Not signed by the key of that certificate, or changed on its way.
    #[error("bad_signature: the signature is wrong")]
    BadSignature,
    /// For another control plane.
    #[error("wrong_audience: the result is for another server")]
    WrongAudience,
    /// The signature is over something else.
    #[error("not_signed: what is signed is another result")]
    NotSigned,
}

/// Results that could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("the result could not be signed: {0}")]
pub struct SignError(#[from] jsonwebtoken::errors::Error);

#[derive(Serialize)]
struct Said<'a> {
    aud: &'a str,
    results: &'a [String],
}

#[derive(Deserialize)]
struct Heard {
    aud: String,
    results: Vec<String>,
}

/// The name by which a signature says which certificate's key made it.
pub fn thumbprint(certificate: &CertificateDer<'_>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(sha256(certificate))
}

/// The same, of the first certificate in a PEM text. `None` where there is none.
pub fn thumbprint_of_pem(pem: &str) -> Option<String> {
    Some(thumbprint(from_pem(pem)?.first()?))
}

fn digest(report: &Report) -> String {
    proof::digest(&proof::said(report.task, report.fence, &report.end))
}

/// Signs the results of one node.
#[derive(Clone)]
pub struct NodeSigner {
    header: Arc<Header>,
    key: Arc<EncodingKey>,
    certificate: Arc<str>,
}

impl NodeSigner {
    /// With the node's credentials.
    pub fn new(credentials: &Credentials) -> NodeSigner {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(TYP.to_owned());
        header.x5t_s256 = Some(thumbprint(credentials.certificate()));
        let key = EncodingKey::from_ec_der(credentials.private_key().secret_der());
        let certificate = BASE64_STANDARD.encode(credentials.certificate()).into();
        NodeSigner { header: header.into(), key: key.into(), certificate }
    }

    /// Results as they are sent to the server of this name.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn sign(&self, results: Vec<Report>, server: &str) -> Result<Reports, SignError> {
        let sign = |together: &[Report]| {
            let digests: Vec<String> = together.iter().map(digest).collect();
            jsonwebtoken::encode(&self.header, &Said { aud: server, results: &digests }, &self.key)
        };
        let signed = results.chunks(TOGETHER).map(sign).collect::<Result<_, _>>()?;
        Ok(Reports { results, together: TOGETHER, signed, certificate: self.certificate.to_string() })
    }
}

impl fmt::Debug for NodeSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSigner(…)")
    }
}

/// A node's certificate that is an authority's.
pub struct NodeCertificate {
    /// Whose it is.
    pub identity: NodeIdentity,
    /// As signatures name it.
    pub thumbprint: String,
    key: DecodingKey,
    ends_at: Timestamp,
}

/// Knows the nodes of one authority, and their signatures. Certificates that it has seen it remembers.
pub struct ResultVerifier {
    authority: Arc<dyn ClientCertVerifier>,
    known: Mutex<HashMap<[u8; 32], Arc<NodeCertificate>>>,
}

impl fmt::Debug for ResultVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResultVerifier(…)")
    }
}

impl ResultVerifier {
    /// With the authority itself.
    ///
    /// # Errors
    /// When its certificate is none that can be trusted: in practice never.
    pub fn new(authority: &Authority) -> Result<ResultVerifier, ResultRefusal> {
        Self::of(authority.certificate().clone())
    }

    fn of(authority: CertificateDer<'static>) -> Result<ResultVerifier, ResultRefusal> {
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(|_| ResultRefusal::BadCertificate)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let authority = verifier.map_err(|_| ResultRefusal::BadCertificate)?;
        Ok(ResultVerifier { authority, known: Mutex::default() })
    }

    /// By whose certificate these results are signed, if all of them are to be believed at this moment by the server of this
    /// name. The certificate is looked at before the signatures, and those before anything that was signed.
    ///
    /// # Errors
    /// The first reason not to, in the order of [`ResultRefusal`].
    pub fn believe(
        &self,
        reports: &Reports,
        server: &str,
        now: Timestamp,
    ) -> Result<Arc<NodeCertificate>, ResultRefusal> {
        let Reports { results, together, signed, certificate } = reports;
        let fits = (1..=TOGETHER).contains(together) && signed.iter().all(|signed| signed.len() <= LONGEST);
        if !fits || results.len().div_ceil(*together) != signed.len() {
            return Err(ResultRefusal::Malformed);
        }
        let certificate = BASE64_STANDARD.decode(certificate).map_err(|_| ResultRefusal::Malformed)?;
        let certificate = self.known(CertificateDer::from(certificate), now)?;
        for (together, token) in results.chunks(*together).zip(signed) {
            let heard = heard(token, &certificate)?;
            if heard.aud != server {
                return Err(ResultRefusal::WrongAudience);
            }
            if !together.iter().map(digest).eq(heard.results) {
                return Err(ResultRefusal::NotSigned);
            }
        }
        Ok(certificate)
    }

    fn known(&self, der: CertificateDer<'_>, now: Timestamp) -> Result<Arc<NodeCertificate>, ResultRefusal> {
        let hash = sha256(&der);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        let certificate = match known {
            Some(known) => known,
            None => {
                let read = Arc::new(self.read(&der, now).ok_or(ResultRefusal::BadCertificate)?);
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(hash, read.clone());
                read
            }
        };
        if certificate.ends_at < now { Err(ResultRefusal::BadCertificate) } else { Ok(certificate) }
    }

    /// A certificate of the authority's that is good at this moment.
    fn read(&self, der: &CertificateDer<'_>, at: Timestamp) -> Option<NodeCertificate> {
        let at = UnixTime::since_unix_epoch(Duration::from_micros(u64::try_from(at.as_micros()).ok()?));
        self.authority.verify_client_cert(der, &[], at).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        let key = DecodingKey::from_ec_der(&parsed.public_key().subject_public_key.data);
        let peer = PeerCertificate::parse(der).ok()?;
        Some(NodeCertificate { identity: peer.identity, thumbprint: thumbprint(der), key, ends_at: peer.expires_at })
    }
}

fn heard(token: &str, certificate: &NodeCertificate) -> Result<Heard, ResultRefusal> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| ResultRefusal::Malformed)?;
    let ours = header.typ.as_deref() == Some(TYP) && header.alg == Algorithm::ES256;
    if !ours || header.x5t_s256.as_ref() != Some(&certificate.thumbprint) {
        return Err(ResultRefusal::Malformed);
    }
    let heard = jsonwebtoken::decode::<Heard>(token, &certificate.key, &signature_only());
    heard.map(|heard| heard.claims).map_err(|error| match error.kind() {
        jsonwebtoken::errors::ErrorKind::InvalidSignature => ResultRefusal::BadSignature,
        _ => ResultRefusal::Malformed,
    })
}

fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

/// Who said what a proof says, by the authority's certificate (PEM) alone. It was said while the node's certificate was good,
/// whenever that was: the server takes nothing under one that has ended.
///
/// # Errors
/// The first reason not to believe it.
pub fn verify(proof: &TaskProof, ca_pem: &str) -> Result<NodeIdentity, ResultRefusal> {
    let authority = from_pem(ca_pem).and_then(|mut all| all.drain(..).next()).ok_or(ResultRefusal::BadCertificate)?;
    let certificates = from_pem(&proof.certificate_pem).ok_or(ResultRefusal::Malformed)?;
    let der = certificates.first().ok_or(ResultRefusal::Malformed)?;
    let ends_at = PeerCertificate::parse(der).map_err(|_| ResultRefusal::BadCertificate)?.expires_at;
    let certificate = ResultVerifier::of(authority)?.read(der, ends_at).ok_or(ResultRefusal::BadCertificate)?;
    let heard = heard(&proof.signed, &certificate)?;
    if !heard.results.contains(&proof::digest(&proof.said)) {
        return Err(ResultRefusal::NotSigned);
    }
    Ok(certificate.identity)
}

#[cfg(test)]
mod tests;
