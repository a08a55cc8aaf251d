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
    for (forged, named) in [(without.join("\n"), "a link is missing"), (changed, "is not what was written")] {
        let forgery = fleet.folder("forged.jsonl");
        fs::write(&forgery, forged)?;
        let (whole, said) = hostler(&["audit", "verify", "--ca", &kept, &forgery.display().to_string()])?;
        assert!(!whole && said.contains("not as it was written") && said.contains(named), "{said}");
    }

    // Whoever has the database removes an entry and makes everything behind it look whole, as far as that goes.
    let database = fleet.store().database().context("PostgreSQL's")?;
    database.run("DELETE FROM log WHERE seq = 4")?;
    let data = format!("--data={}", fleet.folder("server-0").display());
    let (whole, said) = hostler(&[&data, "audit", "verify", "--ca", &kept])?;
    assert!(!whole && said.contains("the entry 4 is missing"), "{said}");
    Ok(())
}

/// What somebody does who has the database and nothing else: the last link goes with what was signed, and all looks whole.
const CUT_OFF: &str = "
DELETE FROM checkpoints;
DELETE FROM links WHERE last_seq = (SELECT MAX(last_seq) FROM links);
DELETE FROM log WHERE seq > (SELECT MAX(last_seq) FROM links);
UPDATE log_head
   SET seq = (SELECT MAX(last_seq) FROM links), hash = (SELECT hash FROM links ORDER BY last_seq DESC LIMIT 1);";

async fn cut_off_and_signed_again(mut fleet: Fleet<'_>) -> Result<()> {
    let tasks = fleet.echoes(0, 5).await?;
    fleet.ends(0, &tasks).await?;
    // It signs when it ends.
    fleet.stop_server(0).await?;
    fleet.store().run(CUT_OFF)?;
    fleet.start_server(0).await?;
    let ills = fleet.ills(0).await?;
    assert_eq!(ills.len(), 1, "{ills:?}");
    assert!(ills[0]["detail"].as_str().is_some_and(|why| why.contains("written anew, or cut off")), "{ills:?}");
    // Nor does a file that says nothing make it begin anew.
    let kept = fs::read(fleet.folder("ca/signed.json"))?;
    fs::write(fleet.folder("ca/signed.json"), "{}")?;
    let unread = fleet.ills(0).await?;
    assert!(
        unread.len() == 1 && unread[0]["detail"].as_str().is_some_and(|why| why.contains("signed.json")),
        "{unread:?}"
    );
    fs::write(fleet.folder("ca/signed.json"), kept)?;
    fleet.stop_server(0).await?;
    let signed = |fleet: &Fleet<'_>| fleet.store().ask("SELECT CAST(COUNT(*) AS TEXT) FROM checkpoints");
    assert_eq!(signed(&fleet)?, "0");
    assert!(fleet.log().contains("the log's chain is not signed"), "{}", fleet.log());

    let ca = format!("--ca={}", fleet.folder("ca").display());
    let data = format!("--data={}", fleet.folder("server-0").display());
    let which = fleet.store().flag().unwrap_or(data);
    let (restored, said) = hostler(&["restore", "--already", &which, &ca])?;
    assert!(restored && said.contains("signed anew from what is there now"), "{said}");
    fleet.start_server(0).await?;
    assert_eq!(fleet.ills(0).await?.len(), 0);
    fleet.stop_server(0).await?;
    assert_ne!(signed(&fleet)?, "0");
    Ok(())
}

#[tokio::test]
async fn a_log_that_was_cut_off_in_a_file_is_signed_again_only_by_an_operators_word() -> Result<()> {
    cut_off_and_signed_again(Fleet::over_a_file(1).await?).await
}

#[tokio::test]
async fn a_log_that_was_cut_off_in_postgresql_is_signed_again_only_by_an_operators_word() -> Result<()> {
    cut_off_and_signed_again(Fleet::started(Postgres::shared()?, 1, 1).await?).await
}
