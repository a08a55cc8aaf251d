//! The few words in which PostgreSQL's texts differ from SQLite's.
//!
//! | SQLite | PostgreSQL |
//! |---|---|
//! | `jsonb_each(?1) wanted` | `jsonb_array_elements($1) wanted(value)` |
//! | `jsonb_each(?1, '$.ids')` | `jsonb_array_elements($1->'ids') batch(value)` |
//! | `wanted.value`, of an array of texts | `(wanted.value #>> '{}')` |
//! | `?1` | `$1`, of the type `jsonb` |

/// The parameter of SQLite's texts.
const PARAMETER: &str = "?1";
const EACH: [&str; 2] = ["jsonb_each(", "json_each("];

/// Whether a text takes a parameter.
pub(super) fn takes_batch(sql: &str) -> bool {
    sql.contains(PARAMETER)
}

/// The text as PostgreSQL understands it.
pub(super) fn translate(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 64);
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = EACH.iter().find_map(|each| rest.strip_prefix(each)) {
            rest = elements(after, &mut out);
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
    let alias_end =
        rest.strip_prefix(' ').map_or(0, |text| text.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(text.len()));
    if alias_end == 0 {
        out.push_str(" batch(value)");
        return rest;
    }
    out.push_str(&rest[..=alias_end]);
    out.push_str("(value)");
    &rest[alias_end + 1..]
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
        ] {
            assert_eq!(translate(sqlite), postgres);
        }
    }
}
