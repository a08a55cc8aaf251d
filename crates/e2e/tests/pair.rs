//! `hostler server` and `hostler agent`: two processes, one configuration file, and a machine that outlives both.

use std::{fs, process::Command};

use anyhow::Result;
use hostler_e2e::{dev::binary, pair::Pair};

fn join_token(pair: &Pair) -> Result<String> {
    let issued = pair.json(&["node", "token"])?;
    Ok(issued["token"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_machine_outlives_a_killed_agent_and_a_stopped_server() -> Result<()> {
    let mut pair = Pair::new()?;
    pair.start_server().await?;
    fs::write(pair.token_file(), join_token(&pair)?)?;
    pair.start_agent().await?;
    pair.says(&["vm", "create", "m"])?;
    pair.says(&["vm", "exec", "m", "--", "sh", "-c", "echo kept > /note"])?;
    let machines = pair.qemus();
    assert_eq!(machines.len(), 1);

    // It has an identity now: the token is spent, and not needed again.
    fs::remove_file(pair.token_file())?;
    pair.kill_agent()?;
    assert_eq!(pair.qemus(), machines, "a killed agent leaves its machines");
    pair.start_agent().await?;
    assert_eq!(pair.says(&["vm", "exec", "m", "--", "cat", "/note"])?, "kept\n");

    pair.stop_server().await?;
    assert!(!pair.folder("server/client.json").exists(), "a server that is gone is not named");
    assert_eq!(pair.qemus(), machines, "a stopped server leaves them too");
    pair.start_server().await?;
    pair.until("the agent has found the server again", |pair| {
        Ok(pair.hostler(&["vm", "exec", "m", "--", "cat", "/note"])?.status.success().then_some(()))
    })
    .await?;
    assert_eq!(pair.qemus(), machines);
    pair.says(&["vm", "delete", "m"])?;
    assert!(pair.qemus().is_empty());
    Ok(())
}

/// An agent over a folder of its own that is expected to end by itself: how, and what it said.
fn agent(pair: &Pair, name: &str) -> Result<(bool, String)> {
    let mut command = Command::new(binary()?);
    command.args(["agent", "--driver", "sim", "--name", name, "--config"]).arg(pair.config());
    let output = command.arg("--data").arg(pair.folder(name)).output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[tokio::test]
async fn a_token_is_no_use_a_second_time_and_none_is_said_to_be_needed() -> Result<()> {
    let mut pair = Pair::new()?;
    pair.start_server().await?;
    let (ended_well, said) = agent(&pair, "tokenless")?;
    assert!(!ended_well && said.contains("hostler node token"), "{said}");
    let token = join_token(&pair)?;
    fs::write(pair.token_file(), &token)?;
    pair.start_agent().await?;
    let (ended_well, said) = agent(&pair, "second")?;
    assert!(!ended_well && said.contains("the server refused the join"), "{said}");
    assert!(!said.contains(&token), "the token is nobody else's to read: {said}");
    Ok(())
}

#[test]
fn an_open_listener_and_a_wrong_key_are_refused_with_what_to_do() -> Result<()> {
    let pair = Pair::new()?;
    let server = |words: &[&str]| -> Result<(Option<i32>, String)> {
        let output = Command::new(binary()?).arg("server").args(words).arg("--config").arg(pair.config()).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, said) = server(&["--listen", "0.0.0.0:0"])?;
    assert!(code == Some(2) && said.contains("--insecure-listen"), "{code:?} {said}");
    fs::write(pair.config(), "[server]\nlisten_on = \"127.0.0.1:0\"\n")?;
    let (code, said) = server(&[])?;
    assert!(code == Some(2) && said.contains("there is no key \"listen_on\""), "{code:?} {said}");
    Ok(())
}
