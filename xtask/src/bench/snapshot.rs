//! Snapshot and restore, memory and disk, of a machine with 256 MiB, beside QEMU's own migration to a file and back.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::{
    by_hand::ByHand,
    http::Connection,
    server::Server,
    table::{Row, quantile},
};

const MEMORY_MIB: u32 = 256;

/// So many times.
pub(crate) async fn measure(times: usize) -> Result<Vec<Row>> {
    let server = Server::start(&[], 1).await?;
    let mut connection = server.connect().await?;
    let vm = connection.machine(&json!({"memory_mib": MEMORY_MIB}).to_string()).await?;
    let mut hand = ByHand::start(MEMORY_MIB)?;
    drop(hand.agent()?);
    let (mut saves, mut loads, mut own_saves, mut own_loads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..=times {
        let (save, load) = through(&mut connection, &vm, number).await?;
        let (own_save, own_load) = by_hand(&mut hand)?;
        if number > 0 {
            saves.push(save);
            loads.push(load);
            own_saves.push(own_save);
            own_loads.push(own_load);
        }
    }
    let row = |name: &str, ours: &mut [f64], own: &mut [f64]| {
        Row::at_most_times(name, quantile(ours, 0.5), "ms", quantile(own, 0.5), 1.2)
    };
    Ok(vec![
        row("snapshot of 256 MiB, memory and disk, beside QEMU's own", &mut saves, &mut own_saves),
        row("restore of it, until its guest answers, beside QEMU's own", &mut loads, &mut own_loads),
    ])
}

/// Milliseconds for a snapshot and for its restore, each from the request to the answer.
async fn through(connection: &mut Connection, vm: &str, number: usize) -> Result<(f64, f64)> {
    let (snapshots, name) = (format!("/api/v1/vms/{vm}/snapshots"), format!("s{number}"));
    let begun = Instant::now();
    let made = connection.done("POST", &snapshots, &json!({"name": name, "memory": true}).to_string()).await?;
    let save = begun.elapsed();
    let begun = Instant::now();
    connection.done("POST", &format!("/api/v1/vms/{vm}/restore"), &json!({"snapshot": name}).to_string()).await?;
    let load = begun.elapsed();
    // A chain that grows would be measured too.
    let id = made["snapshot"]["id"].as_str().unwrap_or_default();
    connection.done("DELETE", &format!("/api/v1/snapshots/{id}"), "").await?;
    Ok((save.as_secs_f64() * 1000.0, load.as_secs_f64() * 1000.0))
}

fn by_hand(hand: &mut ByHand) -> Result<(f64, f64)> {
    let state = hand.path("state");
    let mut qmp = hand.qmp()?;
    let begun = Instant::now();
    qmp.call("stop", json!({}))?;
    qmp.call("migrate-set-parameters", json!({"max-bandwidth": 1_u64 << 40}))?;
    qmp.call("migrate", json!({"uri": format!("exec:cat > {}", state.display())}))?;
    qmp.until("query-migrate", |answer| answer["status"] == "completed")?;
    std::fs::File::open(&state)?.sync_all()?;
    let save = begun.elapsed();
    drop(qmp);
    let begun = Instant::now();
    hand.start_again_from(&state)?;
    let mut qmp = hand.qmp()?;
    qmp.until("query-status", |answer| answer["status"] != "inmigrate")?;
    qmp.call("cont", json!({}))?;
    // Ours has not ended before its guest has answered.
    drop(hand.agent()?);
    let load = begun.elapsed();
    Ok((save.as_secs_f64() * 1000.0, load.as_secs_f64() * 1000.0))
}
