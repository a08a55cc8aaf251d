//! `hostler server` and `hostler agent`: two processes, one configuration file, and a machine that outlives both.

use std::{fs, process::Command};

use anyhow::Result;
use hostler_e2e::{
    dev::{binary, image},
    pair::Pair,
};
use serde_json::Value;

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

#[tokio::test]
async fn a_host_that_goes_down_has_its_guests_turned_off_and_starts_those_again_that_are_to_be() -> Result<()> {
    let mut pair = Pair::new()?;
    pair.start_server().await?;
    fs::write(pair.token_file(), join_token(&pair)?)?;
    pair.start_agent().await?;
    pair.says(&["vm", "create", "stays", "--autostart"])?;
    pair.says(&["vm", "exec", "stays", "--", "sh", "-c", "echo kept > /note && sync"])?;
    pair.says(&["vm", "create", "goes"])?;

    pair.host_is("running")?;
    pair.stop_agent().await?;
    assert_eq!(pair.qemus().len(), 2, "an agent that is stopped leaves its machines");
    pair.start_agent().await?;

    pair.host_is("stopping")?;
    pair.stop_agent().await?;
    assert!(pair.qemus().is_empty(), "a host that goes down does not");
    let told = pair.log();
    assert_eq!(told.matches("a machine is off").count(), 2, "they were asked and obeyed:\n{told}");

    pair.host_is("running")?;
    pair.start_agent().await?;
    pair.until("the machine is back", |pair| {
        Ok(pair.hostler(&["vm", "exec", "stays", "--", "cat", "/note"])?.status.success().then_some(()))
    })
    .await?;
    let other = pair.json(&["vm", "show", "goes"])?;
    assert_eq!((&other["state"], &other["reason"]), (&Value::from("stopped"), &Value::from("host_went_down")));
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

#[tokio::test]
async fn a_machine_that_says_nothing_is_made_of_what_the_configuration_names() -> Result<()> {
    let mut pair = Pair::new()?;
    let tiny = image("tiny")?;
    let file = |part: &str| tiny.join(part).display().to_string();
    pair.configure(
        "server",
        &format!(
            "default_kernel = \"{}\"\ndefault_rootfs = \"{}\"\ndefault_initramfs = \"{}\"\ndefault_memory_mib = 160\n\
             default_disk_gib = 2",
            file("kernel"),
            file("rootfs"),
            file("initrd")
        ),
    )?;
    pair.configure("agent", "boot_slots = 3\nquick_slots = 7\nguest_slots = 9")?;
    pair.start_server().await?;
    fs::write(pair.token_file(), join_token(&pair)?)?;
    pair.start_agent().await?;
    assert_eq!(
        pair.json(&["node", "show", "n1"])?["facts"]["slots"],
        serde_json::json!({"boot": 3, "disk": 2, "quick": 7, "guest": 9})
    );

    let made = pair.json(&["vm", "create", "m", "--disk", "1G"])?;
    let spec = &made["vm"]["spec"];
    assert_eq!((&spec["image"], &spec["memory_mib"], &spec["disk_gib"]), (&"default".into(), &160.into(), &1.into()));
    assert_eq!(made["task"]["params"]["memory_mib"], 160, "what was filled in is in the answer");
    assert_eq!(pair.says(&["vm", "exec", "m", "--", "echo", "up"])?, "up\n");
    pair.says(&["vm", "delete", "m"])?;

    // The same files are not taken in again, and others are another image under the name.
    let known = pair.json(&["image", "show", "default"])?["digest"].clone();
    pair.stop_server().await?;
    pair.start_server().await?;
    let imports =
        |pair: &Pair| -> Result<usize> { Ok(pair.json(&["image", "imports"])?.as_array().map_or(0, Vec::len)) };
    assert_eq!((imports(&pair)?, &pair.json(&["image", "show", "default"])?["digest"]), (1, &known));
    pair.stop_server().await?;
    pair.configure("server", "default_cmdline = \"console=ttyS0 root=/dev/vda rw quiet\"")?;
    pair.start_server().await?;
    assert_eq!(imports(&pair)?, 2);
    assert_ne!(pair.json(&["image", "show", "default"])?["digest"], known);
    Ok(())
}

/// What a verb says that ends by itself, with these variables set: how it ended, stdout and stderr.
fn with(pair: &Pair, variables: &[(&str, &str)], words: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = Command::new(binary()?);
    command.args(words).arg("--config").arg(pair.config()).envs(variables.iter().copied());
    let output = command.output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

#[test]
fn a_default_that_is_configured_must_be_there_and_whence_it_is_can_be_seen() -> Result<()> {
    let pair = Pair::new()?;
    let (code, _, said) = with(&pair, &[("DEFAULT_KERNEL", "/nowhere/vmlinux")], &["server"])?;
    assert!(code == Some(2) && said.contains("server.default_kernel: /nowhere/vmlinux"), "{code:?} {said}");
    let variables = [("DEFAULT_KERNEL", "/k"), ("DEFAULT_ROOTFS", "/r"), ("HOSTLER_SERVER_DEFAULT_ROOTFS", "/own")];
    let (_, shown, _) = with(&pair, &variables, &["config", "show", "-o", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    let whence = |key: &str| {
        let all = shown.as_array().into_iter().flatten();
        let one = all.filter(|one| one["key"] == key).map(|one| (one["value"].clone(), one["from"].clone())).next();
        one.map(|(value, from)| (value.as_str().unwrap_or_default().to_owned(), from))
    };
    assert_eq!(whence("server.default_kernel"), Some(("/k".into(), "DEFAULT_KERNEL".into())));
    assert_eq!(whence("server.default_rootfs"), Some(("/own".into(), "HOSTLER_SERVER_DEFAULT_ROOTFS".into())));
    let built_in = ("/opt/arrakis/initramfs.cpio.gz".to_owned(), Value::Null);
    assert_eq!(whence("server.default_initramfs"), Some(built_in));
    Ok(())
}

#[tokio::test]
async fn a_store_that_was_put_back_keeps_the_machines_that_it_does_not_know() -> Result<()> {
    let mut pair = Pair::new()?;
    pair.start_server().await?;
    fs::write(pair.token_file(), join_token(&pair)?)?;
    pair.start_agent().await?;
    pair.says(&["vm", "create", "known"])?;
    let folder = pair.folder("backup").display().to_string();
    pair.says(&["backup", &folder])?;
    pair.says(&["vm", "create", "later"])?;
    let machines = pair.qemus();
    let refused = pair.hostler(&["restore", &folder])?;
    assert!(!refused.status.success(), "a server runs over it");

    pair.stop_server().await?;
    let said = pair.says(&["restore", &folder])?;
    assert!(said.contains("store epoch") && said.contains("revoke again"), "{said}");
    // It signed what came after the backup when it ended, and was to forget that.
    assert!(said.contains("signed anew from what is there now"), "{said}");
    pair.start_server().await?;
    pair.until("the machine that is known runs programs", |pair| {
        Ok(pair.hostler(&["vm", "exec", "known", "--", "true"])?.status.success().then_some(()))
    })
    .await?;
    assert_eq!(pair.json(&["vm", "list"])?.as_array().map(Vec::len), Some(1));
    assert_eq!(pair.qemus(), machines, "nothing is deleted by itself");
    pair.until("the other is told to be nobody's", |pair| {
        Ok(pair.says(&["event"])?.contains("node.orphan").then_some(()))
    })
    .await?;
    Ok(())
}
