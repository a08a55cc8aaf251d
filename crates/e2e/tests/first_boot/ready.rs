//! When machines are ready, without a boot of minutes: the guest `tiny`, and one like it that listens on a port.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use hostler_e2e::dev::{Dev, image};
use serde_json::{Value, json};

/// Comes with the guest's address, a while after its agent has answered.
const MARKER: &str = "/run/udhcpc.eth0.pid";

/// What the other guest listens on.
const PORT: u16 = 8080;

/// Puts an image `listening` among those that this hostler will offer: `tiny`, with a web server.
fn add_listening(images: &Path) -> Result<()> {
    let (tiny, listening) = (image("tiny")?, images.join("listening"));
    fs::create_dir_all(&listening)?;
    for file in ["kernel", "initrd"] {
        fs::copy(tiny.join(file), listening.join(file))?;
    }
    let (rootfs, inittab) = (listening.join("rootfs"), listening.join("inittab"));
    fs::copy(tiny.join("rootfs"), &rootfs)?;
    debugfs(&rootfs, &format!("dump /etc/inittab {}", inittab.display()))?;
    let lines = fs::read_to_string(&inittab)?;
    ensure!(lines.contains("ttyS0"), "tiny's inittab is {lines:?}");
    fs::write(&inittab, format!("{lines}::respawn:/bin/httpd -f -p {PORT}\n"))?;
    debugfs(&rootfs, "rm /etc/inittab")?;
    debugfs(&rootfs, &format!("write {} /etc/inittab", inittab.display()))?;
    let mut manifest: Value = serde_json::from_slice(&fs::read(tiny.join("image.json"))?)?;
    let digest = String::from_utf8(Command::new("sha256sum").arg(&rootfs).output()?.stdout)?;
    manifest["files"]["rootfs"]["sha256"] = digest.split(' ').next().into();
    manifest["name"] = "listening".into();
    Ok(fs::write(listening.join("image.json"), manifest.to_string())?)
}

/// Changes an ext4 without mounting it.
fn debugfs(image: &Path, request: &str) -> Result<()> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let done = Command::new("debugfs").env("PATH", path).args(["-w", "-R", request]).arg(image).output()?;
    ensure!(done.status.success(), "debugfs {request}: {done:?}");
    Ok(())
}

/// Makes a machine; gives its task at its end.
async fn made(dev: &mut Dev, body: Value) -> Result<Value> {
    let (status, answer) = dev.post("/api/v1/vms", body).await?;
    assert_eq!(status, 202, "{answer}");
    dev.ended_task(answer["task"]["id"].as_str().context("id")?).await
}

/// Stopped and started, and put back to a snapshot, a machine is waited for as at first; and then it is ready.
async fn comes_back(dev: &mut Dev) -> Result<()> {
    for (path, body) in [
        ("m/stop", json!({})),
        ("m/start", json!({})),
        ("m/snapshots", json!({"name": "s", "memory": true})),
        ("m/restore", json!({"snapshot": "s"})),
    ] {
        dev.done("POST", &format!("/api/v1/vms/{path}"), Some(body)).await?;
    }
    let (_, machine) = dev.get("/api/v1/vms/m").await?;
    assert_eq!((&machine["state"], &machine["ready"]), (&json!("running"), &json!(true)), "{machine}");
    Ok(())
}

/// A machine that never shows it is not kept, and the task says what was not seen.
async fn is_not_kept(dev: &mut Dev, body: Value, lacking: &str) -> Result<()> {
    let task = made(dev, body).await?;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("GUEST_NOT_READY")), "{task}");
    let detail = task["error"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(lacking), "{detail}");
    assert_eq!(dev.get("/api/v1/vms/never").await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn a_machine_is_ready_when_its_marker_is_there_and_not_before() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    let task = made(&mut dev, json!({"name": "m", "ready": {"marker": {"path": MARKER}}})).await?;
    assert_eq!(task["state"], "succeeded", "{task}");
    let waited = task["phases"].as_array().is_some_and(|phases| phases.iter().any(|phase| phase["phase"] == "ready"));
    assert!(waited, "{task}");
    assert_eq!(dev.says("m", &format!("test -s {MARKER} && echo there")).await?, "there");
    comes_back(&mut dev).await?;
    let never = json!({"name": "never", "ready": {"marker": {"path": "/no/such file"}}, "ready_timeout_seconds": 40});
    is_not_kept(&mut dev, never, "/no/such file was not there").await?;
    dev.assert_well().await
}

#[tokio::test]
async fn a_machine_is_ready_when_its_guest_takes_a_connection_and_not_when_only_qemu_does() -> Result<()> {
    let mut dev = Dev::new(&[])?;
    add_listening(&dev.images())?;
    dev.start().await?;
    let ready = json!({"tcp": {"port": PORT}});
    let task = made(&mut dev, json!({"name": "m", "image": "listening", "ready": ready})).await?;
    assert_eq!(task["state"], "succeeded", "{task}");
    comes_back(&mut dev).await?;
    // `tiny` listens on nothing; QEMU takes connections for it all the same.
    let never = json!({"name": "never", "ready": ready, "ready_timeout_seconds": 40});
    is_not_kept(&mut dev, never, "took no connection on port 8080").await?;
    dev.assert_well().await
}
