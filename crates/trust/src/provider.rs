//! Tokens that an identity provider signed (OpenID Connect), and the keys that it publishes for them.
//!
//! ```text
//! token ─► algorithm: one that a key of this kind may sign with ─► key ─► signature ─► issuer · audience · time ─► claims
//! ```
//!
//! A key says what it may be used for, never the token: an RSA key verifies RS and PS signatures, a curve its own, and no
//! published key is ever taken for a shared secret. Never here: how the keys are fetched, what the claims mean.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hostler_model::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

/// The shortest RSA modulus that is believed, in bytes: 2048 bits (RFC 7518 §3.3).
const RSA_BYTES: usize = 256;
/// How many keys of a set are looked at; providers publish a handful.
const MOST_KEYS: usize = 64;

/// Why a provider's token is not believed. The texts are stable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ProviderRefusal {
    /// Not a signed token at all.
    #[error("malformed: this is not a signed token")]
    Malformed,
    /// Not signed with an algorithm that is believed.
    #[error("wrong_algorithm: only RS, PS, ES and EdDSA signatures are believed")]
    WrongAlgorithm,
    /// Signed with a key that is not in the set, or not with what that key is for.
    #[error("unknown_key: no key of the provider's could have signed this")]
    UnknownKey,
    /// Not signed by the key that it names, or changed on its way.
    #[error("bad_signature: the signature is wrong")]
    BadSignature,
    /// Another provider's.
    #[error("wrong_issuer: the token is from another issuer")]
    WrongIssuer,
    /// For somebody else.
    #[error("wrong_audience: the token is for somebody else")]
    WrongAudience,
    /// Its time is up.
    #[error("expired: the token's time is up")]
    Expired,
    /// Its time has not come.
    #[error("not_yet: the token's time has not come, or the clocks disagree")]
    NotYet,
}

/// What a token must say.
#[derive(Clone, Copy, Debug)]
pub struct Demanded<'a> {
    /// Its issuer.
    pub issuer: &'a str,
    /// For whom it may be: one of these.
    pub audiences: &'a [String],
    /// How far the two clocks may disagree.
    pub skew: Duration,
}

/// What is fixed by every token.
#[derive(Clone, PartialEq, Debug)]
pub struct Stated {
    /// Whom it stands for, at the issuer.
    pub subject: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// Everything that it says.
    pub claims: Value,
}

/// The keys of a provider that can verify a signature.
pub struct ProviderKeys(Vec<Key>);

struct Key {
    kid: Option<String>,
    allows: Vec<Algorithm>,
    verifies: DecodingKey,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl Jwk {
    fn is_for_signatures(&self) -> bool {
        let verifies = |operations: &Vec<String>| operations.iter().any(|operation| operation == "verify");
        self.usage.as_deref().is_none_or(|usage| usage == "sig") && self.key_ops.as_ref().is_none_or(verifies)
    }

    /// `None` for what cannot verify a signature that is believed: RFC 7517 §5 has such keys passed over.
    fn read(self) -> Option<Key> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        if !self.is_for_signatures() {
            return None;
        }
        let (allows, verifies) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (self.n?, self.e?);
                let modulus = BASE64_URL_SAFE_NO_PAD.decode(&n).ok()?;
                if modulus.iter().skip_while(|byte| **byte == 0).count() < RSA_BYTES {
                    return None;
                }
                (vec![RS256, RS384, RS512, PS256, PS384, PS512], DecodingKey::from_rsa_components(&n, &e).ok()?)
            }
            ("EC", Some("P-256")) => (vec![ES256], DecodingKey::from_ec_components(&self.x?, &self.y?).ok()?),
            ("EC", Some("P-384")) => (vec![ES384], DecodingKey::from_ec_components(&self.x?, &self.y?).ok()?),
            ("OKP", Some("Ed25519")) => (vec![EdDSA], DecodingKey::from_ed_components(&self.x?).ok()?),
            _ => return None,
        };
        // A key that names its algorithm is for no other.
        let allows: Vec<Algorithm> = match self.alg {
            None => allows,
            Some(named) => allows.into_iter().filter(|one| named.parse() == Ok(*one)).collect(),
        };
        (!allows.is_empty()).then_some(Key { kid: self.kid, allows, verifies })
    }
}

