//! A bearer token: never printed, not even by `{:?}`.

use std::fmt;

/// A bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token as it was read, without the white space around it.
    pub fn new(text: &str) -> Token {
        Token(text.trim().to_owned())
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its text, to be written where only its owner can read it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The value of the `Authorization` header; `None` when the token holds what no header may.
    pub(crate) fn header(&self) -> Option<http::HeaderValue> {
        let mut value = http::HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl From<&str> for Token {
    fn from(text: &str) -> Token {
        Token::new(text)
    }
}

impl From<String> for Token {
    fn from(text: String) -> Token {
        Token::new(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_show_itself() {
        let token = Token::new(" hst_secret\n");
        assert!(!format!("{token:?} {:?}", token.header()).contains("secret"));
        assert_eq!(token.header().unwrap(), "Bearer hst_secret");
    }

    #[test]
    fn a_token_that_could_split_a_header_makes_none() {
        assert_eq!(Token::new("a\r\nx: y").header(), None);
    }
}
