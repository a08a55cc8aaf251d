//! The two questions about a peer's certificate that rustls does not answer by itself: is the server's authority the
//! one in a join token, and is a node's expired certificate recent enough to be renewed. Chains, names, usages and
//! signatures stay rustls' work.

use std::{sync::Arc, time::Duration};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::Fingerprint;

/// Trusts the server whose chain ends at the authority with this fingerprint. The server sends that certificate.
#[derive(Debug)]
pub(crate) struct PinnedAuthority {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl PinnedAuthority {
    pub(crate) fn new(authority: Fingerprint, provider: Arc<CryptoProvider>) -> Self {
        PinnedAuthority { authority, provider }
    }
}

/// rustls shows this variant's text to people, and only the `Debug` of a certificate error of our own.
fn not_the_authority(wanted: Fingerprint) -> Error {
    Error::General(format!(
        "the server's authority is not the one in the join token ({wanted}): the wrong server, or another server's token"
    ))
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|sent| Fingerprint::of(sent) == self.authority);
        let authority = authority.ok_or_else(|| not_the_authority(self.authority))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Admits a client certificate for a while after its end, as if it were its last second. All else must be right.
#[derive(Debug)]
pub(crate) struct ExpiredFor {
    grace: Duration,
    inner: Arc<dyn ClientCertVerifier>,
}

impl ExpiredFor {
    pub(crate) fn new(grace: Duration, inner: Arc<dyn ClientCertVerifier>) -> Self {
        ExpiredFor { grace, inner }
    }

    /// The certificate's last second, when it ended no longer than the grace ago.
    fn last_second(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Option<UnixTime> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let end = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
        let ago = now.as_secs().checked_sub(end)?;
        (ago <= self.grace.as_secs()).then(|| UnixTime::since_unix_epoch(Duration::from_secs(end)))
    }
}

impl ClientCertVerifier for ExpiredFor {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let at = self.last_second(end_entity, now).unwrap_or(now);
        self.inner.verify_client_cert(end_entity, intermediates, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
