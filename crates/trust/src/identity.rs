//! Who a node is: its key, the identity in its certificate, and the credentials that it keeps.
//!
//! The identity is one URI, `spiffe://hostler/node/<node>/enrolment/<enrolment>`, and nothing else in a certificate
//! is ever read as one. Never here: whether an enrolment is still welcome.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use hostler_model::{
    Timestamp,
    id::{EnrolmentId, NodeId},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::extensions::GeneralName;

use crate::{
    Fingerprint,
    certificate::{SKEW, from_pem, moment},
    file::{self, FileError},
};

const CREDENTIALS_FILE: &str = "credentials.pem";

/// A key, a certificate or credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what it should be.
    #[error("the {0} cannot be read")]
    Unreadable(&'static str),
    /// The certificate does not say, in exactly one URI, which node it is for.
    #[error("the certificate does not name exactly one node")]
    NotANode,
    /// The certificate is another node's.
    #[error(
        "the certificate is of another node, or of another enrolment: the agent goes on with what it has; start it again to be that node"
    )]
    Other,
    /// The certificate is for another key.
    #[error("the certificate does not belong to the key")]
    Mismatch,
    /// The crypto backend failed.
    #[error("the crypto backend failed: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// Which node, under which enrolment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NodeIdentity {
    /// The node.
    pub node: NodeId,
    /// The enrolment: a rejoin makes a new one, a renewed certificate keeps it.
    pub enrolment: EnrolmentId,
}

impl NodeIdentity {
    /// As it stands in a certificate.
    pub fn uri(&self) -> String {
        format!("spiffe://hostler/node/{}/enrolment/{}", self.node, self.enrolment)
    }
}

impl FromStr for NodeIdentity {
    type Err = IdentityError;

    /// Reads a URI, in its one spelling.
    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let ids = uri.strip_prefix("spiffe://hostler/node/").and_then(|rest| rest.split_once("/enrolment/"));
        let (node, enrolment) = ids.ok_or(IdentityError::NotANode)?;
        let identity = NodeIdentity {
            node: node.parse().map_err(|_| IdentityError::NotANode)?,
            enrolment: enrolment.parse().map_err(|_| IdentityError::NotANode)?,
        };
        if identity.uri() == uri { Ok(identity) } else { Err(IdentityError::NotANode) }
    }
}

/// What a peer's certificate says. That it is our authority's was checked in the handshake, not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerCertificate {
    /// Who the peer is.
    pub identity: NodeIdentity,
    /// From when it is valid.
    pub begins_at: Timestamp,
    /// Until when. A connection may outlive it: compare at each request.
    pub expires_at: Timestamp,
}

impl PeerCertificate {
    /// Reads a node's certificate.
    ///
    /// # Errors
    /// When it cannot be read or does not name exactly one node.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (rest, cert) =
            x509_parser::parse_x509_certificate(der).map_err(|_| IdentityError::Unreadable("certificate"))?;
        if !rest.is_empty() {
            return Err(IdentityError::Unreadable("certificate"));
        }
        let names = cert.subject_alternative_name().map_err(|_| IdentityError::NotANode)?;
        let [GeneralName::URI(uri)] = names.ok_or(IdentityError::NotANode)?.value.general_names[..] else {
            return Err(IdentityError::NotANode);
        };
        Ok(PeerCertificate {
            identity: uri.parse()?,
            begins_at: moment(cert.validity().not_before.timestamp()),
            expires_at: moment(cert.validity().not_after.timestamp()),
        })
    }

    /// Whether it is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now > self.expires_at
    }

    /// When to ask for the next one: after two thirds of its life, which began when it was made.
    pub fn renew_at(&self) -> Timestamp {
        let made_at = self.begins_at.plus(SKEW).min(self.expires_at);
        made_at.plus(self.expires_at.since(made_at) * 2 / 3)
    }
}

