//! Good days and bad days of `hostler dev` with real machines.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hostler_e2e::{dev::Dev, process};
use serde_json::{Value, json};

async fn exec(dev: &mut Dev, machine: &str, argv: &[&str]) -> Result<Value> {
    let (status, answer) = dev.post(&format!("/api/v1/vms/{machine}/exec"), json!({"argv": argv})).await?;
    assert_eq!(status, 202, "{answer}");
    dev.ended_task(answer["task"]["id"].as_str().context("id")?).await
}

#[tokio::test]
async fn a_machine_is_made_answers_and_is_gone() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    let machine = dev.machine("web").await?;
    assert_eq!((&machine["state"], &machine["ready"]), (&json!("running"), &json!(true)), "{machine}");

    let ran = exec(&mut dev, "web", &["uname", "-s"]).await?;
    assert_eq!(ran["output"]["stdout"], "Linux\n", "{ran}");
    let failed = exec(&mut dev, "web", &["sh", "-c", "echo oops >&2; exit 7"]).await?;
    assert_eq!((&failed["output"]["exit_code"], &failed["output"]["stderr"]), (&json!(7), &json!("oops\n")));
    let (_, answer) = dev.post("/api/v1/vms/web/exec", json!({"argv": ["cat"], "stdin": "through and back"})).await?;
    let cat = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!(cat["output"]["stdout"], "through and back");

    let (_, answer) = dev.call("DELETE", "/api/v1/vms/web", None).await?;
    let deleted = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!(deleted["state"], "succeeded", "{deleted}");
    assert_eq!(dev.get("/api/v1/vms/web").await?.0, 404);
    assert!(dev.qemus().is_empty());
    dev.assert_well().await
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_and_said_to_be() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    dev.machine("m").await?;
    let (_, answer) = dev.post("/api/v1/vms/m/exec", json!({"argv": ["sleep", "3141"], "timeout_seconds": 1})).await?;
    let task = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("DEADLINE_EXCEEDED")), "{task}");
    let left = exec(&mut dev, "m", &["sh", "-c", "ps | grep -c '[s]leep 3141'"]).await?;
    assert_eq!(left["output"]["stdout"], "0\n", "{left}");
    Ok(())
}

#[tokio::test]
async fn a_create_that_is_cancelled_leaves_nothing() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    let (_, answer) = dev.post("/api/v1/vms", json!({"name": "m"})).await?;
    let id = answer["task"]["id"].as_str().context("id")?.to_owned();
    dev.until("QEMU is there", async |dev| Ok((!dev.qemus().is_empty()).then_some(()))).await?;
    let (status, task) = dev.post(&format!("/api/v1/tasks/{id}/cancel"), json!({})).await?;
    assert!(status < 300 && task["state"] == "aborting", "{status} {task}");
    let begun = Instant::now();
    let task = dev.ended_task(&id).await?;
    assert_eq!(task["state"], "cancelled", "{task}");
    // The node hears of it at once, not with its next heartbeat in five seconds.
    assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    assert!(dev.qemus().is_empty());
    assert_eq!(std::fs::read_dir(dev.data().join("vms"))?.count(), 0);
    assert_eq!(dev.get("/api/v1/quota").await?.1["book"]["held"]["vms"], 0);
    dev.assert_well().await
}

#[tokio::test]
async fn a_machine_whose_qemu_is_killed_says_so_within_seconds() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    dev.machine("m").await?;
    let begun = Instant::now();
    dev.qemus().into_iter().for_each(process::kill);
    let machine = dev
        .until("the state says so", async |dev| {
            let (_, machine) = dev.get("/api/v1/vms/m").await?;
            Ok((machine["state"] == "error").then_some(machine))
        })
        .await?;
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    assert_eq!(machine["reason"], "crashed", "{machine}");
    assert_eq!(machine["last_state"], "running", "{machine}");
    let (status, refusal) = dev.post("/api/v1/vms/m/exec", json!({"argv": ["true"]})).await?;
    assert_eq!((status, &refusal["code"]), (409, &json!("VM_STATE_CONFLICT")), "{refusal}");
    let (_, answer) = dev.call("DELETE", "/api/v1/vms/m", None).await?;
    let deleted = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!(deleted["state"], "succeeded", "{deleted}");
    dev.assert_well().await
}

#[tokio::test]
async fn machines_outlive_hostler_and_are_taken_up_again() -> Result<()> {
    let mut dev = Dev::started(&["--keep"]).await?;
    dev.machine("m").await?;
    let before = dev.qemus();
    exec(&mut dev, "m", &["sh", "-c", "echo kept > /note"]).await?;
    let status = dev.stop().await?;
    assert!(status.success(), "{status}\n{}", dev.log());
    assert_eq!(dev.qemus(), before, "a shutdown leaves machines alone");
    dev.start().await?;
    assert_eq!(exec(&mut dev, "m", &["cat", "/note"]).await?["output"]["stdout"], "kept\n");
    dev.kill()?;
    assert_eq!(dev.qemus(), before, "so does a kill");
    dev.start().await?;
    assert_eq!(exec(&mut dev, "m", &["cat", "/note"]).await?["output"]["stdout"], "kept\n");
    Ok(())
}

