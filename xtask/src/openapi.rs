//! The API's document: written from the code, checked in, compared.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json"))
}

/// Writes the document.
pub(crate) fn write() -> Result<()> {
    fs::write(path(), hostler_control::openapi()).context("docs/openapi.json")
}

/// Refuses a document that is not what the code says.
pub(crate) fn compare() -> Result<()> {
    let there = fs::read_to_string(path()).context("docs/openapi.json: `make openapi` writes it")?;
    if there != hostler_control::openapi() {
        bail!("docs/openapi.json is not what the code says: `make openapi` writes it anew");
    }
    eprintln!("docs/openapi.json is what the code says");
    Ok(())
}
