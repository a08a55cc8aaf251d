//! What a node joins with: a single-use secret, and the fingerprint of the authority it is to trust, in one text:
//! `hst_<secret>.<fingerprint>`. The server keeps the secret's hash. Never here: whether a token is used or expired.

use std::{fmt, str::FromStr};

use hostler_model::Ids;

use crate::{
    fingerprint::Fingerprint,
    secret::{Secret, SecretHash},
};

/// What every join token begins with.
pub const PREFIX: &str = "hst_";

/// A join token.
#[derive(Clone)]
pub struct JoinToken {
    secret: Secret,
    authority: Fingerprint,
}

/// A text that is no join token. The text itself is not repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is not a join token: one looks like hst_<secret>.<fingerprint>; copy it whole")]
pub struct NotAJoinToken;

impl JoinToken {
    /// A new one for nodes that are to trust `authority`.
    pub fn generate(ids: &Ids, authority: Fingerprint) -> Self {
        JoinToken { secret: Secret::generate(ids), authority }
    }

    /// Its text, for the one time that it is shown and for the join call.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}.{}", self.secret.reveal(), self.authority)
    }

    /// The authority that the server must show.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// What is stored of it.
    pub fn hash(&self) -> SecretHash {
        self.secret.hash()
    }
}

impl FromStr for JoinToken {
    type Err = NotAJoinToken;

    fn from_str(text: &str) -> Result<Self, NotAJoinToken> {
        let (secret, authority) =
            text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(NotAJoinToken)?;
        let secret = Secret::parse(secret).ok_or(NotAJoinToken)?;
        Ok(JoinToken { secret, authority: authority.parse().map_err(|_| NotAJoinToken)? })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(…, authority {})", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Fingerprint {
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".parse().unwrap()
    }

    #[test]
    fn a_token_survives_its_text_and_never_shows_its_secret() {
        let token = JoinToken::generate(&Ids::seeded(1), authority());
        let read: JoinToken = token.reveal().parse().unwrap();
        assert_eq!((read.hash(), read.authority()), (token.hash(), authority()));
        let secret = token.reveal()[PREFIX.len()..].split('.').next().unwrap().to_owned();
        assert!(!format!("{token:?}").contains(&secret));
    }

    #[test]
    fn a_token_cut_short_is_refused() {
        let text = JoinToken::generate(&Ids::seeded(1), authority()).reveal();
        for end in 0..text.len() {
            assert!(text[..end].parse::<JoinToken>().is_err(), "{end}");
        }
    }
}
