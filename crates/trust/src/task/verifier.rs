//! The agent's side: is this task from my server, for me, and in time?

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hostler_model::{NodeId, Timestamp, internal::Assignment, refused::Why};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Several, TYP, TYP_OF_SEVERAL,
    key::{self, KeySetError},
};

/// Why a task was not accepted. The texts are stable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum TaskRefusal {
    /// Not a signed task at all.
    #[error("malformed: this is not a signed task")]
    Malformed,
    /// Signed with an algorithm other than EdDSA, or with none.
    #[error("wrong_algorithm: tasks are signed with EdDSA and nothing else")]
    WrongAlgorithm,
    /// Signed with a key that is not in the set.
    #[error("unknown_key: the key that signed is not one of the server's task keys")]
    UnknownKey,
    /// Signed with a key that was revoked.
    #[error("revoked_key: the key that signed was revoked")]
    RevokedKey,
    /// Not signed by the key that it names, or changed on its way.
    #[error("bad_signature: the signature is wrong")]
    BadSignature,
    /// Another server's.
    #[error("wrong_issuer: the task is from another server")]
    WrongIssuer,
    /// For another node.
    #[error("wrong_audience: the task is for another node")]
    WrongAudience,
    /// Too late to begin.
    #[error("expired: the time to begin the task is over")]
    Expired,
}

impl TaskRefusal {
    /// As it is counted and told.
    pub const fn why(self) -> Why {
        match self {
            TaskRefusal::Malformed => Why::Malformed,
            TaskRefusal::WrongAlgorithm => Why::WrongAlgorithm,
            TaskRefusal::UnknownKey => Why::UnknownKey,
            TaskRefusal::RevokedKey => Why::RevokedKey,
            TaskRefusal::BadSignature => Why::BadSignature,
            TaskRefusal::WrongIssuer => Why::WrongIssuer,
            TaskRefusal::WrongAudience => Why::WrongAudience,
            TaskRefusal::Expired => Why::Expired,
        }
    }
}

/// Whose tasks are accepted, and for whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected<'a> {
    /// What the server calls itself.
    pub issuer: &'a str,
    /// This node.
    pub node: NodeId,
}

/// Verifies tasks with a set of public keys.
#[derive(Clone)]
pub struct TaskVerifier {
    keys: HashMap<String, DecodingKey>,
    revoked: HashSet<String>,
    validation: Validation,
}