#[tokio::test]
async fn told_to_end_it_stops_its_machines_and_keeps_their_disks() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    dev.machine("m").await?;
    exec(&mut dev, "m", &["sh", "-c", "echo kept > /note; sync"]).await?;
    let status = dev.stop().await?;
    assert!(status.success(), "{status}\n{}", dev.log());
    assert!(dev.qemus().is_empty(), "a machine still runs\n{}", dev.log());
    dev.start().await?;
    assert_eq!(dev.get("/api/v1/vms/m").await?.1["state"], "stopped");
    let (_, answer) = dev.post("/api/v1/vms/m/start", json!({})).await?;
    let started = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!(started["state"], "succeeded", "{started}");
    assert_eq!(exec(&mut dev, "m", &["cat", "/note"]).await?["output"]["stdout"], "kept\n");
    dev.assert_well().await
}

#[tokio::test]
async fn told_to_end_while_a_machine_is_made_it_leaves_none() -> Result<()> {
    let mut dev = Dev::new(&[])?;
    // Of another server: this one knows its own.
    dev.with_variable("HOSTLER_TOKEN", "hst_of_another_server");
    dev.start().await?;
    dev.machine("runs").await?;
    let (status, answer) = dev.post("/api/v1/vms", json!({"name": "made"})).await?;
    assert_eq!(status, 202, "{answer}");
    dev.until("its process is there", async |dev| Ok((dev.qemus().len() == 2).then_some(()))).await?;
    let status = dev.stop().await?;
    assert!(status.success(), "{status}\n{}", dev.log());
    assert!(dev.qemus().is_empty(), "a machine still runs\n{}", dev.log());
    dev.start().await?;
    assert_eq!(dev.get("/api/v1/vms/runs").await?.1["state"], "stopped");
    let (_, create) = dev.get(&format!("/api/v1/tasks/{}", answer["task"]["id"].as_str().context("id")?)).await?;
    let left = dev.get("/api/v1/vms/made").await?;
    // Where the guest answered first, it was made, and then stopped.
    match create["state"].as_str() {
        Some("cancelled") => assert_eq!(left.0, 404, "{left:?}"),
        _ => assert_eq!((&create["state"], &left.1["state"]), (&json!("succeeded"), &json!("stopped")), "{left:?}"),
    }
    dev.assert_well().await
}

#[tokio::test]
async fn told_to_end_while_its_queue_is_paused_it_names_what_it_leaves() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    for name in ["a", "b"] {
        dev.machine(name).await?;
    }
    let node = dev.get("/api/v1/nodes").await?.1["items"][0]["id"].as_str().context("a node")?.to_owned();
    let (status, answer) = dev.post(&format!("/api/v1/nodes/{node}/pause"), json!({})).await?;
    assert_eq!(status, 200, "{answer}");
    let status = dev.stop().await?;
    assert!(status.success(), "{status}\n{}", dev.log());
    for name in ["a", "b"] {
        assert!(dev.log().contains(&format!("{name} still runs: its node's queue is paused")), "{}", dev.log());
    }
    dev.start().await?;
    let (_, tasks) = dev.get("/api/v1/tasks?kind=vm.stop").await?;
    let states: Vec<_> = tasks["items"].as_array().context("items")?.iter().map(|task| &task["state"]).collect();
    assert_eq!(states, ["cancelled", "cancelled"], "no stop waits for another day");
    assert_eq!(dev.qemus().len(), 2);
    dev.assert_well().await
}

#[tokio::test]
async fn a_machine_that_died_while_nobody_watched_is_found_out() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    dev.machine("m").await?;
    dev.kill()?;
    dev.qemus().into_iter().for_each(process::kill);
    dev.start().await?;
    let machine = dev
        .until("the state says so", async |dev| {
            let (_, machine) = dev.get("/api/v1/vms/m").await?;
            Ok((machine["state"] == "error").then_some(machine))
        })
        .await?;
    assert_eq!(machine["reason"], "crashed", "{machine}");
    Ok(())
}

#[tokio::test]
async fn an_ephemeral_one_leaves_no_machine_and_no_file() -> Result<()> {
    let mut dev = Dev::started(&["--ephemeral"]).await?;
    dev.machine("m").await?;
    assert_eq!(dev.qemus().len(), 1);
    let status = dev.stop().await?;
    assert!(status.success(), "{status}\n{}", dev.log());
    assert!(dev.qemus().is_empty());
    assert!(!dev.data().exists(), "the data folder is still there");
    Ok(())
}

