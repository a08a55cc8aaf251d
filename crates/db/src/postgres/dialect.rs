//! The few words in which PostgreSQL's texts differ from SQLite's.
//!
//! | SQLite | PostgreSQL |
//! |---|---|
//! | `jsonb_each(?1) wanted` | `jsonb_array_elements($1) wanted(value)` |
//! | `jsonb_each(?1, '$.ids')` | `jsonb_array_elements($1->'ids') batch(value)` |
//! | `wanted.value`, of an array of texts | `(wanted.value #>> '{}')` |
//! | `?1` | `$1`, of the type `jsonb` |
//!
//! Texts of PostgreSQL's own that write many rows name their fields where those rows come from: `rows(id, at bigint) c` is
//! `unnest($1, $2) c(id, at)`, a parameter for each column (`columns`), of texts where nothing else is said.

use std::sync::Arc;

use tokio_postgres::types::Type;

/// The parameter of SQLite's texts.
const PARAMETER: &str = "?1";
const EACH: [&str; 2] = ["jsonb_each(", "json_each("];
/// Where the rows of a text come from.
const ROWS: &str = "rows(";

/// What a text is run on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Takes {
    Nothing,
    /// One document.
    Batch,
    /// Rows of these columns.
    Rows(Arc<[Column<'static>]>),
}

/// A column of a text's rows.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Column<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Kind,
}

/// What a column of a text's rows holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Text,
    Integer,
}

impl Kind {
    /// Of an array of them.
    pub(super) fn array(self) -> Type {
        match self {
            Kind::Text => Type::TEXT_ARRAY,
            Kind::Integer => Type::INT8_ARRAY,
        }
    }
}

impl Takes {
    /// The types of its parameters.
    pub(super) fn types(&self) -> Vec<Type> {
        match self {
            Takes::Nothing => Vec::new(),
            Takes::Batch => vec![Type::JSONB],
            Takes::Rows(columns) => columns.iter().map(|column| column.kind.array()).collect(),
        }
    }

    /// What this text is run on.
    pub(super) fn of(sql: &'static str) -> Takes {
        match sql.split_once(ROWS) {
            Some((_, after)) => Takes::Rows(columns(after).collect()),
            None if sql.contains(PARAMETER) => Takes::Batch,
            None => Takes::Nothing,
        }
    }
}

/// The columns that are named behind `rows(`.
fn columns<'a>(after: &'a str) -> impl Iterator<Item = Column<'a>> {
    let (named, _) = after.split_once(')').unwrap_or((after, ""));
    named.split(',').map(|column| match column.trim().split_once(' ') {
        Some((name, _)) => Column { name, kind: Kind::Integer },
        None => Column { name: column.trim(), kind: Kind::Text },
    })
}

/// A text as a server gets it, and the types of its parameters: for whoever asks a server what it means to do.
pub fn as_sent(sql: &'static str) -> (String, Vec<String>) {
    let types = Takes::of(sql).types();
    (translate(sql), types.iter().map(|kind| kind.name().to_owned()).collect())
}

/// The text as PostgreSQL understands it.
pub(super) fn translate(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 64);
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = EACH.iter().find_map(|each| rest.strip_prefix(each)) {
            rest = elements(after, &mut out);
        } else if let Some(after) = rest.strip_prefix(ROWS) {
            rest = rows(after, &mut out);
        } else if let Some(after) = rest.strip_prefix(PARAMETER) {
            out.push_str("$1");
            rest = after;
        } else if first.is_ascii_alphabetic() || first == '_' {
            rest = word(rest, &mut out);
        } else if first == '\'' {
            rest = quoted(rest, &mut out);
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// What follows `jsonb_each(`, up to its alias.
fn elements<'a>(after: &'a str, out: &mut String) -> &'a str {
    let (arguments, rest) = after.split_once(')').unwrap_or((after, ""));
    let path = arguments.split_once("'$.").and_then(|(_, path)| path.split_once('\''));
    match path {
        Some((path, _)) => out.push_str(&format!("jsonb_array_elements($1->'{path}')")),
        None => out.push_str("jsonb_array_elements($1)"),
    }
    named(rest, "value", out)
}

