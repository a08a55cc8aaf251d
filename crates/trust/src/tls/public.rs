//! TLS for the API of people: a certificate and a key that an operator keeps in files, taken up again when they change.
//!
//! What cannot be read, or does not fit together, takes nothing's place: the certificate that was good goes on being
//! shown. Never here: client certificates, which agents have and people do not.

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use hostler_model::Clock;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use super::{ALPN, TlsError, provider, time};
use crate::Current;

/// A certificate in files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file could not be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Everybody on the host can read the key.
    #[error("{} holds a private key and everybody can open it (mode {mode:04o}); run `chmod o=` on it", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no certificate.
    #[error("{} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// It holds no key.
    #[error("{} holds no private key in PEM", .0.display())]
    NoKey(PathBuf),
    /// They do not belong together, or the key is of a kind that is not known.
    #[error("the certificate and the key do not fit together: {0}")]
    Mismatch(#[from] rustls::Error),
}

/// A certificate and its key, as the files have them now.
pub struct PublicCertificate {
    certificate: PathBuf,
    key: PathBuf,
    shown: Current<CertifiedKey>,
}

impl PublicCertificate {
    /// From a chain (the leaf first) and the leaf's key, both in PEM.
    ///
    /// # Errors
    /// When a file cannot be read, everybody can read the key, or they do not fit together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<PublicCertificate>, FilesError> {
        let files = vec![certificate.to_owned(), key.to_owned()];
        let shown = Current::open(files, || read(certificate, key))?;
        Ok(Arc::new(PublicCertificate { certificate: certificate.to_owned(), key: key.to_owned(), shown }))
    }

    /// Reads the files again if they changed; whether they did. Blocks on the disk.
    ///
    /// # Errors
    /// As [`PublicCertificate::open`]; then what was shown is shown on, and the files are read again when they change once
    /// more.
    pub fn reload(&self) -> Result<bool, FilesError> {
        self.shown.reload(|_| read(&self.certificate, &self.key))
    }

    /// TLS 1.2 and 1.3 with whatever is shown at the time of each handshake.
    ///
    /// # Errors
    /// When rustls refuses the pieces.
    pub fn config(self: &Arc<Self>, clock: &Clock) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_details(provider(), time(clock))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        Ok(config)
    }
}

impl ResolvesServerCert for PublicCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.get())
    }
}

impl fmt::Debug for PublicCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicCertificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey, FilesError> {
    let bytes = |path: &Path| fs::read(path).map_err(|source| FilesError::Read { path: path.to_owned(), source });
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(certificate)?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| FilesError::NoCertificate(certificate.to_owned()))?;
    let text = bytes(key)?;
    let mode = fs::metadata(key).map_or(0, |found| found.permissions().mode() & 0o777);
    if mode & 0o007 != 0 {
        return Err(FilesError::Exposed { path: key.to_owned(), mode });
    }
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| FilesError::NoKey(key.to_owned()))?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Writes a new certificate of this name; its bytes.
    fn renew(dir: &Path, name: &str) -> Vec<u8> {
        crate::install_crypto();
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(dir.join("cert.pem"), made.pem()).unwrap();
        let path = dir.join("key.pem");
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        made.der().to_vec()
    }

    fn shown(certificate: &PublicCertificate) -> Vec<u8> {
        certificate.shown.get().cert[0].to_vec()
    }

    #[test]
    fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let first = renew(dir.path(), "a.example.com");
        let public = PublicCertificate::open(&cert, &key).unwrap();
        assert_eq!(shown(&public), first);
        assert!(!public.reload().unwrap());
        let second = renew(dir.path(), "a.longer.example.com");
        assert!(public.reload().unwrap());
        assert_eq!(shown(&public), second);
        // Half a renewal: a certificate whose key is not there yet.
        let half = KeyPair::generate().unwrap();
        fs::write(
            &cert,
            CertificateParams::new(["b.example.com".to_owned()]).unwrap().self_signed(&half).unwrap().pem(),
        )
        .unwrap();
        assert!(matches!(public.reload(), Err(FilesError::Mismatch(_))));
        assert_eq!(shown(&public), second);
        assert!(!public.reload().unwrap(), "it is complained of once");
        fs::write(&key, half.serialize_pem()).unwrap();
        assert!(public.reload().unwrap());
        fs::remove_file(&cert).unwrap();
        assert!(matches!(public.reload(), Err(FilesError::Read { .. })));
    }

    #[test]
    fn a_key_that_everybody_can_read_is_refused_and_so_is_what_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        renew(dir.path(), "a.example.com");
        assert!(matches!(PublicCertificate::open(&key, &key), Err(FilesError::NoCertificate(_))));
        fs::set_permissions(&cert, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(PublicCertificate::open(&cert, &cert), Err(FilesError::NoKey(_))));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(PublicCertificate::open(&cert, &key), Err(FilesError::Exposed { .. })));
    }
}