#[tokio::test]
async fn a_second_one_over_the_same_data_is_refused() -> Result<()> {
    let dev = Dev::started(&["--driver", "sim"]).await?;
    let second = std::process::Command::new(hostler_e2e::dev::binary()?)
        .args(["dev", "--driver", "sim", "--listen", "127.0.0.1:0", "--data"])
        .arg(dev.data())
        .output()?;
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use"), "{said}");
    dev.assert_well().await
}

/// A hostler whose data folder is a file system of its own of this size.
async fn on_a_small_disk(mib: u32) -> Result<Dev> {
    let mut dev = Dev::new(&[])?;
    dev.on_a_disk_of(mib)?;
    dev.start().await?;
    Ok(dev)
}

/// The server's copy of the image fits, the node's does not.
#[tokio::test]
async fn a_nodes_full_disk_fails_the_task_clearly_and_the_server_still_answers() -> Result<()> {
    // Large enough to be placed on, then nearly filled by somebody else.
    let mut dev = on_a_small_disk(1300).await?;
    let filler = std::fs::File::create(dev.inside(&dev.data().join("filler")))?;
    let free = rustix::fs::fstatvfs(&filler)?;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, free.f_bavail * free.f_frsize - (20 << 20))?;
    let (status, answer) = dev.post("/api/v1/vms", json!({"name": "m"})).await?;
    assert_eq!(status, 202, "{answer}");
    let task = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("NODE_STORAGE_FULL")), "{task}");
    let echo = json!({"kind": "echo", "params": {"message": "still here"}});
    let (status, answer) = dev.post("/api/v1/tasks", echo).await?;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?["state"], "succeeded");
    assert_eq!(dev.get("/api/v1/quota").await?.1["book"]["held"]["vms"], 0);
    dev.assert_well().await
}

/// The memory does not fit: the snapshot fails, nothing of it is left, and its machine never noticed.
#[tokio::test]
async fn a_nodes_full_disk_fails_a_snapshot_and_leaves_its_machine_running() -> Result<()> {
    let mut dev = on_a_small_disk(3400).await?;
    dev.machine("m").await?;
    let filler = std::fs::File::create(dev.inside(&dev.data().join("filler")))?;
    let free = rustix::fs::fstatvfs(&filler)?;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, free.f_bavail * free.f_frsize - (20 << 20))?;
    let left = rustix::fs::fstatvfs(&filler)?.f_bavail;
    let (status, answer) = dev.post("/api/v1/vms/m/snapshots", json!({"name": "s", "memory": true})).await?;
    assert_eq!(status, 202, "{answer}");
    let task = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("NODE_STORAGE_FULL")), "{task}");
    let (_, vm) = dev.get("/api/v1/vms/m").await?;
    assert_eq!((&vm["state"], &vm["ready"]), (&json!("running"), &json!(true)), "{vm}");
    assert!(dev.get("/api/v1/snapshots").await?.1["items"].as_array().context("a page")?.is_empty());
    // The database and the logs have grown by a few pages.
    assert!(rustix::fs::fstatvfs(&filler)?.f_bavail + 1024 > left, "bytes are left over");
    let (_, ran) = dev.post("/api/v1/vms/m/exec", json!({"argv": ["true"]})).await?;
    let ran = dev.ended_task(ran["task"]["id"].as_str().context("id")?).await?;
    assert_eq!(ran["output"]["exit_code"], 0, "{ran}");
    assert_eq!(dev.get("/api/v1/quota").await?.1["book"]["held"]["disk_gib"], 0);
    dev.assert_well().await
}

#[tokio::test]
async fn a_servers_full_disk_refuses_writes_answers_reads_and_heals() -> Result<()> {
    let mut dev = on_a_small_disk(120).await?;
    let filler = dev.inside(&dev.data().join("filler"));
    fill(&filler)?;
    let echo = json!({"kind": "echo", "params": {"message": "x".repeat(4000)}});
    // The log of the database has a little room of its own before it must grow.
    let refused = dev
        .until("a write is refused", async |dev| {
            let (status, answer) = dev.post("/api/v1/tasks", echo.clone()).await?;
            Ok((status != 202).then_some((status, answer)))
        })
        .await?;
    assert_eq!((refused.0, &refused.1["code"]), (507, &json!("STORAGE_FULL")), "{}", refused.1);
    assert_eq!(dev.get("/api/v1/tasks").await?.0, 200);
    assert_eq!(dev.get("/healthz").await?.0, 200);
    std::fs::remove_file(filler)?;
    let (status, answer) = dev.post("/api/v1/tasks", echo).await?;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?["state"], "succeeded");
    dev.assert_well().await
}

/// Writes until nothing more fits.
fn fill(path: &std::path::Path) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(())
}
