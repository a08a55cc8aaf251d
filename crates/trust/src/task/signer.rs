//! The server's side: one Ed25519 key that signs tasks.

use std::{fmt, path::Path};

use hostler_model::internal::Assignment;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::{Value, json};

use super::{Several, TYP, TYP_OF_SEVERAL, TaskVerifier, key};
use crate::file::{self, FileError};

const KEY_FILE: &str = "task-key.pem";

/// A task key that could not be made or loaded, or a task that could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// Its file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds no Ed25519 key.
    #[error("{KEY_FILE} holds no Ed25519 key; restore it from a backup")]
    Unreadable,
    /// The crypto backend failed.
    #[error("the crypto backend failed: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The task could not be signed.
    #[error("the task could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// Signs tasks.
pub struct TaskSigner {
    header: Header,
    pub(super) key: EncodingKey,
    public: Vec<u8>,
}

impl TaskSigner {
    /// With a new key, in memory.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn generate() -> Result<TaskSigner, SignerError> {
        Ok(Self::of(&KeyPair::generate_for(&PKCS_ED25519)?))
    }

    /// With the key in a folder (`task-key.pem`); `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read, others can read it, or it holds no Ed25519 key.
    pub fn load(dir: &Path) -> Result<Option<TaskSigner>, SignerError> {
        let Some(pem) = file::read_private(&dir.join(KEY_FILE))? else { return Ok(None) };
        let pair = KeyPair::from_pem_and_sign_algo(&pem, &PKCS_ED25519).map_err(|_| SignerError::Unreadable)?;
        Ok(Some(Self::of(&pair)))
    }

    /// With the key in a folder, or a new one that is written there (mode 0600). One process at a time may do this in
    /// a folder.
    ///
    /// # Errors
    /// As [`TaskSigner::load`], and when the file cannot be written.
    pub fn load_or_create(dir: &Path) -> Result<TaskSigner, SignerError> {
        if let Some(signer) = Self::load(dir)? {
            return Ok(signer);
        }
        let pair = KeyPair::generate_for(&PKCS_ED25519)?;
        file::write_private(&dir.join(KEY_FILE), pair.serialize_pem().as_bytes())?;
        Ok(Self::of(&pair))
    }

    fn of(pair: &KeyPair) -> TaskSigner {
        let public = pair.public_key_raw().to_vec();
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYP.to_owned());
        header.kid = Some(key::thumbprint(&public));
        TaskSigner { header, key: EncodingKey::from_ed_der(&pair.serialize_der()), public }
    }

    /// The key's name.
    pub fn kid(&self) -> &str {
        self.header.kid.as_deref().unwrap_or_default()
    }

    /// The public key, as a JWK set for agents.
    pub fn jwks(&self) -> Value {
        json!({ "keys": [key::jwk(&self.public)] })
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

    /// What a compact JWS says, if this key signed it: a task that comes back, however late.
    pub fn wrote(&self, token: &str) -> Option<Assignment> {
        TaskVerifier::from_jwks(&self.jwks()).ok()?.signed(token).ok()
    }
}

impl fmt::Debug for TaskSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskSigner({})", self.kid())
    }
}
