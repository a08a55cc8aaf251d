//! Keys that sign tasks are changed while tasks are done, by real servers and agents.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use hostler_e2e::{dev::binary, fleet::Fleet};
use hostler_fixture::Postgres;
use serde_json::{Value, json};

/// What an agent says of a task that it does not believe.
const REFUSED: &str = "a task was refused";

async fn key(fleet: &Fleet<'_>, server: usize, path: &str) -> Result<String> {
    let (status, key) = fleet.call(server, "POST", &format!("/keys{path}"), Some(json!({}))).await?;
    assert!(status < 300, "{status} {key}");
    Ok(key["kid"].as_str().context("a key")?.to_owned())
}

async fn signs(fleet: &Fleet<'_>, server: usize) -> Result<String> {
    let (_, keys) = fleet.call(server, "GET", "/keys", None).await?;
    let signs = keys["items"].as_array().and_then(|keys| keys.iter().find(|key| key["state"] == "active").cloned());
    Ok(signs.context("a key signs")?["kid"].as_str().context("a kid")?.to_owned())
}

#[tokio::test]
async fn keys_follow_one_another_under_load_and_no_task_is_refused() -> Result<()> {
    let fleet = Fleet::started(Postgres::shared()?, 2, 2).await?;
    let mut tasks = Vec::new();
    for round in 0..4 {
        let (here, there) = (round % 2, 1 - round % 2);
        let before = signs(&fleet, there).await?;
        tasks.extend(fleet.echoes(there, 300).await?);
        let next = key(&fleet, here, "").await?;
        tasks.extend(fleet.echoes(there, 300).await?);
        key(&fleet, here, &format!("/{next}/activate")).await?;
        tasks.extend(fleet.echoes(there, 300).await?);
        let ends = fleet.ends(here, &tasks).await?;
        assert!(ends.iter().all(|end| end == "succeeded"), "round {round}");
        key(&fleet, here, &format!("/{before}/retire")).await?;
        assert_eq!(fleet.echo(there).await?.0, 200);
    }
    for agent in 0..fleet.agents() {
        assert!(!fleet.agent_log(agent).contains(REFUSED), "{}", fleet.agent_log(agent));
    }
    // One attempt each: none was refused and sent again.
    let attempts = fleet.store().ask("SELECT CAST(MAX(attempt) AS TEXT) FROM tasks WHERE kind = 'echo'")?;
    assert_eq!((attempts.as_str(), tasks.len()), ("1", 3600));
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}

#[tokio::test]
async fn a_revoked_key_is_followed_at_once_on_every_server_and_work_goes_on() -> Result<()> {
    let fleet = Fleet::started(Postgres::shared()?, 2, 1).await?;
    let leaked = signs(&fleet, 0).await?;
    key(&fleet, 0, &format!("/{leaked}/revoke")).await?;
    for server in [0, 1, 0, 1] {
        let (status, answer) = fleet.echo(server).await?;
        assert_eq!((status, &answer["task"]["state"]), (200, &Value::from("succeeded")), "{answer}");
    }
    assert_ne!(signs(&fleet, 1).await?, leaked);
    Ok(())
}

#[tokio::test]
async fn the_master_key_is_rotated_at_any_server_and_old_ones_go_when_somebody_says_so() -> Result<()> {
    let mut fleet = Fleet::started(Postgres::shared()?, 2, 1).await?;
    let hostler = |fleet: &Fleet<'_>, server: usize, words: &[&str]| -> Result<Value> {
        let data = format!("--data={}", fleet.folder(&format!("server-{server}")).display());
        let mut program = Command::new(binary()?);
        let output = program.arg(data).args(words).args(["-o", "json"]).env("HOSTLER_CONFIG", "/dev/null").output()?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let mut names = Vec::new();
    for server in [0, 1, 0] {
        let rotated = hostler(&fleet, server, &["key", "rotate-master"])?;
        assert_eq!(rotated["older"].as_array().map(Vec::len), Some(names.len() + 1), "{rotated}");
        names.push(rotated["master"].clone());
        // Either server seals a new key that signs tasks, and one that starts opens it.
        let next = key(&fleet, 1 - server, "").await?;
        key(&fleet, 1 - server, &format!("/{next}/activate")).await?;
        fleet.stop_server(server).await?;
        fleet.start_server(server).await?;
        assert_eq!(fleet.echo(server).await?.0, 200);
    }
    let retired = hostler(&fleet, 1, &["key", "rotate-master", "--retire"])?;
    assert_eq!((retired["removed"].as_array().map(Vec::len), Some(&retired["master"])), (Some(3), names.last()));
    assert_eq!(std::fs::read_to_string(fleet.folder("master.key"))?.lines().count(), 1);
    for server in [0, 1] {
        fleet.stop_server(server).await?;
        fleet.start_server(server).await?;
        assert_eq!(fleet.echo(server).await?.0, 200);
    }
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}
