//! A row of an answer, read by column number.

use std::fmt::Display;

use serde::de::DeserializeOwned;

use crate::{Error, Result, postgres};

/// One row. Columns are numbered from 0.
pub struct Row<'a>(pub(crate) Cells<'a>);

pub(crate) enum Cells<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

/// What a column of a row holds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Cell<'a> {
    /// Nothing.
    Null,
    /// A whole number, or a truth value as 0 or 1.
    Integer(i64),
    /// A number with a fraction.
    Real(f64),
    /// Text.
    Text(&'a str),
}

/// What a cell can be read as.
pub trait FromCell: Sized {
    /// The value; `None` where the cell holds something else.
    fn from_cell(cell: Cell<'_>) -> Option<Self>;
}

impl FromCell for i64 {
    fn from_cell(cell: Cell<'_>) -> Option<i64> {
        match cell {
            Cell::Integer(number) => Some(number),
            Cell::Null | Cell::Real(_) | Cell::Text(_) => None,
        }
    }
}

/// Whole numbers that are narrower than what a column holds.
macro_rules! narrower {
    ($($number:ty)*) => {
        $(impl FromCell for $number {
            fn from_cell(cell: Cell<'_>) -> Option<$number> {
                i64::from_cell(cell).and_then(|number| number.try_into().ok())
            }
        })*
    };
}

narrower!(u8 i32 u32);

impl FromCell for bool {
    fn from_cell(cell: Cell<'_>) -> Option<bool> {
        i64::from_cell(cell).map(|number| number != 0)
    }
}

impl FromCell for String {
    fn from_cell(cell: Cell<'_>) -> Option<String> {
        match cell {
            Cell::Text(text) => Some(text.to_owned()),
            Cell::Null | Cell::Integer(_) | Cell::Real(_) => None,
        }
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: Cell<'_>) -> Option<Option<T>> {
        match cell {
            Cell::Null => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}

impl Row<'_> {
    /// A column of this type; `Option` for one that may be NULL.
    pub fn get<T: FromCell>(&self, column: usize) -> Result<T> {
        let cell = self.cell(column)?;
        T::from_cell(cell).ok_or_else(|| decode(column, format!("it holds {}", cell.what())))
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
        self.str_opt(column)?.map(|text| text.parse().map_err(|e: T::Err| decode(column, e))).transpose()
    }

    /// A JSON column.
    pub fn json<T: DeserializeOwned>(&self, column: usize) -> Result<T> {
        serde_json::from_str(self.str(column)?).map_err(|e| decode(column, e))
    }

    /// A JSON column, or NULL.
    pub fn json_opt<T: DeserializeOwned>(&self, column: usize) -> Result<Option<T>> {
        self.str_opt(column)?.map(|text| serde_json::from_str(text).map_err(|e| decode(column, e))).transpose()
    }

    /// A text column whose value is one of an enum's snake_case words.
    pub fn word<T: DeserializeOwned>(&self, column: usize) -> Result<T> {
        from_word(self.str(column)?).map_err(|e| decode(column, e))
    }

    /// Such a column, or NULL.
    pub fn word_opt<T: DeserializeOwned>(&self, column: usize) -> Result<Option<T>> {
        self.str_opt(column)?.map(|text| from_word(text).map_err(|e| decode(column, e))).transpose()
    }

    fn str(&self, column: usize) -> Result<&str> {
        self.str_opt(column)?.ok_or_else(|| decode(column, "it holds nothing"))
    }

    fn str_opt(&self, column: usize) -> Result<Option<&str>> {
        match self.cell(column)? {
            Cell::Text(text) => Ok(Some(text)),
            Cell::Null => Ok(None),
            cell => Err(decode(column, format!("it holds {}", cell.what()))),
        }
    }

    fn cell(&self, column: usize) -> Result<Cell<'_>> {
        match self.0 {
            Cells::Sqlite(row) => of_sqlite(row, column),
            Cells::Postgres(row) => postgres::cell(row, column),
        }
    }
}

impl Cell<'_> {
    pub(crate) const fn what(&self) -> &'static str {
        match self {
            Cell::Null => "nothing",
            Cell::Integer(_) => "a whole number",
            Cell::Real(_) => "a number with a fraction",
            Cell::Text(_) => "text",
        }
    }
}

fn of_sqlite<'a>(row: &'a rusqlite::Row<'_>, column: usize) -> Result<Cell<'a>> {
    use rusqlite::types::ValueRef;
    match row.get_ref(column).map_err(|e| decode(column, e))? {
        ValueRef::Null => Ok(Cell::Null),
        ValueRef::Integer(number) => Ok(Cell::Integer(number)),
        ValueRef::Real(number) => Ok(Cell::Real(number)),
        ValueRef::Text(text) => std::str::from_utf8(text).map(Cell::Text).map_err(|e| decode(column, e)),
        ValueRef::Blob(_) => Err(decode(column, "it holds bytes")),
    }
}

fn from_word<T: DeserializeOwned>(text: &str) -> std::result::Result<T, serde::de::value::Error> {
    use serde::de::IntoDeserializer;
    T::deserialize(text.into_deserializer())
}

pub(crate) fn decode(column: usize, error: impl Display) -> Error {
    Error::Decode { column, detail: error.to_string() }
}
