//! `kill -9` of the process at every named point of create, exec and delete (and, in `snapshot`, of what snapshots
//! do), then a restart: the task ends exactly
//! once, one machine exists or none, no QEMU is left over, the books and the chain verify.
//!
//! A point that is never reached fails its test: the process must really die there.
#![cfg(feature = "crash-points")]

#[path = "crash/snapshot.rs"]
mod snapshot;

use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result, bail};
use hostler_e2e::{
    dev::Dev,
    store::Engine::{self, Postgres, Sqlite},
};
use serde_json::{Value, json};

/// Points that every task passes.
const EVERY_TASK: &[&str] = &[
    "store.submit.before_commit",
    "store.submit.after_commit",
    "store.lease.before_commit",
    "store.lease.after_commit",
    "agent.accept.before_commit",
    "agent.accept.after_commit",
    "agent.finish.before_commit",
    "agent.finish.after_commit",
    "agent.report.before",
    "store.settle.before_commit",
    "store.settle.after_commit",
    "agent.report.after",
];
/// Points of tasks that report progress.
const PROGRESS: &[&str] = &["store.start.before_commit", "store.start.after_commit"];
const CREATE: &[&str] = &["agent.qemu.before_start", "agent.qemu.after_start", "agent.qemu.after_record"];
/// An edit is written down in a step of its own.
const EDIT: &[&str] = &[
    "store.vm.before_commit",
    "store.vm.after_commit",
    "agent.accept.before_commit",
    "agent.accept.after_commit",
    "agent.qemu.edit.after_spec",
    "agent.qemu.edit.after_forwards",
    "agent.finish.before_commit",
    "agent.finish.after_commit",
    "store.settle.before_commit",
    "store.settle.after_commit",
];
const DELETE: &[&str] = &["agent.qemu.before_kill", "agent.qemu.after_kill"];

/// Kills at one point, restarts, and hands back the task as it ended, if the submission was ever answered or written.
async fn crash_at(dev: &mut Dev, point: &str, method: &str, path: &str, body: Option<Value>) -> Result<Option<Value>> {
    let before = tasks(dev).await?.len();
    dev.arm(point)?;
    let answer = dev.call(method, path, body).await;
    let status = dev.ended().await.with_context(|| format!("{point} was not reached"))?;
    if status.signal() != Some(9) {
        bail!("{point}: the process ended with {status}, not by its own kill\n{}", dev.log());
    }
    dev.start().await?;
    let after = tasks(dev).await?;
    match after.len() - before {
        0 if answer.is_err() => Ok(None),
        1 => Ok(Some(dev.ended_task(after[0]["id"].as_str().context("an id")?).await?)),
        n => bail!("{point}: {n} tasks came of one request (answered: {})", answer.is_ok()),
    }
}

async fn tasks(dev: &Dev) -> Result<Vec<Value>> {
    let (_, page) = dev.get("/api/v1/tasks?limit=100").await?;
    Ok(page["items"].as_array().context("a page")?.clone())
}

async fn machines(dev: &Dev) -> Result<Vec<Value>> {
    let (_, page) = dev.get("/api/v1/vms").await?;
    Ok(page["items"].as_array().context("a page")?.clone())
}

/// How often a task's end was written down.
fn endings(dev: &Dev, task: &Value) -> Result<usize> {
    dev.store().endings(task["id"].as_str().context("id")?)
}

/// One whose leases are short, so that what was lost with it is soon known to be.
async fn started(engine: Engine) -> Result<Dev> {
    let mut dev = Dev::over(engine, &["--lease-seconds", "3"])?;
    dev.start().await?;
    Ok(dev)
}

/// The process is killed when a machine is made, and once more when that one is deleted.
async fn life_survives(engine: Engine, create: &str, delete: Option<&str>) -> Result<()> {
    let mut dev = started(engine).await?;
    create_survives(&mut dev, create).await.with_context(|| format!("the create, at {create}"))?;
    if let Some(delete) = delete {
        if machines(&dev).await?.is_empty() {
            dev.machine("m").await?;
        }
        delete_survives(&mut dev, delete).await.with_context(|| format!("the delete, at {delete}"))?;
    }
    remove(&mut dev).await
}

