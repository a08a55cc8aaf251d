//! A row of an answer, read by column number.

use std::fmt::Display;

use rusqlite::types::FromSql;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// One row. Columns are numbered from 0.
pub struct Row<'a>(pub(crate) &'a rusqlite::Row<'a>);

impl Row<'_> {
    /// A column that rusqlite can read as this type; `Option` for one that may be NULL.
    pub fn get<T: FromSql>(&self, column: usize) -> Result<T> {
        self.0.get(column).map_err(|e| decode(column, e))
    }

    /// A text column that parses.
    pub fn parse<T: std::str::FromStr>(&self, column: usize) -> Result<T>
    where
        T::Err: Display,
    {
        self.str(column)?.parse().map_err(|e: T::Err| decode(column, e))
    }

    /// A text column that parses, or NULL.
    pub fn parse_opt<T: std::str::FromStr>(&self, column: usize) -> Result<Option<T>>
    where
        T::Err: Display,
    {
        match self.0.get_ref(column).map_err(|e| decode(column, e))?.as_str_or_null() {
            Ok(Some(text)) => text.parse().map(Some).map_err(|e: T::Err| decode(column, e)),
            Ok(None) => Ok(None),
            Err(e) => Err(decode(column, e)),
        }
    }

    /// A JSON column.
    pub fn json<T: DeserializeOwned>(&self, column: usize) -> Result<T> {
        serde_json::from_str(self.str(column)?).map_err(|e| decode(column, e))
    }

    /// A JSON column, or NULL.
    pub fn json_opt<T: DeserializeOwned>(&self, column: usize) -> Result<Option<T>> {
        match self.0.get_ref(column).map_err(|e| decode(column, e))?.as_str_or_null() {
            Ok(Some(text)) => serde_json::from_str(text).map(Some).map_err(|e| decode(column, e)),
            Ok(None) => Ok(None),
            Err(e) => Err(decode(column, e)),
        }
    }

    /// A text column whose value is one of an enum's snake_case words.
    pub fn word<T: DeserializeOwned>(&self, column: usize) -> Result<T> {
        from_word(self.str(column)?).map_err(|e| decode(column, e))
    }

    /// Such a column, or NULL.
    pub fn word_opt<T: DeserializeOwned>(&self, column: usize) -> Result<Option<T>> {
        match self.0.get_ref(column).map_err(|e| decode(column, e))?.as_str_or_null() {
            Ok(Some(text)) => from_word(text).map(Some).map_err(|e| decode(column, e)),
            Ok(None) => Ok(None),
            Err(e) => Err(decode(column, e)),
        }
    }

    fn str(&self, column: usize) -> Result<&str> {
        self.0.get_ref(column).map_err(|e| decode(column, e))?.as_str().map_err(|e| decode(column, e))
    }
}

fn from_word<T: DeserializeOwned>(text: &str) -> std::result::Result<T, serde::de::value::Error> {
    use serde::de::IntoDeserializer;
    T::deserialize(text.into_deserializer())
}

fn decode(column: usize, error: impl Display) -> Error {
    Error::Decode { column, detail: error.to_string() }
}
