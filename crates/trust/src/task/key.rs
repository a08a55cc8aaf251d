//! A public task key as a JWK (RFC 8037), and sets of them. A set also names keys that were revoked, in a member of its own,
//! which others pass over (RFC 7517 §5).

use std::collections::HashSet;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hostler_model::key::{KeyState, SigningKey};
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fingerprint::sha256;

/// A key set that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeySetError {
    /// Not a JWK set.
    #[error("this is not a JWK set: {0}")]
    NotASet(String),
    /// An Ed25519 key whose `x` or `kid` is not right.
    #[error("a key in the set is not a whole Ed25519 key with a kid")]
    BadKey,
    /// Two keys with one `kid`.
    #[error("two keys in the set share the kid {0:?}")]
    Duplicate(String),
    /// No key that can verify a task.
    #[error("no key in the set can verify a task")]
    Empty,
}

/// The name of a key: its RFC 7638 thumbprint, from the 32 bytes of the public key.
pub fn thumbprint(public: &[u8]) -> String {
    let x = x(public);
    BASE64_URL_SAFE_NO_PAD.encode(sha256(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes()))
}

/// The public part as it stands in a JWK.
pub(super) fn x(public: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(public)
}

/// The set that agents get: those that are believed, and the names of those that were revoked.
pub fn key_set(keys: &[SigningKey]) -> Value {
    let believed = keys.iter().filter(|key| key.state.is_believed());
    let revoked = keys.iter().filter(|key| key.state == KeyState::Revoked);
    json!({
        "keys": believed.map(jwk_of).collect::<Vec<_>>(),
        "revoked": revoked.map(|key| &key.kid).collect::<Vec<_>>(),
    })
}

/// What a set is told from another by.
pub fn digest(set: &Value) -> String {
    hex::encode(sha256(set.to_string().as_bytes()))
}

/// One public key.
pub fn jwk_of(key: &SigningKey) -> Value {
    named(&key.public, &key.kid.0)
}

pub(crate) fn jwk(public: &[u8]) -> Value {
    named(&x(public), &thumbprint(public))
}

fn named(x: &str, kid: &str) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": "EdDSA", "use": "sig"})
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
    #[serde(default)]
    revoked: HashSet<String>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
}

impl Jwk {
    /// RFC 7517 §5: keys of kinds that are not understood are passed over.
    fn verifies_tasks(&self) -> bool {
        self.kty == "OKP"
            && self.crv.as_deref() == Some("Ed25519")
            && self.alg.as_deref().is_none_or(|alg| alg == "EdDSA")
            && self.usage.as_deref().is_none_or(|usage| usage == "sig")
    }

    fn read(self) -> Option<(String, DecodingKey)> {
        let x = self.x?;
        let whole = BASE64_URL_SAFE_NO_PAD.decode(&x).is_ok_and(|bytes| bytes.len() == 32);
        Some((self.kid?, DecodingKey::from_ed_components(&x).ok().filter(|_| whole)?))
    }
}

/// A key and its name.
type Named = (String, DecodingKey);

/// The keys of a set that can verify tasks, with their names; and the names of those that must not.
pub(super) fn read_set(set: &Value) -> Result<(Vec<Named>, HashSet<String>), KeySetError> {
    let Set { keys, revoked } = Set::deserialize(set).map_err(|error| KeySetError::NotASet(error.to_string()))?;
    let usable = keys.into_iter().filter(Jwk::verifies_tasks);
    let keys = usable.map(|jwk| jwk.read().ok_or(KeySetError::BadKey)).collect::<Result<_, _>>()?;
    Ok((keys, revoked))
}
