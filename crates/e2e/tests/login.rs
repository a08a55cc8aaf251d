//! The command line's own way in: a token is made, carried to another user, and revoked.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use hostler_e2e::dev::{Dev, PATIENCE, binary};
use hostler_fixture::{KeyKind, Provider, free_port};
use serde_json::Value;

/// A user of this machine with a home of their own.
struct Person<'a> {
    home: &'a Path,
}

impl Person<'_> {
    fn says(&self, words: &[&str], stdin: Option<&str>) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command.args(words).env_clear().env("HOME", self.home).env("NO_PROXY", "*");
        let (input, output) = (if stdin.is_some() { Stdio::piped() } else { Stdio::null() }, Stdio::piped());
        let mut child = command.stdin(input).stdout(output).stderr(Stdio::piped()).spawn()?;
        if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
            pipe.write_all(text.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    }

    fn json(&self, words: &[&str], stdin: Option<&str>) -> Result<Value> {
        let output = self.says(&[words, &["-o", "json"]].concat(), stdin)?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// A line of a child's, as it comes.
fn line(child: &mut std::process::Child) -> Result<String> {
    let mut text = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stderr.as_mut().context("stderr")?), &mut text)?;
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_logs_in_by_a_browser_and_keeps_a_token_of_their_own() -> Result<()> {
    let provider = Provider::start(KeyKind::Rsa).await?;
    let home = tempfile::tempdir()?;
    let folder = tempfile::tempdir()?;
    let (data, port) = (folder.path().join("data"), free_port()?);
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    let mut server = Command::new(binary()?)
        .args(["server", "--listen", &listen, "--agents-listen", "127.0.0.1:0", "--oidc-issuer", provider.issuer()])
        .args(["--oidc-client", "hostler-cli", "--oidc-roles-claim", "groups", "--oidc-roles", "ops=operator"])
        .arg("--data")
        .arg(&data)
        .env("HOME", home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let until = std::time::Instant::now() + PATIENCE;
    while !data.join("client.json").exists() {
        ensure!(std::time::Instant::now() < until && server.try_wait()?.is_none(), "the server does not come up");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let person = Person { home: home.path() };
    let mut login = Command::new(binary()?)
        .args(["login", "work", "--url", &url, "--device", "--expires", "12h", "-o", "json"])
        .env_clear()
        .env("HOME", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let said = line(&mut login)?;
    assert!(said.contains("WDJB-MJHT") && said.contains(provider.issuer()), "{said}");
    provider.approve(serde_json::json!({"sub": "alice", "tenant": "default", "groups": ["ops"]}));
    let done = tokio::task::spawn_blocking(move || login.wait_with_output()).await??;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let me = person.json(&["whoami"], None)?;
    assert_eq!((&me["role"], &me["tenant"].is_string()), (&"operator".into(), &true), "{me}");
    let tokens = person.json(&["token", "list"], None)?;
    let label = tokens[0]["label"].as_str().context("a label")?;
    assert!(label.starts_with("hostler login on ") && tokens[0]["id"] == me["token"], "{tokens}");
    // What is kept is a token of ours, and no provider's.
    let contexts = std::fs::read_to_string(home.path().join(".config/hostler/contexts.toml"))?;
    assert!(contexts.contains("hos_") && !contexts.contains("eyJ"), "{}", contexts.len());
    rustix::process::kill_process(rustix::process::Pid::from_child(&server), rustix::process::Signal::TERM)?;
    assert!(server.wait()?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_another_user_in_until_it_is_revoked() -> Result<()> {
    let dev = Dev::started(&["--driver", "sim"]).await?;
    let (data, homes) = (dev.data(), tempfile::tempdir()?);
    let (data, url) = (data.to_str().context("UTF-8")?, dev.url()?);
    let (admin, other) = (homes.path().join("admin"), homes.path().join("other"));
    std::fs::create_dir_all(&admin)?;
    std::fs::create_dir_all(&other)?;
    let (admin, other) = (Person { home: &admin }, Person { home: &other });

    admin.json(&["--data", data, "service-account", "create", "ci", "--role", "operator"], None)?;
    for format in [&[][..], &["--jwt"]] {
        let words =
            [&["--data", data, "token", "create", "build", "--for", "ci", "--scope", "vm:read"], format].concat();
        let issued = admin.json(&words, None)?;
        let (token, id) =
            (issued["token"].as_str().context("a token")?, issued["about"]["id"].as_str().context("an id")?);
        other.json(&["login", "work", "--url", &url], Some(token))?;
        let me = other.json(&["whoami"], None)?;
        assert_eq!((&me["service_account"], &me["role"]), (&"ci".into(), &"operator".into()), "{me}");
        other.json(&["vm", "list"], None)?;
        let refused = other.says(&["task", "list"], None)?;
        assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
        admin.json(&["--data", data, "token", "revoke", id], None)?;
        let refused = other.says(&["whoami"], None)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(3) && said.contains("revoked"), "{said}");
        // A token that is not good takes nobody's place among the contexts.
        assert_eq!(other.says(&["login", "work2", "--url", &url], Some(token))?.status.code(), Some(3));
        assert!(!String::from_utf8_lossy(&other.says(&["context", "list"], None)?.stdout).contains("work2"));
    }
    let contexts = std::fs::metadata(other.home.join(".config/hostler/contexts.toml"))?;
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&contexts) & 0o777, 0o600);
    dev.assert_well().await
}
