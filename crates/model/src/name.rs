//! Names: 1 to 63 of `a-z0-9-` with no hyphen at either end.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Refusal, excerpt};

/// A name that is safe in a path, a URL and a table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty()
            || text.len() > 63
            || !text.chars().all(allowed)
            || text.starts_with('-')
            || text.ends_with('-')
        {
            return Err(Refusal::field("name", "a name is 1 to 63 of a-z, 0-9 and -, with no hyphen at either end")
                .with("value", excerpt(text)));
        }
        Ok(Name(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|refusal: Refusal| serde::de::Error::custom(refusal.detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_hurt_are_refused() {
        let long = "a".repeat(64);
        for text in ["", "-a", "a-", "A", "../etc", "a'b", "a\"b", "a b", "ä", "a/b", ".", long.as_str()] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
        for text in ["a", "web-1", "0", &"a".repeat(63)] {
            assert!(text.parse::<Name>().is_ok(), "{text}");
        }
    }
}