async fn create_survives(dev: &mut Dev, point: &str) -> Result<()> {
    let task = crash_at(dev, point, "POST", "/api/v1/vms", Some(json!({"name": "m"}))).await?;
    let machines = machines(dev).await?;
    match &task {
        None => assert!(machines.is_empty(), "{point}: a machine without a task"),
        Some(task) => {
            assert_eq!(task["state"], "succeeded", "{point}: {task}");
            assert_eq!(endings(dev, task)?, 1, "{point}");
            assert_eq!(machines.len(), 1, "{point}");
            assert_eq!(machines[0]["state"], "running", "{point}: {}", machines[0]);
            let (_, ran) = dev.call("POST", "/api/v1/vms/m/exec", Some(json!({"argv": ["true"]}))).await?;
            let ran = dev.ended_task(ran["task"]["id"].as_str().context("id")?).await?;
            assert_eq!(ran["output"]["exit_code"], 0, "{point}: {ran}");
        }
    }
    assert_eq!(dev.qemus().len(), machines.len(), "{point}: QEMU processes");
    dev.assert_well().await
}

async fn exec_survives(dev: &mut Dev, point: &str) -> Result<()> {
    let body = json!({"argv": ["sh", "-c", format!("echo x >> /ran-{point}")]});
    let task = crash_at(dev, point, "POST", "/api/v1/vms/m/exec", Some(body)).await?;
    let count = format!("wc -l < /ran-{point} || echo 0");
    let (_, ran) = dev.post("/api/v1/vms/m/exec", json!({"argv": ["sh", "-c", count]})).await?;
    let ran = dev.ended_task(ran["task"]["id"].as_str().context("id")?).await?;
    let times: u32 = ran["output"]["stdout"].as_str().context("stdout")?.trim().parse()?;
    match &task {
        None => assert_eq!(times, 0, "{point}: it ran without a task"),
        Some(task) => {
            assert_eq!(endings(dev, task)?, 1, "{point}");
            // Never twice; and when it cannot be known, it is said so.
            assert!(times <= 1, "{point}: it ran {times} times");
            match task["state"].as_str() {
                Some("succeeded") => assert_eq!(times, 1, "{point}"),
                Some("failed") => assert_eq!(task["error"]["code"], "OUTCOME_UNKNOWN", "{point}: {task}"),
                _ => bail!("{point}: {task}"),
            }
        }
    }
    assert_eq!(dev.qemus().len(), 1, "{point}");
    dev.assert_well().await
}

async fn delete_survives(dev: &mut Dev, point: &str) -> Result<()> {
    let task = crash_at(dev, point, "DELETE", "/api/v1/vms/m", None).await?;
    match &task {
        None => assert_eq!(dev.qemus().len(), 1, "{point}"),
        Some(task) => {
            assert_eq!(task["state"], "succeeded", "{point}: {task}");
            assert_eq!(endings(dev, task)?, 1, "{point}");
            assert!(machines(dev).await?.is_empty(), "{point}");
            assert!(dev.qemus().is_empty(), "{point}");
        }
    }
    dev.assert_well().await
}

async fn edit_survives(engine: Engine, point: &str) -> Result<()> {
    let mut dev = started(engine).await?;
    dev.machine("m").await?;
    let body = json!({"vcpus": 2, "disk_gib": 2, "port_forwards": [{"guest_port": 80}]});
    let task = crash_at(&mut dev, point, "PATCH", "/api/v1/vms/m", Some(body)).await?;
    let (_, machine) = dev.get("/api/v1/vms/m").await?;
    let (_, size) = dev.post("/api/v1/vms/m/exec", json!({"argv": ["cat", "/sys/block/vda/size"]})).await?;
    let size = dev.ended_task(size["task"]["id"].as_str().context("id")?).await?;
    let sectors: u64 = size["output"]["stdout"].as_str().context("stdout")?.trim().parse()?;
    let gib = (sectors * 512) >> 30;
    match &task {
        None => {
            assert_eq!((&machine["generation"], &machine["spec"]["vcpus"], gib), (&json!(1), &json!(1), 1), "{point}");
        }
        Some(task) => {
            assert_eq!(task["state"], "succeeded", "{point}: {task}");
            assert_eq!(endings(&dev, task)?, 1, "{point}");
            assert_eq!((&machine["generation"], &machine["spec"]["vcpus"], gib), (&json!(2), &json!(2), 2), "{point}");
            assert_eq!(machine["observed_generation"], 1, "{point}: the processors wait for the next start");
            let port = machine["spec"]["port_forwards"][0]["host_port"].as_u64().context("a port")?;
            std::net::TcpStream::connect(("127.0.0.1", u16::try_from(port)?))
                .with_context(|| format!("{point}: {port}"))?;
            let (_, quota) = dev.get("/api/v1/quota").await?;
            assert_eq!(
                (&quota["book"]["used"]["vcpus"], &quota["book"]["used"]["disk_gib"]),
                (&json!(2), &json!(2)),
                "{point}"
            );
        }
    }
    assert_eq!(dev.qemus().len(), 1, "{point}");
    dev.assert_well().await?;
    remove(&mut dev).await
}

