//! Access tokens that others can read: JWTs (RFC 9068) signed with EdDSA by this server's issuer, whose public keys are
//! published.
//!
//! ```text
//! header  {"typ":"at+jwt","alg":"EdDSA","kid":"<RFC 7638 thumbprint>"}
//! claims  {"iss","aud":"tenant"|"admin","sub","jti","iat","exp","tenant"?,"roles":[role],"scope"?}
//! ```
//!
//! A signature alone lets nobody in: the server also has a row for each token, which revocation ends. So a stolen key
//! makes nothing that this server believes. Never here: that row, a caller.

mod keys;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hostler_model::{
    PrincipalId, TenantId, Timestamp, TokenId,
    caller::{Audience, Caller},
    role::Role,
};
use jsonwebtoken::{Algorithm, Header};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::keys::Keys;
pub use self::keys::TokenKeyError;
use crate::task::signature_only;

/// The `typ` of an access token: nothing else that is signed here can be taken for one.
const TYP: &str = "at+jwt";
/// How often the folder of keys is looked at, in microseconds.
const LOOK_MICROS: i64 = 5_000_000;

/// Why an access token is not believed. The texts are stable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum AccessRefusal {
    /// Not an access token at all.
    #[error("malformed: this is not an access token")]
    Malformed,
    /// Signed with an algorithm other than EdDSA, or with none.
    #[error("wrong_algorithm: access tokens are signed with EdDSA and nothing else")]
    WrongAlgorithm,
    /// Signed with a key that is not one of the issuer's.
    #[error("unknown_key: the key that signed is not one of the issuer's")]
    UnknownKey,
    /// Not signed by the key that it names, or changed on its way.
    #[error("bad_signature: the signature is wrong")]
    BadSignature,
    /// Another issuer's.
    #[error("wrong_issuer: the token is from another issuer")]
    WrongIssuer,
    /// Its time is up.
    #[error("expired: the token's time is up")]
    Expired,
}

/// What an access token says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Whose it is.
    pub iss: String,
    /// For whose work.
    pub aud: Audience,
    /// Whom it stands for.
    pub sub: PrincipalId,
    /// Its id.
    pub jti: TokenId,
    /// Since when, in seconds.
    pub iat: i64,
    /// Until when, in seconds.
    pub exp: i64,
    /// Of which tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// As what.
    pub roles: Vec<Role>,
    /// Narrowed to what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    typ: Option<String>,
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// Issues access tokens, and knows its own again. Its keys lie in a folder that is looked at every few seconds, so that
/// one can be added while servers run; in a test they are in memory.
pub struct AccessIssuer {
    name: String,
    folder: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    keys: Arc<Keys>,
    looked_at: Timestamp,
}

impl AccessIssuer {
    /// With a key that nobody else has, in memory.
    ///
    /// # Errors
    /// When the crypto backend fails.
    pub fn generate(name: &str, now: Timestamp) -> Result<AccessIssuer, TokenKeyError> {
        Ok(Self::of(name, None, Keys::generate(now)?, now))
    }

    /// With the keys in a folder, where a first one is made if there is none.
    ///
    /// # Errors
    /// When a key cannot be read or written, others can read it, or it is no Ed25519 key.
    pub fn open(name: &str, ca: &Path, now: Timestamp) -> Result<AccessIssuer, TokenKeyError> {
        let folder = keys::folder(ca);
        Ok(Self::of(name, Some(folder.clone()), Keys::load_or_create(&folder, now)?, now))
    }

    /// Puts a new key beside the others in the folder of an authority; its name. It signs once every server has had the
    /// time to publish it. Keys that nothing good can be signed with any more are removed.
    ///
    /// # Errors
    /// As [`AccessIssuer::open`].
    pub fn rotate(ca: &Path, now: Timestamp) -> Result<String, TokenKeyError> {
        keys::rotate(&keys::folder(ca), now)
    }

    fn of(name: &str, folder: Option<PathBuf>, keys: Keys, now: Timestamp) -> AccessIssuer {
        let state = State { keys: keys.into(), looked_at: now };
        AccessIssuer { name: name.to_owned(), folder, state: Mutex::new(state) }
    }

    /// What it calls itself: the `iss` of its tokens.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Looks at the folder again, if that was not done lately. When it fails the keys stay as they were.
    ///
    /// # Errors
    /// As [`AccessIssuer::open`].
    pub fn look(&self, now: Timestamp) -> Result<(), TokenKeyError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if (now.as_micros() - state.looked_at.as_micros()).abs() < LOOK_MICROS {
            return Ok(());
        }
        state.looked_at = now;
        state.keys = Keys::load(folder)?.into();
        Ok(())
    }

    fn keys(&self) -> Arc<Keys> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).keys.clone()
    }

    /// The public keys, as a JWK set for whoever verifies.
    pub fn jwks(&self) -> Value {
        self.keys().jwks()
    }

    /// A token that stands for a caller.
    ///
    /// # Errors
    /// When it cannot be signed: in practice never.
    pub fn issue(
        &self,
        id: TokenId,
        caller: &Caller,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<String, TokenKeyError> {
        let keys = self.keys();
        let key = keys.signing(now);
        let header = Header { typ: Some(TYP.to_owned()), kid: Some(key.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        let claims = Claims {
            iss: self.name.clone(),
            aud: caller.audience,
            sub: caller.principal,
            jti: id,
            iat: now.as_micros() / 1_000_000,
            exp: until.as_micros() / 1_000_000,
            tenant: caller.tenant,
            roles: vec![caller.role],
            scope: caller.scopes.words(),
        };
        Ok(jsonwebtoken::encode(&header, &claims, &key.signs)?)
    }

    /// What a token says, if this issuer signed it and its time is not up. The algorithm is the issuer's to say, never the
    /// token's, and no claim is read before the signature is known to be right.
    ///
    /// # Errors
    /// The first reason, in the order of [`AccessRefusal`], not to believe it.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, AccessRefusal> {
        let head: Head = part(token, 0).ok_or(AccessRefusal::Malformed)?;
        if head.alg != "EdDSA" {
            return Err(AccessRefusal::WrongAlgorithm);
        }
        if head.typ.as_deref() != Some(TYP) || head.crit.is_some() {
            return Err(AccessRefusal::Malformed);
        }
        let keys = self.keys();
        let key = head.kid.and_then(|kid| keys.named(&kid)).ok_or(AccessRefusal::UnknownKey)?;
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.verifies, &signature_only());
        let claims = decoded.map_err(|_| AccessRefusal::BadSignature)?.claims;
        if claims.iss != self.name {
            return Err(AccessRefusal::WrongIssuer);
        }
        if claims.exp <= now.as_micros() / 1_000_000 {
            return Err(AccessRefusal::Expired);
        }
        Ok(claims)
    }
}

/// Who a token says that it is from, which nothing but its signature proves. `None` where it is no JWT.
pub fn said_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        iss: String,
    }
    (token.split('.').count() == 3).then(|| part::<Said>(token, 1)).flatten().map(|said| said.iss)
}

fn part<T: serde::de::DeserializeOwned>(token: &str, at: usize) -> Option<T> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(at)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl fmt::Debug for AccessIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessIssuer").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
