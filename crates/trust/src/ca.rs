//! The authority: hostler's own CA. It signs the server's certificate for the internal listener, the nodes' client
//! certificates, and the checkpoints of the log's chain ([`crate::checkpoint`]), nothing else.
//!
//! On disk it is `ca.key` and `ca.pem`, written in this order: the certificate's appearance is what makes the
//! authority exist. A key without a certificate was never trusted by anyone and is replaced; a certificate without
//! its key is an error, never a reason to make another authority, for every node trusts the one that was.
//!
//! An operator may renew the certificate while servers run: the same key and name, with another end. Nodes know an authority by
//! its certificate, so the one before stays behind the new one in `ca.pem`, and is shown with it, until every node has the new
//! one from a renewal of its own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hostler_model::{
    Timestamp,
    id::{EnrolmentId, NodeId},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{
    Fingerprint,
    certificate::{SKEW, before, date, from_pem, moment, serial},
    csr::{self, CsrError},
    file::{self, FileError},
    fingerprint::sha256,
    identity::NodeIdentity,
    last_signed::LastSigned,
    tls::TlsPair,
};

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

/// How long an authority lives: ten years.
pub const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long a node's certificate lives unless told otherwise: a day.
pub const NODE_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The names that the internal listener always has.
pub const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// An authority that could not be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its files could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is a certificate and no key.
    #[error(
        "{0}/{CERTIFICATE_FILE} is there and {KEY_FILE} is not; restore the key, for every node trusts this authority"
    )]
    KeyMissing(String),
    /// A file's content cannot be read.
    #[error("the authority's {0} cannot be read; restore it from a backup")]
    Unreadable(&'static str),
    /// The key is another authority's.
    #[error("the authority's key does not belong to its certificate; restore both from the same backup")]
    Mismatch,
    /// The files hold another authority now.
    #[error(
        "{}/{CERTIFICATE_FILE} is another authority's: its key or its name is not that which every node trusts; put back what \
         was there, or stop the servers and join every node anew", .0.display()
    )]
    Other(PathBuf),
    /// Nodes know it by a certificate that is not in the file any more.
    #[error(
        "{}/{CERTIFICATE_FILE} lacks the certificate by which nodes know this authority; put it behind the new one, and leave \
         it there until every node has renewed its own", .0.display()
    )]
    Forgotten(PathBuf),
    /// A name that no certificate can hold.
    #[error("{0:?} is not a host name or an IP address")]
    BadName(String),
    /// The clock says a time that X.509 cannot write.
    #[error("{0} is not a time that a certificate can say; set the clock")]
    BadTime(Timestamp),
    /// The crypto backend failed.
    #[error("the crypto backend failed: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// hostler's own CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// Those before it, of the same key and name.
    earlier: Vec<CertificateDer<'static>>,
    pem: String,
    expires_at: Timestamp,
    folder: Option<PathBuf>,
    last_signed: Arc<LastSigned>,
}