/// Deletes what is there: then nothing may be left, on the books or on the host.
async fn remove(dev: &mut Dev) -> Result<()> {
    for machine in machines(dev).await? {
        let (_, answer) =
            dev.call("DELETE", &format!("/api/v1/vms/{}", machine["id"].as_str().context("id")?), None).await?;
        let task = dev.ended_task(answer["task"]["id"].as_str().context("id")?).await?;
        assert_eq!(task["state"], "succeeded", "{task}");
    }
    assert!(dev.qemus().is_empty());
    let (_, quota) = dev.get("/api/v1/quota").await?;
    for side in ["held", "used"] {
        for amount in quota["book"][side].as_object().context("a book")?.values() {
            assert_eq!(amount, 0, "{quota}");
        }
    }
    dev.assert_well().await
}

/// Those of a list at which this engine is killed. What the agent does between its journal and its machines is the same
/// whatever the store is kept in.
fn points(engine: Engine, all: impl IntoIterator<Item = &'static &'static str>) -> Vec<&'static str> {
    let of_this = |point: &&str| engine == Sqlite || point.starts_with("store.") || point.starts_with("agent.report.");
    all.into_iter().copied().filter(of_this).collect()
}

/// At each point of one half of a list, in a hostler of its own.
async fn each(
    engine: Engine,
    all: impl IntoIterator<Item = &'static &'static str>,
    half: usize,
    survives: impl AsyncFn(Engine, &str) -> Result<()>,
) {
    for point in points(engine, all).into_iter().skip(half).step_by(2) {
        survives(engine, point).await.unwrap_or_else(|error| panic!("{point} over {engine:?}: {error:?}"));
    }
}

async fn each_life(engine: Engine, half: usize) {
    let creates = points(engine, EVERY_TASK.iter().chain(PROGRESS).chain(CREATE));
    let deletes = points(engine, EVERY_TASK.iter().chain(DELETE));
    assert!(deletes.len() <= creates.len(), "each needs a machine");
    for (number, create) in creates.into_iter().enumerate().skip(half).step_by(2) {
        let life = life_survives(engine, create, deletes.get(number).copied());
        life.await.unwrap_or_else(|error| panic!("over {engine:?}: {error:?}"));
    }
}

async fn each_edit(engine: Engine, half: usize) {
    each(engine, EDIT, half, edit_survives).await;
}

/// All in one machine, which lives through all of it.
async fn each_exec(engine: Engine, half: usize) {
    let all = async || {
        let mut dev = started(engine).await?;
        dev.machine("m").await?;
        for point in points(engine, EVERY_TASK).into_iter().skip(half).step_by(2) {
            exec_survives(&mut dev, point).await.with_context(|| point)?;
        }
        remove(&mut dev).await
    };
    all().await.unwrap_or_else(|error: anyhow::Error| panic!("over {engine:?}: {error:?}"));
}

/// One test for each half of a list and each engine: two at a time is what a small machine can boot.
macro_rules! halves {
    ($($name:ident: $each:path;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn at_every_even_point() {
                $each(Sqlite, 0).await;
            }

            #[tokio::test]
            async fn at_every_odd_point() {
                $each(Sqlite, 1).await;
            }

            #[tokio::test]
            async fn at_every_even_point_over_postgresql() {
                $each(Postgres, 0).await;
            }

            #[tokio::test]
            async fn at_every_odd_point_over_postgresql() {
                $each(Postgres, 1).await;
            }
        }
    )*};
}

halves! {
    create_and_delete_end_exactly_once_whenever_the_process_is_killed: each_life;
    exec_ends_exactly_once_whenever_the_process_is_killed: each_exec;
    edit_ends_exactly_once_whenever_the_process_is_killed: each_edit;
}