impl ProviderKeys {
    /// Of a JWK set. Keys that verify no signature are passed over; `None` where it is no set, or none is left.
    pub fn read(set: &Value) -> Option<ProviderKeys> {
        let keys = set.get("keys")?.as_array()?.iter().take(MOST_KEYS);
        let keys: Vec<Key> = keys.filter_map(|key| Jwk::deserialize(key).ok()?.read()).collect();
        (!keys.is_empty()).then_some(ProviderKeys(keys))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What a token says, if one of these keys signed it, for us, and its time is now.
    ///
    /// # Errors
    /// The first reason, in the order of [`ProviderRefusal`], not to believe it.
    pub fn verify(&self, token: &str, demanded: &Demanded<'_>, now: Timestamp) -> Result<Stated, ProviderRefusal> {
        let head: Head = head(token).ok_or(ProviderRefusal::Malformed)?;
        if head.crit.is_some() {
            return Err(ProviderRefusal::Malformed);
        }
        let algorithm: Algorithm = head.alg.parse().map_err(|_| ProviderRefusal::WrongAlgorithm)?;
        if matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return Err(ProviderRefusal::WrongAlgorithm);
        }
        let key = self.key(head.kid.as_deref(), algorithm).ok_or(ProviderRefusal::UnknownKey)?;
        let mut validation = Validation::new(algorithm);
        // Names and time are compared below, with the time that was handed in.
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        let decoded = jsonwebtoken::decode::<Value>(token, &key.verifies, &validation);
        let claims = decoded.map_err(|_| ProviderRefusal::BadSignature)?.claims;
        stated(claims, demanded, now)
    }

    /// The key that a token names; where it names none, the only one that could have signed it.
    fn key(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let mut able = self.0.iter().filter(|key| key.allows.contains(&algorithm));
        match kid {
            Some(kid) => able.find(|key| key.kid.as_deref() == Some(kid)),
            None => able.next().filter(|_| able.next().is_none()),
        }
    }
}

fn head(token: &str) -> Option<Head> {
    let mut parts = token.split('.');
    let (head, rest) = (parts.next()?, parts.count());
    (rest == 2).then_some(())?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(head).ok()?).ok()
}

fn stated(claims: Value, demanded: &Demanded<'_>, now: Timestamp) -> Result<Stated, ProviderRefusal> {
    if claims["iss"].as_str() != Some(demanded.issuer) {
        return Err(ProviderRefusal::WrongIssuer);
    }
    let ours =
        |audience: &Value| audience.as_str().is_some_and(|text| demanded.audiences.iter().any(|one| one == text));
    let for_us = match &claims["aud"] {
        Value::Array(several) => several.iter().any(ours),
        one => ours(one),
    };
    if !for_us {
        return Err(ProviderRefusal::WrongAudience);
    }
    // NumericDate may have a fraction.
    let time = |name: &str| claims[name].as_f64().map(|seconds| Timestamp::from_micros((seconds * 1e6) as i64));
    let expires_at = time("exp").ok_or(ProviderRefusal::Malformed)?;
    if expires_at.plus(demanded.skew) <= now {
        return Err(ProviderRefusal::Expired);
    }
    if ["nbf", "iat"].into_iter().filter_map(time).any(|since| since > now.plus(demanded.skew)) {
        return Err(ProviderRefusal::NotYet);
    }
    let subject = claims["sub"].as_str().filter(|subject| !subject.is_empty()).ok_or(ProviderRefusal::Malformed)?;
    Ok(Stated { subject: subject.to_owned(), expires_at: expires_at.plus(demanded.skew), claims })
}

impl std::fmt::Debug for ProviderKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.kid)).finish()
    }
}

#[cfg(test)]
mod tests;
