//! The server's side: an Ed25519 key that signs tasks.

use std::fmt;

use hostler_model::{internal::Assignment, key::Kid};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519};

use super::{Several, TYP, TYP_OF_SEVERAL, key};

/// A task key that could not be made or read, or a task that could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The text holds no Ed25519 key.
    #[error("the private part of a key that signs tasks cannot be read")]
    Unreadable,
    /// The crypto backend failed.
    #[error("the crypto backend failed: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The task could not be signed.
    #[error("the task could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// A key with its private part. Only its public part is shown.
pub struct TaskKey(KeyPair);

impl TaskKey {
    /// A new one.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn generate() -> Result<TaskKey, SignerError> {
        Ok(TaskKey(KeyPair::generate_for(&PKCS_ED25519)?))
    }

    /// From its text.
    ///
    /// # Errors
    /// When it holds no Ed25519 key.
    pub fn from_pem(pem: &str) -> Result<TaskKey, SignerError> {
        KeyPair::from_pem_and_sign_algo(pem, &PKCS_ED25519).map(TaskKey).map_err(|_| SignerError::Unreadable)
    }

    /// The private part as text, to be sealed.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Its name.
    pub fn kid(&self) -> Kid {
        Kid(key::thumbprint(self.0.public_key_raw()))
    }

    /// Its public part, as it stands in a JWK.
    pub fn public(&self) -> String {
        key::x(self.0.public_key_raw())
    }

    /// What signs with it.
    pub fn signer(&self) -> TaskSigner {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYP.to_owned());
        header.kid = Some(self.kid().0);
        TaskSigner { header, key: EncodingKey::from_ed_der(&self.0.serialize_der()) }
    }
}

impl fmt::Debug for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskKey({})", self.kid())
    }
}

/// Signs tasks.
pub struct TaskSigner {
    header: Header,
    pub(super) key: EncodingKey,
}

impl TaskSigner {
    /// The key's name.
    pub fn kid(&self) -> &str {
        self.header.kid.as_deref().unwrap_or_default()
    }

    /// A task as a compact JWS.
    ///
    /// # Errors
    /// When its parameters cannot be written as JSON: in practice never.
    pub fn sign(&self, assignment: &Assignment) -> Result<String, SignerError> {
        Ok(jsonwebtoken::encode(&self.header, assignment, &self.key)?)
    }

    /// Several tasks as one compact JWS: a signature and its verification cost more than all else that is done for a short
    /// task between the store and its handler.
    ///
    /// # Errors
    /// As [`TaskSigner::sign`].
    pub fn sign_several(&self, tasks: &[Assignment]) -> Result<String, SignerError> {
        let header = Header { typ: Some(TYP_OF_SEVERAL.to_owned()), ..self.header.clone() };
        Ok(jsonwebtoken::encode(&header, &Several { tasks }, &self.key)?)
    }
}

impl fmt::Debug for TaskSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskSigner({})", self.kid())
    }
}