impl Authority {
    /// A new one, in memory, with a key of its own (ECDSA P-256).
    ///
    /// # Errors
    /// When the clock is out of range or the crypto backend fails.
    pub fn create(now: Timestamp) -> Result<Authority, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = lasting(now, now.plus(AUTHORITY_VALIDITY))?;
        let public = sha256(key.public_key_raw());
        params.serial_number = Some(serial(&[b"authority", &public]));
        params.distinguished_name.push(DnType::CommonName, format!("hostler authority {}", hex::encode(&public[..4])));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Self::of(certificate.pem(), key)
    }

    /// The one in a folder; `None` when there is none.
    ///
    /// # Errors
    /// When the files cannot be read, when others can read the key, or when the two do not belong together.
    pub fn load(dir: &Path) -> Result<Option<Authority>, CaError> {
        let Some(pem) = file::read_private(&dir.join(CERTIFICATE_FILE))? else { return Ok(None) };
        let key = file::read_private(&dir.join(KEY_FILE))?;
        let key = key.ok_or_else(|| CaError::KeyMissing(dir.display().to_string()))?;
        let key = KeyPair::from_pem(&key).map_err(|_| CaError::Unreadable(KEY_FILE))?;
        Ok(Some(Self::of(pem, key)?.in_folder(dir)))
    }

    fn in_folder(self, dir: &Path) -> Authority {
        Authority { folder: Some(dir.to_owned()), last_signed: LastSigned::in_folder(dir).into(), ..self }
    }

    /// The files that hold it; none where it lives in memory.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = |dir: &PathBuf| [CERTIFICATE_FILE, KEY_FILE].map(|name| dir.join(name)).to_vec();
        self.folder.as_ref().map(files).unwrap_or_default()
    }

    /// As its files hold it now: the same authority, whose certificate an operator renewed.
    ///
    /// # Errors
    /// As [`Authority::load`], and where it is another authority, or nodes would not know it.
    pub fn renewed(&self) -> Result<Authority, CaError> {
        let dir = self.folder.clone().unwrap_or_default();
        let missing = || CaError::Unreadable(CERTIFICATE_FILE);
        let new = Self::load(&dir)?.ok_or_else(missing)?;
        if !is_same(&self.certificate, &new.certificate) {
            return Err(CaError::Other(dir));
        }
        if self.certificate != new.certificate && !new.earlier.contains(&self.certificate) {
            return Err(CaError::Forgotten(dir));
        }
        Ok(Authority { last_signed: self.last_signed.clone(), ..new })
    }

    /// The one in a folder, or a new one that is written there. One process at a time may do this in a folder.
    ///
    /// # Errors
    /// As [`Authority::load`] and [`Authority::create`], and when the files cannot be written.
    pub fn load_or_create(dir: &Path, now: Timestamp) -> Result<Authority, CaError> {
        if let Some(authority) = Self::load(dir)? {
            return Ok(authority);
        }
        let authority = Self::create(now)?;
        authority.save(dir)?;
        Ok(authority.in_folder(dir))
    }

    fn save(&self, dir: &Path) -> Result<(), FileError> {
        file::write_private(&dir.join(KEY_FILE), self.issuer.key().serialize_pem().as_bytes())?;
        file::write_private(&dir.join(CERTIFICATE_FILE), self.pem.as_bytes())
    }

    fn of(pem: String, key: KeyPair) -> Result<Authority, CaError> {
        let unreadable = || CaError::Unreadable(CERTIFICATE_FILE);
        let mut all = from_pem(&pem).ok_or_else(unreadable)?;
        let certificate = all.remove(0);
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|_| unreadable())?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::Mismatch);
        }
        let expires_at = moment(parsed.validity().not_after.timestamp());
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let earlier = all.into_iter().filter(|other| is_same(&certificate, other)).collect();
        let pem = first(&pem);
        Ok(Authority { issuer, certificate, earlier, pem, expires_at, folder: None, last_signed: Arc::default() })
    }

    /// What it is told from another by, whatever its certificate says of its end: the digest of its key.
    pub fn mark(&self) -> String {
        hex::encode(sha256(&self.issuer.key().subject_public_key_info()))
    }

    /// Its certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its private key, PKCS#8.
    pub(crate) fn private_key(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// Its certificate's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Where the log's chain stood when it last signed that.
    pub fn last_signed(&self) -> &LastSigned {
        &self.last_signed
    }

    /// When it ends.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// A certificate and key for the internal listener: [`LOCAL_NAMES`] and `names`, each a host name or an IP
    /// address. They live in memory only and are made anew at each start, so they last as long as the authority.
    ///
    /// # Errors
    /// When a name is neither, the clock is out of range, or the crypto backend fails.
    pub fn server_certificate(&self, names: &[String], now: Timestamp) -> Result<TlsPair, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = lasting(now, self.expires_at)?;
        params.serial_number = Some(serial(&[b"server", key.public_key_raw()]));
        params.distinguished_name.push(DnType::CommonName, "hostler server");
        params.subject_alt_names = alternative_names(names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let known_by = [&self.certificate].into_iter().chain(&self.earlier).cloned();
        Ok(TlsPair::new([certificate.der().clone()].into_iter().chain(known_by).collect(), key))
    }

    /// A client certificate (PEM) for a node, from its request (PEM). Only the request's public key is used.
    ///
    /// # Errors
    /// When the request cannot be read, is not signed by its own key, or has a key of another kind.
    pub fn sign_node(
        &self,
        csr_pem: &str,
        node: NodeId,
        enrolment: EnrolmentId,
        now: Timestamp,
        validity: Duration,
    ) -> Result<String, CsrError> {
        let key = csr::public_key(csr_pem)?;
        let params = self.node_params(&key, NodeIdentity { node, enrolment }, now, validity);
        let certificate = params.and_then(|params| Ok(params.signed_by(&key, &self.issuer)?));
        Ok(certificate.map_err(|error| CsrError::NotMade(error.to_string()))?.pem())
    }

    fn node_params(
        &self,
        key: &impl PublicKeyData,
        identity: NodeIdentity,
        now: Timestamp,
        validity: Duration,
    ) -> Result<CertificateParams, CaError> {
        let uri = identity.uri();
        let mut params = lasting(now, now.plus(validity).min(self.expires_at))?;
        params.serial_number = Some(serial(&[uri.as_bytes(), key.der_bytes(), &now.as_micros().to_be_bytes()]));
        params.distinguished_name.push(DnType::CommonName, identity.node.to_string());
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("fingerprint", &self.fingerprint())
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Whether two certificates are of one key and name.
fn is_same(one: &CertificateDer<'_>, other: &CertificateDer<'_>) -> bool {
    let (Ok((_, one)), Ok((_, other))) =
        (x509_parser::parse_x509_certificate(one), x509_parser::parse_x509_certificate(other))
    else {
        return false;
    };
    one.public_key().raw == other.public_key().raw && one.subject().as_raw() == other.subject().as_raw()
}

/// The first certificate of a PEM text.
fn first(pem: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    pem.split_inclusive(END).next().map_or_else(String::new, |first| first.trim().to_owned() + "\n")
}

/// Valid from a little before now; with no name, so that none is there by default.
fn lasting(now: Timestamp, until: Timestamp) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.not_before = date(before(now, SKEW)).ok_or(CaError::BadTime(now))?;
    params.not_after = date(until).ok_or(CaError::BadTime(until))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

fn alternative_names(names: &[String]) -> Result<Vec<SanType>, CaError> {
    let mut all: Vec<&str> = LOCAL_NAMES.to_vec();
    all.extend(names.iter().map(String::as_str).filter(|name| !LOCAL_NAMES.contains(name)));
    all.into_iter().map(alternative_name).collect()
}

fn alternative_name(name: &str) -> Result<SanType, CaError> {
    let bad = || CaError::BadName(name.to_owned());
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    rustls::pki_types::DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

#[cfg(test)]
mod tests;
