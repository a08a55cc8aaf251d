//! A person's bearer token: `hos_` and a secret. The server keeps its hash and sees the token itself once, when it is
//! made. Never here: whose it is and what it allows.

use std::{fmt, str::FromStr};

use hostler_model::Ids;

use crate::secret::{Secret, SecretHash};

/// What every API token begins with, so that scanners for leaked secrets can know one.
pub const PREFIX: &str = "hos_";

/// A bearer token for a person or a program.
#[derive(Clone)]
pub struct ApiToken(Secret);

/// A text that is no API token. The text itself is not repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is not an API token: one begins with hos_ and has 43 characters more")]
pub struct NotAnApiToken;

impl ApiToken {
    /// A new one.
    pub fn generate(ids: &Ids) -> Self {
        ApiToken(Secret::generate(ids))
    }

    /// Its text, for the one time that it is shown and for the `Authorization` header.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", self.0.reveal())
    }

    /// What is stored of it.
    pub fn hash(&self) -> SecretHash {
        self.0.hash()
    }
}

impl FromStr for ApiToken {
    type Err = NotAnApiToken;

    fn from_str(text: &str) -> Result<Self, NotAnApiToken> {
        text.strip_prefix(PREFIX).and_then(Secret::parse).map(ApiToken).ok_or(NotAnApiToken)
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_never_shows_itself() {
        let token = ApiToken::generate(&Ids::seeded(1));
        let read: ApiToken = token.reveal().parse().unwrap();
        assert_eq!(read.hash(), token.hash());
        assert_eq!(token.reveal().len(), 47);
        assert_eq!(format!("{token:?}"), "ApiToken(…)");
    }

    #[test]
    fn a_text_that_is_no_token_is_not_repeated() {
        let error = "hst_secret".parse::<ApiToken>().unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}
