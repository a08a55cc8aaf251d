//! `hostler dev` with real machines that are edited, renamed, protected and given a time to live.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hostler_e2e::dev::Dev;
use serde_json::{Value, json};

async fn exec(dev: &mut Dev, machine: &str, argv: &[&str]) -> Result<String> {
    let (status, answer) = dev.post(&format!("/api/v1/vms/{machine}/exec"), json!({"argv": argv})).await?;
    assert_eq!(status, 202, "{answer}");
    let task = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    Ok(task["output"]["stdout"].as_str().with_context(|| task.to_string())?.trim().to_owned())
}

/// The task that an answer names, once it has succeeded.
async fn succeeded(dev: &mut Dev, (status, answer): (u16, Value)) -> Result<Value> {
    assert_eq!(status, 202, "{answer}");
    let task = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!(task["state"], "succeeded", "{task}");
    Ok(task)
}

async fn patch(dev: &Dev, machine: &str, body: Value) -> Result<(u16, Value)> {
    dev.call("PATCH", &format!("/api/v1/vms/{machine}"), Some(body)).await
}

fn fetch(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    said.contains("the guest").then_some(said)
}

#[tokio::test]
async fn a_machine_is_edited_and_its_guest_sees_it() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    let made = dev.post("/api/v1/vms", json!({"name": "web", "port_forwards": [{"guest_port": 80}]})).await?;
    succeeded(&mut dev, made).await?;
    let (_, web) = dev.get("/api/v1/vms/web").await?;
    assert_eq!((&web["generation"], &web["observed_generation"]), (&json!(1), &json!(1)), "{web}");
    let port: u16 = web["spec"]["port_forwards"][0]["host_port"].as_u64().context("a port")?.try_into()?;
    let (memory, disk) =
        (web["spec"]["memory_mib"].as_i64().context("MiB")?, web["spec"]["disk_gib"].as_i64().context("GiB")?);
    exec(
        &mut dev,
        "web",
        &["sh", "-c", "mkdir -p /tmp/w && echo the guest >/tmp/w/index.html && httpd -p 80 -h /tmp/w"],
    )
    .await?;
    dev.until("the guest answers on the forwarded port", async |_| {
        Ok(tokio::task::spawn_blocking(move || fetch(port)).await?)
    })
    .await?;

    // Disk and labels now, processors and memory from the next start on; charged at once.
    let body = json!({"vcpus": 2, "memory_mib": memory + 64, "disk_gib": disk + 1, "labels": {"tier": "web"}});
    let answer = patch(&dev, "web", body).await?;
    assert_eq!(answer.1["vm"]["spec"]["labels"]["tier"], "web");
    let task = succeeded(&mut dev, answer).await?;
    let output = &task["output"];
    assert_eq!((&output["disk_gib"], &output["vcpus"]), (&json!("live"), &json!("next_start")), "{output}");
    let sectors: i64 = exec(&mut dev, "web", &["cat", "/sys/block/vda/size"]).await?.parse()?;
    assert_eq!((sectors * 512) >> 30, disk + 1);
    let (_, pending) = dev.get("/api/v1/vms/web").await?;
    assert_eq!((&pending["generation"], &pending["observed_generation"]), (&json!(2), &json!(1)), "{pending}");
    assert_eq!(dev.get("/api/v1/quota").await?.1["book"]["used"]["vcpus"], 2);
    let (status, refused) = patch(&dev, "web", json!({"disk_gib": disk})).await?;
    assert_eq!((status, &refused["code"]), (409, &json!("DISK_SHRINK")), "{refused}");

    // Another name, and the next start.
    let renamed = dev.post("/api/v1/vms/web/rename", json!({"name": "shop"})).await?;
    assert_eq!(succeeded(&mut dev, renamed).await?["output"]["told"], true);
    for verb in ["stop", "start"] {
        let asked = dev.post(&format!("/api/v1/vms/shop/{verb}"), json!({})).await?;
        succeeded(&mut dev, asked).await?;
    }
    let (_, shop) = dev.get("/api/v1/vms/shop").await?;
    assert_eq!(shop["generation"], shop["observed_generation"], "{shop}");
    assert_eq!(exec(&mut dev, "shop", &["nproc"]).await?, "2");
    let total: i64 = exec(&mut dev, "shop", &["awk", "/MemTotal/{print $2}", "/proc/meminfo"]).await?.parse()?;
    assert!(total / 1024 > memory, "{total} KiB");
    assert_eq!(exec(&mut dev, "shop", &["hostname"]).await?, "shop");

    // What is there is told when somebody asks.
    let (_, nodes) = dev.get("/api/v1/nodes").await?;
    let node = nodes["items"][0]["name"].as_str().context("a node")?.to_owned();
    let look = dev.post(&format!("/api/v1/nodes/{node}/refresh"), json!({})).await?;
    let found = succeeded(&mut dev, look).await?;
    assert_eq!(
        (&found["output"]["states"], &found["output"]["orphans"]),
        (&json!({"running": 1}), &json!([])),
        "{found}"
    );

    // Protected, it stays; its time over, it goes by itself.
    patch(&dev, "shop", json!({"protected": true, "ttl_seconds": 1})).await?;
    let (status, refused) = dev.call("DELETE", "/api/v1/vms/shop", None).await?;
    assert_eq!((status, &refused["code"]), (409, &json!("VM_PROTECTED")), "{refused}");
    let over = Instant::now() + Duration::from_secs(4);
    dev.until("its time is over, and the loop has seen that", async |dev| {
        assert_eq!(dev.get("/api/v1/vms/shop").await?.0, 200, "it is protected");
        Ok((Instant::now() > over).then_some(()))
    })
    .await?;
    patch(&dev, "shop", json!({"protected": false})).await?;
    dev.until("its time is over", async |dev| Ok((dev.get("/api/v1/vms/shop").await?.0 == 404).then_some(()))).await?;
    dev.until("its process is gone", async |dev| Ok(dev.qemus().is_empty().then_some(()))).await?;
    dev.assert_well().await
}
