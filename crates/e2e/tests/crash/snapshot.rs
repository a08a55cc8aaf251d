//! `kill -9` at every dangerous point of a snapshot, a restore and a snapshot's deletion, then a restart: the snapshot is
//! whole, the machine runs, its file is as it must be, and no layer is left over.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use hostler_e2e::dev::Dev;
use serde_json::{Value, json};

use super::{Engine, Sqlite, crash_at, each, endings, machines, remove, started};

/// Of a snapshot with memory.
pub const MEMORY: &[&str] =
    &["agent.snapshot.begun", "agent.snapshot.memory", "agent.snapshot.layer", "agent.snapshot.taken"];
/// Of a snapshot of the disk alone.
pub const DISK: &[&str] = &["agent.snapshot.begun", "agent.snapshot.frozen", "agent.snapshot.layer"];
pub const RESTORE: &[&str] =
    &["agent.restore.stopped", "agent.restore.layer", "agent.restore.started", "agent.restore.running"];
pub const DELETE: &[&str] = &[
    "agent.snapshot.removed",
    "agent.flatten.begun",
    "agent.flatten.copied",
    "agent.flatten.pulled",
    "agent.flatten.flat",
    "agent.finish.before_commit",
];

/// What a shell in the guest says.
async fn shell(dev: &mut Dev, line: &str) -> Result<String> {
    let (_, ran) = dev.post("/api/v1/vms/m/exec", json!({"argv": ["sh", "-c", line]})).await?;
    let ran = dev.ended_task(ran["task"]["id"].as_str().context("id")?).await?;
    Ok(ran["output"]["stdout"].as_str().with_context(|| format!("{ran}"))?.trim().to_owned())
}

async fn done(dev: &mut Dev, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
    let (_, answer) = dev.call(method, path, body).await?;
    let task = dev.ended_task(answer["task"]["id"].as_str().with_context(|| format!("{answer}"))?).await?;
    assert_eq!(task["state"], "succeeded", "{path}: {task}");
    Ok(answer)
}

async fn snapshots(dev: &Dev) -> Result<Vec<Value>> {
    let (_, page) = dev.get("/api/v1/snapshots").await?;
    Ok(page["items"].as_array().context("a page")?.clone())
}

/// A machine with a file that says `one`.
async fn machine(engine: Engine) -> Result<Dev> {
    let mut dev = started(engine).await?;
    dev.machine("m").await?;
    shell(&mut dev, "echo one >/root/file; sync").await?;
    Ok(dev)
}

/// The same, with a snapshot named `s`, after which the file says `two`.
async fn with_snapshot(engine: Engine) -> Result<(Dev, String)> {
    let mut dev = machine(engine).await?;
    let body = json!({"name": "s", "memory": true});
    let taken = done(&mut dev, "POST", "/api/v1/vms/m/snapshots", Some(body)).await?;
    shell(&mut dev, "echo two >/root/file; sync").await?;
    Ok((dev, taken["snapshot"]["id"].as_str().context("id")?.to_owned()))
}

