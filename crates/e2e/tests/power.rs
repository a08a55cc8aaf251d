//! The power of real machines through the real binary: switched by people, started by their policy, across restarts of
//! hostler.

use anyhow::{Context, Result};
use hostler_e2e::{dev::Dev, process};
use serde_json::{Value, json};

/// Asks for it, and waits until it has ended.
async fn done(dev: &mut Dev, path: &str, body: Value) -> Result<Value> {
    let (status, answer) = dev.post(&format!("/api/v1/vms/{path}"), body).await?;
    assert_eq!(status, 202, "{path}: {answer}");
    let task = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!(task["state"], "succeeded", "{path}: {task}");
    Ok(task["output"].clone())
}

async fn says(dev: &mut Dev, argv: &[&str]) -> Result<String> {
    let output = done(dev, "m/exec", json!({"argv": argv})).await?;
    Ok(output["stdout"].as_str().unwrap_or_default().to_owned())
}

async fn state(dev: &Dev) -> Result<Value> {
    Ok(dev.get("/api/v1/vms/m").await?.1["state"].clone())
}

#[tokio::test]
async fn a_machine_is_paused_resumed_stopped_started_and_restarted_across_restarts_of_hostler() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    dev.machine("m").await?;
    says(&mut dev, &["sh", "-c", "echo kept >/note; echo $$ >/tmp/mark"]).await?;

    done(&mut dev, "m/pause", json!({})).await?;
    let (status, refusal) = dev.post("/api/v1/vms/m/exec", json!({"argv": ["true"]})).await?;
    assert_eq!((status, &refusal["code"]), (409, &json!("VM_STATE_CONFLICT")));
    assert!(refusal["detail"].as_str().is_some_and(|detail| detail.contains("paused")), "{refusal}");
    dev.kill()?;
    dev.start().await?;
    assert_eq!(state(&dev).await?, "paused");
    done(&mut dev, "m/resume", json!({})).await?;
    assert!(!says(&mut dev, &["cat", "/tmp/mark"]).await?.is_empty(), "it went on where it was");

    let output = done(&mut dev, "m/stop", json!({})).await?;
    assert_eq!(output["how"], "graceful");
    assert!(dev.qemus().is_empty());
    dev.stop().await?;
    dev.start().await?;
    assert_eq!(state(&dev).await?, "stopped");
    assert_eq!(dev.get("/api/v1/quota").await?.1["book"]["used"]["vms"], 1, "it keeps its charge");
    let output = done(&mut dev, "m/start", json!({})).await?;
    assert_eq!(output["how"], "started");
    assert_eq!((says(&mut dev, &["cat", "/note"]).await?.as_str(), dev.qemus().len()), ("kept\n", 1));

    let before = dev.qemus();
    let output = done(&mut dev, "m/reboot", json!({})).await?;
    assert_eq!((&output["how"], dev.qemus()), (&json!("graceful"), before.clone()));
    assert_eq!(says(&mut dev, &["sh", "-c", "ls /tmp/mark 2>/dev/null; cat /note"]).await?, "kept\n");
    let output = done(&mut dev, "m/stop", json!({"timeout_seconds": 0})).await?;
    assert_eq!(output["how"], "hard");
    assert!(dev.qemus().is_empty());
    let (_, answer) = dev.call("DELETE", "/api/v1/vms/m", None).await?;
    dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!(std::fs::read_dir(dev.data().join("vms"))?.count(), 0);
    dev.assert_well().await
}

#[tokio::test]
async fn what_dev_stopped_on_its_way_out_comes_back_with_autostart_and_what_somebody_stopped_does_not() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    for (name, autostart) in [("m", true), ("other", false), ("stopped", true)] {
        let (_, answer) = dev.post("/api/v1/vms", json!({"name": name, "autostart": autostart})).await?;
        let made = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
        assert_eq!(made["state"], "succeeded", "{made}");
    }
    done(&mut dev, "stopped/stop", json!({})).await?;
    dev.stop().await?;
    assert!(dev.qemus().is_empty());
    dev.start().await?;
    runs_again(&mut dev, "m").await?;
    for name in ["other", "stopped"] {
        let (_, machine) = dev.get(&format!("/api/v1/vms/{name}")).await?;
        assert_eq!((&machine["state"], &machine["restart_at"]), (&json!("stopped"), &Value::Null), "{machine}");
    }
    // Now somebody stops it, and starts another. What is asked of a stopped one as its host goes down changes nothing.
    done(&mut dev, "m/stop", json!({})).await?;
    assert_eq!(done(&mut dev, "m/stop", json!({"host_goes_down": true})).await?["how"], "already");
    done(&mut dev, "stopped/start", json!({})).await?;
    dev.stop().await?;
    dev.start().await?;
    runs_again(&mut dev, "stopped").await?;
    let (_, machine) = dev.get("/api/v1/vms/m").await?;
    assert_eq!((&machine["state"], &machine["restart_at"]), (&json!("stopped"), &Value::Null), "{machine}");
    assert_eq!(dev.qemus().len(), 1);
    dev.assert_well().await
}

async fn runs_again(dev: &mut Dev, name: &str) -> Result<()> {
    dev.until("it runs again", async |dev| {
        let (_, machine) = dev.get(&format!("/api/v1/vms/{name}")).await?;
        Ok((machine["state"] == "running" && machine["ready"] == true).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_machine_with_a_policy_comes_back_when_its_qemu_is_killed_also_while_nobody_watched() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    let (_, answer) = dev.post("/api/v1/vms", json!({"name": "m", "restart": "on_failure", "autostart": true})).await?;
    let made = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!(made["state"], "succeeded", "{made}");
    let vm = answer["vm"]["id"].clone();
    let comes_back = async |dev: &mut Dev, before: Vec<i32>| {
        dev.until("it runs again", async |dev| {
            let (_, machine) = dev.get("/api/v1/vms/m").await?;
            let other = !dev.qemus().is_empty() && dev.qemus() != before;
            Ok((machine["state"] == "running" && machine["ready"] == true && other).then_some(()))
        })
        .await
    };
    let before = dev.qemus();
    before.iter().copied().for_each(process::kill);
    comes_back(&mut dev, before).await?;

    let before = dev.qemus();
    dev.kill()?;
    before.iter().copied().for_each(process::kill);
    dev.start().await?;
    comes_back(&mut dev, before).await?;

    // As after a restart of the host: the process is gone, and it was of another run.
    let before = dev.qemus();
    dev.kill()?;
    before.iter().copied().for_each(process::kill);
    let record = dev.data().join("vms").join(vm.as_str().context("id")?).join("process.json");
    let mut process: Value = serde_json::from_slice(&std::fs::read(&record)?)?;
    process["boot_id"] = json!("another run of this host");
    std::fs::write(&record, process.to_string())?;
    dev.start().await?;
    comes_back(&mut dev, before).await?;

    // What its guest does by itself is no failure, and a stop is a stop.
    let (_, answer) = dev.post("/api/v1/vms/m/exec", json!({"argv": ["poweroff", "-f"]})).await?;
    dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    dev.until("it has stopped", async |dev| Ok((state(dev).await? == "stopped").then_some(()))).await?;
    let machine = dev.get("/api/v1/vms/m").await?.1;
    assert_eq!((&machine["reason"], &machine["restart_at"]), (&json!("guest_shutdown"), &Value::Null), "{machine}");
    assert_eq!(done(&mut dev, "m/stop", json!({})).await?["how"], "already");
    assert_eq!(dev.get("/api/v1/vms/m").await?.1["reason"], Value::Null);
    assert!(dev.qemus().is_empty());
    dev.assert_well().await
}
