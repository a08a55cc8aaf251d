//! A node is emptied and removed with the command line.

use std::fs;

use anyhow::Result;
use hostler_e2e::pair::Pair;
use serde_json::Value;

/// What a command says that is to be refused.
fn refused(pair: &Pair, words: &[&str]) -> Result<String> {
    let output = pair.hostler(words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{words:?}: {said}");
    Ok(said)
}

#[tokio::test]
async fn a_node_is_drained_and_removed_with_the_command_line_and_its_agent_is_told() -> Result<()> {
    let mut pair = Pair::new()?;
    pair.configure("agent", "driver = \"sim\"")?;
    pair.start_server().await?;
    let issued = pair.json(&["node", "token", "n1"])?;
    fs::write(pair.token_file(), issued["token"].as_str().unwrap_or_default())?;
    pair.start_agent().await?;
    pair.says(&["vm", "create", "web"])?;

    let said = refused(&pair, &["node", "remove", "n1"])?;
    assert!(said.contains("hostler node drain n1"), "{said}");
    let said = refused(&pair, &["node", "drain", "n1", "--wait", "--timeout", "1s"])?;
    assert!(said.contains("web"), "what is left is named: {said}");
    assert!(pair.says(&["node", "show", "n1"])?.contains("web"));
    let said = refused(&pair, &["node", "remove", "n1"])?;
    assert!(said.contains("web") && !said.contains("hostler node drain"), "it is being drained already: {said}");
    let said = refused(&pair, &["vm", "create", "other"])?;
    assert!(said.contains("draining"), "nothing new comes there: {said}");

    pair.says(&["vm", "delete", "web"])?;
    pair.says(&["node", "drain", "n1", "--wait", "--timeout", "20s"])?;
    assert_eq!(pair.json(&["node", "show", "n1"])?["state"], "drained");
    pair.says(&["node", "remove", "n1"])?;
    assert_eq!(pair.json(&["node", "list"])?, Value::Array(Vec::new()));
    pair.until("the agent is told", |pair| Ok(pair.log().contains("there is no such node").then_some(()))).await?;
    assert!(pair.log().contains("a revoked or removed node's connection was cut"), "{}", pair.log());
    Ok(())
}