/// The layers and the snapshots that lie in the machine's folder.
fn on_disk(dev: &Dev) -> Result<(usize, usize)> {
    let mut found = (0, 0);
    let mut folders: Vec<PathBuf> = vec![dev.data()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(dev.inside(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            found.0 += usize::from(name.starts_with("disk") && folder.parent().is_some_and(|up| up.ends_with("vms")));
            found.1 += usize::from(folder.ends_with("snapshots"));
            if entry.file_type()?.is_dir() {
                folders.push(folder.join(name));
            }
        }
    }
    Ok(found)
}

async fn taking_survives(engine: Engine, point: &str, memory: bool) -> Result<()> {
    let mut dev = machine(engine).await?;
    let body = json!({"name": "s", "memory": memory});
    let task = crash_at(&mut dev, point, "POST", "/api/v1/vms/m/snapshots", Some(body)).await?;
    let task = task.context("it was written down")?;
    assert_eq!(task["state"], "succeeded", "{point}: {task}");
    assert_eq!(endings(&dev, &task)?, 1, "{point}");
    let all = snapshots(&dev).await?;
    assert_eq!((all.len(), &all[0]["state"]), (1, &json!("ready")), "{point}: {all:?}");
    assert_eq!(machines(&dev).await?[0]["state"], "running", "{point}");
    let (layers, kept) = on_disk(&dev)?;
    // One more where it was killed when its layer was there and nobody knew: it is below the machine's, and not lost.
    assert!(kept == 1 && (2..=3).contains(&layers), "{point}: {layers} layers, {kept} snapshots");
    assert_eq!(shell(&mut dev, "cat /root/file; echo two >/root/file; sync").await?, "one", "{point}");
    done(&mut dev, "POST", "/api/v1/vms/m/restore", Some(json!({"snapshot": "s"}))).await?;
    assert_eq!(shell(&mut dev, "cat /root/file").await?, "one", "{point}");
    assert_eq!(dev.qemus().len(), 1, "{point}");
    remove(&mut dev).await
}

async fn memory_survives(engine: Engine, point: &str) -> Result<()> {
    taking_survives(engine, point, true).await
}

async fn disk_survives(engine: Engine, point: &str) -> Result<()> {
    taking_survives(engine, point, false).await
}

async fn restore_survives(engine: Engine, point: &str) -> Result<()> {
    let (mut dev, _) = with_snapshot(engine).await?;
    let body = json!({"snapshot": "s"});
    let task = crash_at(&mut dev, point, "POST", "/api/v1/vms/m/restore", Some(body)).await?;
    let task = task.context("it was written down")?;
    assert_eq!(task["state"], "succeeded", "{point}: {task}");
    assert_eq!(endings(&dev, &task)?, 1, "{point}");
    assert_eq!(machines(&dev).await?[0]["state"], "running", "{point}");
    assert_eq!(shell(&mut dev, "cat /root/file").await?, "one", "{point}");
    assert_eq!((on_disk(&dev)?, dev.qemus().len()), ((2, 1), 1), "{point}: layers and snapshots, processes");
    remove(&mut dev).await
}

async fn deletion_survives(engine: Engine, point: &str) -> Result<()> {
    deleting_survives(engine, point, true).await
}

async fn deletion_of_a_stopped_machines_survives(engine: Engine, point: &str) -> Result<()> {
    deleting_survives(engine, point, false).await
}

async fn deleting_survives(engine: Engine, point: &str, running: bool) -> Result<()> {
    let (mut dev, id) = with_snapshot(engine).await?;
    if !running {
        done(&mut dev, "POST", "/api/v1/vms/m/stop", Some(json!({}))).await?;
    }
    let task = crash_at(&mut dev, point, "DELETE", &format!("/api/v1/snapshots/{id}"), None).await?;
    let task = task.context("it was written down")?;
    assert_eq!(task["state"], "succeeded", "{point}: {task}");
    assert!(snapshots(&dev).await?.is_empty(), "{point}");
    // The snapshot's layer is part of the one that the machine writes, and nobody's charge is left.
    assert_eq!(on_disk(&dev)?, (1, 0), "{point}: layers and snapshots");
    let (_, quota) = dev.get("/api/v1/quota").await?;
    assert_eq!(quota["book"]["used"]["disk_gib"], 1, "{point}");
    assert_eq!(dev.qemus().len(), usize::from(running), "{point}: one that worked on the disk is gone");
    if !running {
        done(&mut dev, "POST", "/api/v1/vms/m/start", Some(json!({}))).await?;
    }
    assert_eq!(shell(&mut dev, "cat /root/file").await?, "two", "{point}");
    remove(&mut dev).await
}

#[tokio::test]
async fn a_snapshot_with_memory_is_whole_whenever_the_process_is_killed() {
    each(Sqlite, MEMORY, 0, memory_survives).await;
    each(Sqlite, MEMORY, 1, memory_survives).await;
}

#[tokio::test]
async fn a_snapshot_of_the_disk_is_whole_whenever_the_process_is_killed() {
    each(Sqlite, DISK, 0, disk_survives).await;
    each(Sqlite, DISK, 1, disk_survives).await;
}

#[tokio::test]
async fn a_restore_ends_with_the_restored_machine_whenever_the_process_is_killed() {
    each(Sqlite, RESTORE, 0, restore_survives).await;
    each(Sqlite, RESTORE, 1, restore_survives).await;
}

#[tokio::test]
async fn a_deleted_snapshot_leaves_nothing_whenever_the_process_is_killed() {
    each(Sqlite, DELETE, 0, deletion_survives).await;
    each(Sqlite, DELETE, 1, deletion_survives).await;
}

#[tokio::test]
async fn a_deleted_snapshot_of_a_stopped_machine_leaves_nothing_whenever_the_process_is_killed() {
    each(Sqlite, DELETE, 0, deletion_of_a_stopped_machines_survives).await;
    each(Sqlite, DELETE, 1, deletion_of_a_stopped_machines_survives).await;
}
