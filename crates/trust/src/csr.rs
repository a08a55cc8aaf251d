//! A node's certificate request. All that is taken from it is its public key, and that only when the request is
//! signed by the key's owner. Names and extensions it asks for are never looked at.

use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{certification_request::X509CertificationRequest, error::X509Error, prelude::FromDer};

use crate::fingerprint::sha256;

/// A certificate request that is not signed, or not for this key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CsrError {
    /// Not PEM, or not a certificate request.
    #[error("this is not a certificate request in PEM form")]
    Malformed,
    /// Whoever made the request does not have the key, or the request was changed on its way.
    #[error("the certificate request's own signature is wrong")]
    BadSignature,
    /// Another kind of key than we sign.
    #[error("the key is of a kind that is not signed here: use ECDSA on P-256 or Ed25519")]
    UnsupportedKey,
    /// The certificate could not be made: a fault of ours.
    #[error("the certificate could not be made: {0}")]
    NotMade(String),
}

/// The sha256, in hex, of the public key of a request that can be signed: by which a host that asks once more is known again.
///
/// # Errors
/// As when it is signed.
pub fn requested_key(pem: &str) -> Result<String, CsrError> {
    Ok(hex::encode(sha256(public_key(pem)?.der_bytes())))
}

/// The public key of a request whose signature is right.
pub(crate) fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, CsrError> {
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| CsrError::Malformed)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    request.verify_signature().map_err(|error| match error {
        X509Error::SignatureUnsupportedAlgorithm => CsrError::UnsupportedKey,
        _ => CsrError::BadSignature,
    })?;
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| CsrError::UnsupportedKey)?;
    let algorithm = rcgen::PublicKeyData::algorithm(&key);
    if *algorithm != rcgen::PKCS_ECDSA_P256_SHA256 && *algorithm != rcgen::PKCS_ED25519 {
        return Err(CsrError::UnsupportedKey);
    }
    Ok(key)
}