/// What follows `rows(`, up to its alias.
fn rows<'a>(after: &'a str, out: &mut String) -> &'a str {
    let (names, parameters): (Vec<&str>, Vec<String>) =
        columns(after).zip(1..).map(|(column, number)| (column.name, format!("${number}"))).unzip();
    out.push_str(&format!("unnest({})", parameters.join(", ")));
    let (_, rest) = after.split_once(')').unwrap_or((after, ""));
    named(rest, &names.join(", "), out)
}

/// The alias of a function's rows, its own or `batch`, and what their columns are called.
fn named<'a>(rest: &'a str, columns: &str, out: &mut String) -> &'a str {
    let alias_end =
        rest.strip_prefix(' ').map_or(0, |text| text.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(text.len()));
    let (alias, rest) = if alias_end == 0 { (" batch", rest) } else { rest.split_at(alias_end + 1) };
    out.push_str(&format!("{alias}({columns})"));
    rest
}

/// A word with what qualifies it; `value` alone is the text that an element of the batch is.
fn word<'a>(rest: &'a str, out: &mut String) -> &'a str {
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    let is_element = word == "value" || word.ends_with(".value");
    if is_element && !after.starts_with("->") {
        out.push_str(&format!("({word} #>> '{{}}')"));
    } else {
        out.push_str(word);
    }
    after
}

/// A text in quotes, which nothing is put in place of.
fn quoted<'a>(rest: &'a str, out: &mut String) -> &'a str {
    let end = rest[1..].find('\'').map_or(rest.len(), |at| at + 2);
    out.push_str(&rest[..end]);
    &rest[end..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_put_in_its_place_and_nothing_else() {
        for (sqlite, postgres) in [
            ("SELECT 1", "SELECT 1"),
            ("WHERE id = ?1->>'id'", "WHERE id = $1->>'id'"),
            (
                "SELECT value->>'a', CAST(value->>'b' AS BIGINT) FROM jsonb_each(?1) WHERE true",
                "SELECT value->>'a', CAST(value->>'b' AS BIGINT) FROM jsonb_array_elements($1) batch(value) WHERE true",
            ),
            (
                "FROM jsonb_each(?1) wanted\n  JOIN t ON t.id = wanted.value",
                "FROM jsonb_array_elements($1) wanted(value)\n  JOIN t ON t.id = (wanted.value #>> '{}')",
            ),
            (
                "id IN (SELECT value FROM jsonb_each(?1, '$.ids')) AND x = 'value'",
                "id IN (SELECT (value #>> '{}') FROM jsonb_array_elements($1->'ids') batch(value)) AND x = 'value'",
            ),
            (
                "FROM jsonb_each(?1) c\n WHERE c.value->'held'->>'x' = y",
                "FROM jsonb_array_elements($1) c(value)\n WHERE c.value->'held'->>'x' = y",
            ),
            ("VALUES (?1->>'values')", "VALUES ($1->>'values')"),
            ("SELECT * FROM rows(a, b bigint)", "SELECT * FROM unnest($1, $2) batch(a, b)"),
            ("FROM rows(a bigint,\n  b) c\n WHERE x = c.a", "FROM unnest($1, $2) c(a, b)\n WHERE x = c.a"),
        ] {
            assert_eq!(translate(sqlite), postgres);
        }
    }

    #[test]
    fn a_text_says_what_it_is_run_on() {
        assert_eq!(Takes::of("SELECT 1"), Takes::Nothing);
        assert_eq!(Takes::of("SELECT ?1"), Takes::Batch);
        let (id, at) = (Column { name: "id", kind: Kind::Text }, Column { name: "at", kind: Kind::Integer });
        assert_eq!(Takes::of("SELECT * FROM rows(id, at bigint) c"), Takes::Rows([id, at].into()));
    }
}