/// A node's private key: ECDSA on P-256. It never leaves the node.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// A new one.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn generate() -> Result<NodeKey, IdentityError> {
        Ok(NodeKey(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// The one in a file; `None` when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, others can read it, or it holds no key.
    pub fn load(path: &Path) -> Result<Option<NodeKey>, IdentityError> {
        let pem = file::read_private(path)?;
        pem.map(|pem| KeyPair::from_pem(&pem).map(NodeKey).map_err(|_| IdentityError::Unreadable("key"))).transpose()
    }

    /// Writes it to a file of mode 0600, atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        Ok(file::write_private(path, self.0.serialize_pem().as_bytes())?)
    }

    /// A certificate request, PEM, signed by this key. The name is for people: the authority writes its own.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn csr(&self, name: &str) -> Result<String, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(params.serialize_request(&self.0)?.pem()?)
    }

    #[cfg(test)]
    pub(crate) fn public_point(&self) -> &[u8] {
        self.0.public_key_raw()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

/// All that a node shows the server and knows it by: key, certificate and authority, in one file, so that a crash
/// leaves the old ones or the new ones.
pub struct Credentials {
    pem: String,
    key: PrivateKeyDer<'static>,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    peer: PeerCertificate,
}

impl Credentials {
    /// From a key, its certificate and the authority's (PEM, one certificate each).
    ///
    /// # Errors
    /// When one cannot be read, or the certificate is for another key or for no node.
    pub fn new(key: &NodeKey, certificate_pem: &str, ca_pem: &str) -> Result<Credentials, IdentityError> {
        Self::parse([&key.0.serialize_pem(), certificate_pem, ca_pem].map(|part| part.trim()).join("\n") + "\n")
    }

    /// The file that holds them, in a folder.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join(CREDENTIALS_FILE)
    }

    /// The ones that are in their file now: the same node's under the same enrolment, which somebody else put there.
    ///
    /// # Errors
    /// As [`Credentials::load`], where there are none, and where they are another's.
    pub fn renewed(&self, dir: &Path) -> Result<Credentials, IdentityError> {
        let new = Self::load(dir)?.ok_or(IdentityError::Unreadable("certificate"))?;
        if new.identity() == self.identity() { Ok(new) } else { Err(IdentityError::Other) }
    }

    /// The ones in a folder; `None` when there are none.
    ///
    /// # Errors
    /// When the file cannot be read, others can read it, or its parts do not belong together.
    pub fn load(dir: &Path) -> Result<Option<Credentials>, IdentityError> {
        file::read_private(&Self::file(dir))?.map(Self::parse).transpose()
    }

    /// Writes them to a folder, atomically, instead of those that were there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        Ok(file::write_private(&Self::file(dir), self.pem.as_bytes())?)
    }

    fn parse(pem: String) -> Result<Credentials, IdentityError> {
        let pair = KeyPair::from_pem(&pem).map_err(|_| IdentityError::Unreadable("key"))?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| IdentityError::Unreadable("key"))?;
        let certificates = from_pem(&pem).and_then(|all| <[_; 2]>::try_from(all).ok());
        let [certificate, authority] = certificates.ok_or(IdentityError::Unreadable("certificate"))?;
        let peer = PeerCertificate::parse(&certificate)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| IdentityError::Unreadable("certificate"))?;
        if parsed.public_key().raw != pair.subject_public_key_info() {
            return Err(IdentityError::Mismatch);
        }
        Ok(Credentials { pem, key, certificate, authority, peer })
    }

    /// The node's key, for requests of further certificates.
    ///
    /// # Errors
    /// Never in practice: the key was read before.
    pub fn key(&self) -> Result<NodeKey, IdentityError> {
        KeyPair::from_pem(&self.pem).map(NodeKey).map_err(|_| IdentityError::Unreadable("key"))
    }

    /// Who the node is.
    pub fn identity(&self) -> NodeIdentity {
        self.peer.identity
    }

    /// When the certificate ends.
    pub fn expires_at(&self) -> Timestamp {
        self.peer.expires_at
    }

    /// When to ask for the next certificate: after two thirds of this one's life.
    pub fn renew_at(&self) -> Timestamp {
        self.peer.renew_at()
    }

    /// The authority's fingerprint.
    pub fn authority_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.authority)
    }

    /// The authority's certificate.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The node's certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
