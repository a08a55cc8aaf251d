//! Random secrets that travel as text and are stored as hashes.
//!
//! A secret has 256 bits of entropy, so a plain sha256 protects it at rest. Never here: a secret in `Debug`, a
//! comparison whose time depends on what is compared.

use std::{fmt, str::FromStr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hostler_model::Ids;

use crate::fingerprint::sha256;

/// 32 random bytes; 43 characters of base64url as text.
#[derive(Clone)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) fn generate(ids: &Ids) -> Self {
        Secret(ids.bytes())
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Secret)
    }

    pub(crate) fn reveal(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0)
    }

    pub(crate) fn hash(&self) -> SecretHash {
        SecretHash(sha256(&self.0))
    }
}

/// What is stored of a secret: its sha256. Equality takes the same time whatever differs.
#[derive(Clone, Copy, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Of a credential that is longer than a secret and has one in it, such as a signed token.
    pub fn of(credential: &[u8]) -> SecretHash {
        SecretHash(sha256(credential))
    }
}

/// A text that is no hash of a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a secret's hash is 64 hex digits")]
pub struct NotAHash;

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

impl FromStr for SecretHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).map_err(|_| NotAHash)?;
        Ok(SecretHash(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_its_text_and_differs_between_secrets() {
        let ids = Ids::seeded(1);
        let (one, other) = (Secret::generate(&ids), Secret::generate(&ids));
        assert_eq!(one.hash().to_string().parse(), Ok(one.hash()));
        assert_ne!(one.hash(), other.hash());
        assert_eq!("zz".parse::<SecretHash>(), Err(NotAHash));
    }

    #[test]
    fn a_secret_is_read_only_in_its_one_spelling() {
        let text = Secret::generate(&Ids::seeded(1)).reveal();
        assert_eq!(Secret::parse(&text).unwrap().reveal(), text);
        for bad in ["", &text[1..], &format!("{text}="), &format!("{text}A"), &format!(" {text}")] {
            assert!(Secret::parse(bad).is_none(), "{bad}");
        }
    }
}
