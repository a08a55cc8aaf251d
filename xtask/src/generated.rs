//! Documents that are made from the code, checked in and compared: the API's, the page of error codes, and the table of the
//! kinds of task in the page about tasks.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use hostler_model::{Code, kind::KindInfo};

/// A document's path, and what makes it of what is there now.
type Document = (&'static str, fn(&str) -> Result<String>);

const DOCUMENTS: [Document; 3] = [
    ("docs/openapi.json", |_| Ok(hostler_control::openapi())),
    ("docs/errors.md", |_| Ok(errors())),
    ("docs/tasks.md", tasks),
];

/// What the table of kinds stands between.
const KINDS: (&str, &str) = ("<!-- kinds: made by `make generated` -->\n", "<!-- end of kinds -->\n");

fn path(document: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(document)
}

/// Writes them.
pub(crate) fn write() -> Result<()> {
    DOCUMENTS.iter().try_for_each(|(document, make)| {
        let there = fs::read_to_string(path(document)).unwrap_or_default();
        fs::write(path(document), make(&there)?).context(*document)
    })
}

/// Refuses one that is not what the code says.
pub(crate) fn compare() -> Result<()> {
    for (document, make) in DOCUMENTS {
        let there =
            fs::read_to_string(path(document)).with_context(|| format!("{document}: `make generated` writes it"))?;
        if there != make(&there)? {
            bail!("{document} is not what the code says: `make generated` writes it anew");
        }
        eprintln!("{document} is what the code says");
    }
    Ok(())
}

fn errors() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         Every refusal of the API is a problem document (`application/problem+json`, RFC 9457) with one of these codes, a sentence\n\
         about this very case (`detail`), facts that a program can read, and the request's id. Tasks that fail carry a code too: their\n\
         status is given as –. A code never changes its meaning. `hostler explain CODE` says the same in a terminal.\n",
    );
    for code in Code::ALL {
        let status = if code.is_of_tasks() { "–".to_owned() } else { code.status().to_string() };
        let _ = write!(page, "\n## {code}\n\n{}. Status {status}.\n\n{}\n", code.title(), code.remedy());
    }
    page
}

/// The page about tasks with the table of kinds as the code says.
fn tasks(there: &str) -> Result<String> {
    let (from, to) = KINDS;
    let parts = there.split_once(from).and_then(|(before, rest)| Some((before, rest.split_once(to)?.1)));
    let (before, after) = parts.with_context(|| format!("docs/tasks.md has no place for the kinds: {from}{to}"))?;
    Ok(format!("{before}{from}{}{to}{after}", kinds()))
}

fn kinds() -> String {
    let mut table = String::from(
        "| kind | slots | begins within | ends within | attempts, pauses | because |\n|---|---|---|---|---|---|\n",
    );
    for kind in KindInfo::all() {
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} | {} | {} |",
            kind.kind,
            kind.class.as_str(),
            kind.begins_within(),
            kind.ends_within(),
            kind.attempts(),
            kind.because
        );
    }
    table
}
