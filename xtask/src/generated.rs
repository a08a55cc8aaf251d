//! Documents that are made from the code, checked in and compared: the API's, and the page of error codes.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use hostler_model::Code;

/// A document's path, and what makes it.
type Document = (&'static str, fn() -> String);

const DOCUMENTS: [Document; 2] = [("docs/openapi.json", hostler_control::openapi), ("docs/errors.md", errors)];

fn path(document: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(document)
}

/// Writes them.
pub(crate) fn write() -> Result<()> {
    DOCUMENTS.iter().try_for_each(|(document, make)| fs::write(path(document), make()).context(*document))
}

/// Refuses one that is not what the code says.
pub(crate) fn compare() -> Result<()> {
    for (document, make) in DOCUMENTS {
        let there =
            fs::read_to_string(path(document)).with_context(|| format!("{document}: `make generated` writes it"))?;
        if there != make() {
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
