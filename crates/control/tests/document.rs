//! The API's document, as it is checked in.

use std::{fs, path::Path};

#[test]
fn the_document_that_is_checked_in_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let there = fs::read_to_string(path).unwrap_or_default();
    assert!(there == hostler_control::openapi(), "docs/openapi.json is out of date: run `cargo xtask generate`");
}
