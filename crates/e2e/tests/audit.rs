//! The audit as an auditor has it: an export, the authority's certificate that was kept, and the program; no server.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use hostler_e2e::{dev::binary, fleet::Fleet};
use hostler_fixture::Postgres;

/// Runs the program; whether it went well, and what it printed.
fn hostler(words: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(binary()?).args(words).env("HOSTLER_CONFIG", "/dev/null").output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(said)?))
}

/// Exports what the server has; it is verified later, elsewhere.
fn exported(fleet: &Fleet<'_>, to: &Path) -> Result<()> {
    let data = format!("--data={}", fleet.folder("server-0").display());
    let (exported, lines) = hostler(&[&data, "audit", "export"])?;
    assert!(exported, "{lines}");
    Ok(fs::write(to, lines)?)
}

#[tokio::test]
async fn an_export_is_verified_without_a_server_and_what_was_tampered_with_is_named() -> Result<()> {
    let mut fleet = Fleet::started(Postgres::shared()?, 1, 1).await?;
    let tasks = fleet.echoes(0, 50).await?;
    fleet.ends(0, &tasks).await?;
    // It signs where the chain stands when it ends, and goes on.
    fleet.stop_server(0).await?;
    fleet.start_server(0).await?;
    let (file, kept) = (fleet.folder("audit.jsonl"), fleet.folder("kept.pem"));
    fs::copy(fleet.folder("ca/ca.pem"), &kept)?;
    exported(&fleet, &file)?;
    let (file, kept) = (file.display().to_string(), kept.display().to_string());
    let verify = ["audit", "verify", "--ca", &kept, &file];
    let (whole, said) = hostler(&verify)?;
    assert!(whole && said.contains("as it was written"), "{said}");

    // A line that was taken out, and a word that was changed, of the export.
    let lines = fs::read_to_string(&file)?;
    let without: Vec<&str> = lines.lines().enumerate().filter(|(n, _)| *n != 3).map(|(_, line)| line).collect();
    let changed = lines.replacen("node.join", "node.quit", 1);
    for forged in [without.join("\n"), changed] {
        let forgery = fleet.folder("forged.jsonl");
        fs::write(&forgery, forged)?;
        let (whole, said) = hostler(&["audit", "verify", "--ca", &kept, &forgery.display().to_string()])?;
        assert!(!whole && said.contains("not as it was written"), "{said}");
    }

    // Whoever has the database removes an entry and makes everything behind it look whole, as far as that goes.
    let database = fleet.store().database().context("PostgreSQL's")?;
    database.run("DELETE FROM log WHERE seq = 4")?;
    let data = format!("--data={}", fleet.folder("server-0").display());
    let (whole, said) = hostler(&[&data, "audit", "verify", "--ca", &kept])?;
    assert!(!whole && said.contains("the entry 4 is missing"), "{said}");
    Ok(())
}