/// What is read of a header before its signature is known to be right. The algorithm is read as text: one that the
/// library does not know is a wrong algorithm, not a malformed task.
#[derive(Deserialize)]
struct Header {
    typ: Option<String>,
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl TaskVerifier {
    /// From a JWK set. Keys of other kinds in it are passed over.
    ///
    /// # Errors
    /// When it is no set, a key is damaged or named twice, or none is usable.
    pub fn from_jwks(set: &Value) -> Result<TaskVerifier, KeySetError> {
        let (usable, revoked) = key::read_set(set)?;
        let mut keys = HashMap::new();
        for (kid, key) in usable {
            if keys.insert(kid.clone(), key).is_some() {
                return Err(KeySetError::Duplicate(kid));
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::Empty);
        }
        Ok(TaskVerifier { keys, revoked, validation: signature_only() })
    }

    /// The same, which also refuses what these keys signed.
    #[must_use]
    pub fn refusing(mut self, revoked: impl IntoIterator<Item = String>) -> TaskVerifier {
        self.revoked.extend(revoked);
        self
    }

    /// The names of the keys whose tasks it refuses.
    pub fn revoked(&self) -> impl Iterator<Item = &str> {
        self.revoked.iter().map(String::as_str)
    }

    /// The tasks in a compact JWS, each if it is to be believed at this moment. The signature is checked before any claim is
    /// read. There is no leeway: the server's and the node's clocks are expected to agree better than leases are long.
    ///
    /// # Errors
    /// The first reason, in the order of [`TaskRefusal`], to believe none of them, whatever they say.
    pub fn verify(
        &self,
        token: &str,
        expected: &Expected<'_>,
        now: Timestamp,
    ) -> Result<Vec<Result<Assignment, TaskRefusal>>, TaskRefusal> {
        match self.key_for(token)? {
            (Holds::One, key) => Ok(vec![believe(self.claims(token, key)?, expected, now)]),
            (Holds::Several, key) => {
                // One of a newer server's that this agent cannot read takes none with it.
                let read = |task: Value| serde_json::from_value(task).map_err(|_| TaskRefusal::Malformed);
                let tasks = self.claims::<Several<Vec<Value>>>(token, key)?.tasks;
                Ok(tasks.into_iter().map(|task| believe(read(task)?, expected, now)).collect())
            }
        }
    }

    /// What was signed as one task, for whomever and whenever: a task that comes back, however late.
    ///
    /// # Errors
    /// It is no such task, or not signed by one of the keys.
    pub fn signed(&self, token: &str) -> Result<Assignment, TaskRefusal> {
        match self.key_for(token)? {
            (Holds::One, key) => self.claims(token, key),
            (Holds::Several, _) => Err(TaskRefusal::Malformed),
        }
    }

    fn claims<T: DeserializeOwned>(&self, token: &str, key: &DecodingKey) -> Result<T, TaskRefusal> {
        let signed = jsonwebtoken::decode::<T>(token, key, &self.validation);
        signed.map(|signed| signed.claims).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => TaskRefusal::BadSignature,
            ErrorKind::InvalidAlgorithm => TaskRefusal::WrongAlgorithm,
            _ => TaskRefusal::Malformed,
        })
    }

    fn key_for(&self, token: &str) -> Result<(Holds, &DecodingKey), TaskRefusal> {
        let parts: Vec<&str> = token.splitn(4, '.').collect();
        let [header, _, _] = parts[..] else { return Err(TaskRefusal::Malformed) };
        let header = BASE64_URL_SAFE_NO_PAD.decode(header).map_err(|_| TaskRefusal::Malformed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| TaskRefusal::Malformed)?;
        let holds = match header.typ.as_deref() {
            Some(TYP) => Holds::One,
            Some(TYP_OF_SEVERAL) => Holds::Several,
            Some(_) | None => return Err(TaskRefusal::Malformed),
        };
        // RFC 7515 §4.1.11: an extension that must be understood and is not.
        if header.crit.is_some() {
            return Err(TaskRefusal::Malformed);
        }
        if header.alg != "EdDSA" {
            return Err(TaskRefusal::WrongAlgorithm);
        }
        let kid = header.kid.as_deref().unwrap_or_default();
        if self.revoked.contains(kid) {
            return Err(TaskRefusal::RevokedKey);
        }
        let key = self.keys.get(kid).ok_or(TaskRefusal::UnknownKey)?;
        Ok((holds, key))
    }
}

/// What a signed text says that it holds.
enum Holds {
    One,
    Several,
}

fn believe(assignment: Assignment, expected: &Expected<'_>, now: Timestamp) -> Result<Assignment, TaskRefusal> {
    if assignment.iss != expected.issuer {
        return Err(TaskRefusal::WrongIssuer);
    }
    if assignment.aud != expected.node {
        return Err(TaskRefusal::WrongAudience);
    }
    // RFC 7519 §4.1.4: "on or after".
    if now.as_micros() >= assignment.exp.saturating_mul(1_000_000) {
        return Err(TaskRefusal::Expired);
    }
    Ok(assignment)
}

/// The library checks the signature; claims are compared here, against the time that is handed in.
/// Whether EdDSA signed it, and nothing else: what it says is compared elsewhere, with a time that is handed in.
pub(crate) fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

impl fmt::Debug for TaskVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TaskVerifier").field(&self.keys.keys()).finish()
    }
}
