//! A certificate's fingerprint: sha256 of its DER. Public, so it is compared and shown freely.

use std::{fmt, str::FromStr};

use rustls::pki_types::{CertificateDer, pem::PemObject};

/// Sha256 of a certificate's DER; 64 digits of lower-case hex as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// A text that is no fingerprint, or no certificate to take one of.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FingerprintError {
    /// Not 64 hex digits.
    #[error("a fingerprint is 64 hex digits: the sha256 of the authority's certificate")]
    NotAFingerprint,
    /// Not PEM, or without a certificate.
    #[error("there is no certificate in this PEM text")]
    NoCertificate,
}

impl Fingerprint {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Fingerprint(sha256(certificate))
    }

    /// Of the first certificate in a PEM text.
    ///
    /// # Errors
    /// [`FingerprintError::NoCertificate`] when there is none.
    pub fn of_pem(pem: &str) -> Result<Self, FingerprintError> {
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| FingerprintError::NoCertificate)?;
        Ok(Self::of(&certificate))
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("sha256 gives 32 bytes")
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).map_err(|_| FingerprintError::NotAFingerprint)?;
        Ok(Fingerprint(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_survives_its_text() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let fingerprint = Fingerprint(sha256(b"abc"));
        assert_eq!(fingerprint.to_string(), text);
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!("ba78".parse::<Fingerprint>(), Err(FingerprintError::NotAFingerprint));
    }
}
