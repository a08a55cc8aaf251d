//! TLS to a server: what an address says about it, in libpq's words, and connections that keep to it.
//!
//! | `sslmode` | |
//! |---|---|
//! | `disable` | none |
//! | `prefer` (where nothing is said) | where the server has it; whoever stands between can take it away, or answer |
//! | `require` | always; whoever stands between can answer. With `sslrootcert` it is `verify-ca`, as for libpq |
//! | `verify-ca` | the certificate is of an authority in `sslrootcert`, or is itself there |
//! | `verify-full` | and has the name by which the server was called |
//!
//! `sslcert` and `sslkey` are this side's certificate. Files are read anew for each connection, so that the next one goes
//! with whatever has taken their place. Over a Unix socket there is no TLS, whatever is said, as for libpq.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use percent_encoding::percent_decode_str;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};

use x509_parser::{
    certificate::X509Certificate,
    prelude::{FromDer, X509Version},
};

use crate::{Error, Result};

/// The authorities that the system trusts, where Debian and most others have them.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How much a connection asks of its server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    const ALL: [Mode; 5] = [Mode::Disable, Mode::Prefer, Mode::Require, Mode::VerifyCa, Mode::VerifyFull];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Mode::Disable => "disable",
            Mode::Prefer => "prefer",
            Mode::Require => "require",
            Mode::VerifyCa => "verify-ca",
            Mode::VerifyFull => "verify-full",
        }
    }
}

/// What an address says about TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tls {
    pub(crate) mode: Mode,
    /// Authorities, where the mode looks at certificates.
    pub(crate) authorities: Option<PathBuf>,
    /// This side's certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Reads an address: what it says about TLS, and the rest as the client understands it.
    pub(crate) fn parse(address: &str) -> Result<(Tls, Config)> {
        let (rest, said) = Said::take_from(address);
        let mut config: Config = rest.parse().map_err(|error: tokio_postgres::Error| {
            let why = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            Error::Aborted(format!("the database's address cannot be read: {why}"))
        })?;
        let mut tls = said.checked(config.get_ssl_mode())?;
        let local = |host: &Host| matches!(host, Host::Unix(_));
        if !config.get_hosts().is_empty() && config.get_hosts().iter().all(local) {
            tls = Tls { mode: Mode::Disable, authorities: None, identity: None };
        }
        config.ssl_mode(match tls.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        tls.connector()?;
        Ok((tls, config))
    }

    /// What makes connections, for any of the clients.
    pub(crate) fn connector(&self) -> Result<Connector> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trusted = self.authorities.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let mut roots = RootCertStore::empty();
        for authority in &trusted {
            // A server's own certificate may stand there: it is believed as it is, and nothing that it signed.
            if is_authority(authority) {
                let (_, _) = roots.add_parsable_certificates([authority.clone()]);
            }
        }
        let verifier = Verifier { mode: self.mode, trusted, roots, provider: provider.clone() };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| Error::Aborted(format!("TLS cannot be set up: {error}")))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| unreadable(certificate, "sslcert", error))?,
        };
        Ok(Connector { config: Arc::new(config), mode: self.mode })
    }
}

/// The words of an address that are about TLS, as they stand there.
#[derive(Default)]
struct Said {
    mode: Option<String>,
    authorities: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Said {
    /// Takes them out of an address of the form `postgres://…?name=value&…`.
    fn take_from(address: &str) -> (String, Said) {
        let mut said = Said::default();
        let Some((before, query)) = address.split_once('?').filter(|(before, _)| before.contains("://")) else {
            return (address.to_owned(), said);
        };
        let mut rest = Vec::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "sslmode" => said.mode = Some(value),
                "sslrootcert" => said.authorities = Some(value.into()),
                "sslcert" => said.certificate = Some(value.into()),
                "sslkey" => said.key = Some(value.into()),
                _ => rest.push(pair),
            }
        }
        let rest = if rest.is_empty() { before.to_owned() } else { format!("{before}?{}", rest.join("&")) };
        (rest, said)
    }

    /// What they mean together; `otherwise` is said by an address of another form.
    fn checked(self, otherwise: SslMode) -> Result<Tls> {
        let refused = |why: String| Err(Error::Aborted(format!("the database's address: {why}")));
        let mode = match &self.mode {
            Some(word) => Mode::ALL.into_iter().find(|mode| mode.word() == word),
            None if otherwise == SslMode::Disable => Some(Mode::Disable),
            None if otherwise == SslMode::Require => Some(Mode::Require),
            None => Some(Mode::Prefer),
        };
        let Some(mode) = mode else {
            let known = Mode::ALL.map(Mode::word).join(", ");
            return refused(format!("sslmode={} is not known: say one of {known}", self.mode.unwrap_or_default()));
        };
        let mode = if mode == Mode::Require && self.authorities.is_some() { Mode::VerifyCa } else { mode };
        let authorities = match (mode, self.authorities) {
            (Mode::VerifyCa | Mode::VerifyFull, None) => Some(SYSTEM.into()),
            (Mode::VerifyCa | Mode::VerifyFull, Some(file)) if file.as_os_str() == "system" => Some(SYSTEM.into()),
            (Mode::VerifyCa | Mode::VerifyFull, file) => file,
            (Mode::Disable | Mode::Prefer | Mode::Require, None) => None,
            (Mode::Disable | Mode::Prefer | Mode::Require, Some(_)) => {
                let word = mode.word();
                return refused(format!(
                    "sslrootcert is given, and with sslmode={word} no certificate is looked at: say sslmode=verify-full"
                ));
            }
        };
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return refused("sslcert and sslkey go together: give both, or neither".to_owned()),
        };
        Ok(Tls { mode, authorities, identity })
    }
}

