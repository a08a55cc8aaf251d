//! Sealed values: texts that rest encrypted, AES-256-GCM with a fresh random nonce each, under a key of their tenant.
//!
//! ```text
//! s1.<base64url of nonce ‖ ciphertext ‖ tag>
//! ```
//!
//! What a value is (its place, its owner) is authenticated with it, so that none can be put in another's place. Random
//! nonces of 96 bits are safe for 2^32 values of one key (NIST SP 800-38D §8.3). Never here: where keys rest.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

const PREFIX: &str = "s1.";

/// A value that could not be sealed or opened. Nothing of it is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// Not what sealing makes.
    #[error("this is not a sealed value")]
    NotSealed,
    /// Sealed under another key, in another place, or changed since.
    #[error("the sealed value does not open: it was changed, moved, or sealed under another key")]
    DoesNotOpen,
    /// The crypto backend failed.
    #[error("the crypto backend failed")]
    Crypto,
}

/// A key under which values are sealed: 32 random bytes.
pub struct DataKey {
    key: RandomizedNonceKey,
    bytes: [u8; LEN],
}

/// A key's bytes.
pub const LEN: usize = 32;

impl DataKey {
    /// A new one.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn generate() -> Result<DataKey, SealError> {
        let mut bytes = [0; LEN];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError::Crypto)?;
        Self::from_bytes(bytes)
    }

    /// From its bytes.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn from_bytes(bytes: [u8; LEN]) -> Result<DataKey, SealError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::Crypto)?;
        Ok(DataKey { key, bytes })
    }

    /// Its bytes, to be wrapped.
    pub fn reveal(&self) -> &[u8; LEN] {
        &self.bytes
    }

    /// Seals a value. `place` says what it is: it opens only as that.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn seal(&self, place: &str, value: &[u8]) -> Result<String, SealError> {
        let mut text = value.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut text);
        let nonce = nonce.map_err(|_| SealError::Crypto)?;
        Ok(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &text].concat())))
    }

    /// Opens what was sealed as `place`.
    ///
    /// # Errors
    /// When it is no sealed value, or not one of this key and place as it was sealed.
    pub fn open(&self, place: &str, sealed: &str) -> Result<Vec<u8>, SealError> {
        let text = sealed.strip_prefix(PREFIX).ok_or(SealError::NotSealed)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::NotSealed)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN).ok_or(SealError::NotSealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::NotSealed)?;
        let mut text = text.to_vec();
        let opened = self.key.open_in_place(nonce, Aad::from(place.as_bytes()), &mut text);
        opened.map(|value| value.to_vec()).map_err(|_| SealError::DoesNotOpen)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_out_as_it_went_in_and_never_twice_as_the_same() {
        let key = DataKey::generate().unwrap();
        for value in [&b""[..], b"hunter2", &[0; 4096]] {
            let sealed = key.seal("place", value).unwrap();
            assert_eq!(key.open("place", &sealed).unwrap(), value);
            assert_ne!(sealed, key.seal("place", value).unwrap());
        }
    }

    #[test]
    fn a_value_opens_nowhere_else_and_under_no_other_key() {
        let (key, other) = (DataKey::generate().unwrap(), DataKey::generate().unwrap());
        let sealed = key.seal("secret of a", b"hunter2").unwrap();
        assert_eq!(key.open("secret of b", &sealed), Err(SealError::DoesNotOpen));
        assert_eq!(other.open("secret of a", &sealed), Err(SealError::DoesNotOpen));
        assert_eq!(key.open("secret of a", "hunter2"), Err(SealError::NotSealed));
    }

    #[test]
    fn a_value_changed_in_any_byte_does_not_open() {
        let key = DataKey::generate().unwrap();
        let sealed = key.seal("p", b"hunter2").unwrap();
        for place in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            assert!(key.open("p", &String::from_utf8(bytes).unwrap()).is_err(), "{place}");
            assert!(key.open("p", &sealed[..place]).is_err(), "{place}");
        }
    }

    #[test]
    fn a_key_never_shows_itself() {
        assert_eq!(format!("{:?}", DataKey::generate().unwrap()), "DataKey(…)");
    }
}
