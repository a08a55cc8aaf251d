//! The documentation's commands print what the documentation shows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hostler_e2e::{
    dev::{Dev, binary},
    doc::{Page, Shell},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs the commands of a page against a hostler that is there for this only.
async fn follow(page: &str) -> Result<()> {
    let mut dev = Dev::new(&[])?;
    dev.on_a_host_named("laptop");
    dev.start().await?;
    let (folder, binary, path) = (tempfile::tempdir()?, binary()?, root().join(page));
    let bin = binary.parent().context("the binary lies in a folder")?;
    let shell = Shell { folder: folder.path(), bin, data: &dev.data(), server: dev.log() };
    let page = Page::read(&path)?;
    assert!(page.commands() > 3, "{} shows no commands", path.display());
    if std::env::var("HOSTLER_DOCS").is_ok_and(|word| word == "write") {
        page.write(&shell, &path)?;
    } else {
        page.check(&shell)?;
    }
    dev.assert_well().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_is_true() -> Result<()> {
    follow("README.md").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_is_true() -> Result<()> {
    follow("docs/tour.md").await
}