fn unreadable(file: &Path, word: &str, why: impl fmt::Display) -> Error {
    Error::Aborted(format!("{word} of the database's address: {} cannot be used: {why}", file.display()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let read = read.map_err(|error| unreadable(file, "sslrootcert or sslcert", error))?;
    if read.is_empty() {
        return Err(unreadable(file, "sslrootcert or sslcert", "it has no certificate in PEM"));
    }
    Ok(read)
}

/// Whoever else may read the key may be this side: libpq refuses such a file, and so do we.
fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let meta = std::fs::metadata(file).map_err(|error| unreadable(file, "sslkey", error))?;
    let allowed = if meta.uid() == 0 { 0o640 } else { 0o600 };
    if meta.mode() & 0o777 & !allowed != 0 {
        return Err(unreadable(file, "sslkey", "others may read it; chmod it to 0600, or 0640 where it is root's"));
    }
    PrivateKeyDer::from_pem_file(file).map_err(|error| unreadable(file, "sslkey", error))
}

/// Whether a certificate may sign others: it says so, or is of the first version, which cannot say anything.
fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else { return false };
    read.version() == X509Version::V1 || read.is_ca()
}

/// One that is believed as it is has its time all the same.
fn in_its_time(certificate: &CertificateDer<'_>, now: UnixTime) -> std::result::Result<(), rustls::Error> {
    let wrong = rustls::Error::InvalidCertificate;
    let (_, read) = X509Certificate::from_der(certificate).map_err(|_| wrong(CertificateError::BadEncoding))?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    match read.validity() {
        validity if seconds < validity.not_before.timestamp() => Err(wrong(CertificateError::NotValidYet)),
        validity if seconds > validity.not_after.timestamp() => Err(wrong(CertificateError::Expired)),
        _ => Ok(()),
    }
}

/// Looks at a server's certificate as far as the mode says; that the server has its key is always looked at.
#[derive(Debug)]
struct Verifier {
    mode: Mode,
    /// Believed as they are, whether they are authorities or a server's own.
    trusted: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if self.mode < Mode::VerifyCa {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if self.trusted.contains(end_entity) {
            in_its_time(end_entity, now)?;
        } else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        }
        if self.mode == Mode::VerifyFull {
            verify_server_name(&certificate, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes TLS over connections to a server.
#[derive(Clone)]
pub(crate) struct Connector {
    config: Arc<ClientConfig>,
    mode: Mode,
}

/// A connection that is to be made, to the host of this name.
pub(crate) struct Call {
    connector: Connector,
    host: String,
}

/// Why TLS did not come about, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{why} (sslmode={}; {advice})", .mode.word())]
pub(crate) struct Refused {
    why: String,
    mode: Mode,
    advice: &'static str,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Connector {
    type Stream = Stream<S>;
    type TlsConnect = Call;
    type Error = Refused;

    fn make_tls_connect(&mut self, host: &str) -> std::result::Result<Call, Refused> {
        Ok(Call { connector: self.clone(), host: host.to_owned() })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Call {
    type Stream = Stream<S>;
    type Error = Refused;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Stream<S>, Refused>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let Connector { config, mode } = self.connector;
            let refused = |why: String, advice| Refused { why, mode, advice };
            let name = ServerName::try_from(self.host)
                .map_err(|error| refused(error.to_string(), "call the server by a host name or an address"))?;
            let shaken = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
            shaken.map(Stream).map_err(|error| refused(error.to_string(), advice(&error)))
        })
    }
}

/// What to do about a handshake that failed.
fn advice(error: &io::Error) -> &'static str {
    use rustls::{CertificateError, Error};
    match error.get_ref().and_then(|source| source.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "call the server by a name that stands in its certificate, or give it one with this name",
        Some(Error::InvalidCertificate(_)) => "sslrootcert must name the authority of the server's certificate",
        Some(Error::AlertReceived(_)) => "the server refused: its log says why; it may want sslcert and sslkey",
        _ => "look at the server's log",
    }
}

/// A connection under TLS.
pub(crate) struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    /// Ties the password to this connection, so that nobody between can pass it on (RFC 5929, tls-server-end-point).
    fn channel_binding(&self) -> ChannelBinding {
        let certificate = self.0.get_ref().1.peer_certificates().and_then(<[_]>::first);
        certificate
            .and_then(|der| end_point(der))
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// The digest of a certificate by the hash of its own signature, MD5 and SHA-1 replaced by SHA-256; none where the
/// signature has no such hash.
fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    use x509_parser::oid_registry as oid;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let algorithm = &certificate.signature_algorithm.algorithm;
    let is = |known: &[oid::Oid<'_>]| known.contains(algorithm);
    if is(&[oid::OID_PKCS1_SHA384WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA384]) {
        return Some(Sha384::digest(der).to_vec());
    }
    if is(&[oid::OID_PKCS1_SHA512WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA512]) {
        return Some(Sha512::digest(der).to_vec());
    }
    let short = [
        oid::OID_PKCS1_SHA256WITHRSA,
        oid::OID_SIG_ECDSA_WITH_SHA256,
        oid::OID_PKCS1_SHA1WITHRSA,
        oid::OID_PKCS1_MD5WITHRSAENC,
    ];
    is(&short).then(|| Sha256::digest(der).to_vec())
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
