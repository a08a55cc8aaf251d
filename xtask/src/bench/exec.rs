//! A program in a guest through the API, beside the guest agent asked directly, in turn.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::{
    by_hand::{ByHand, Lines},
    server::Server,
    table::{Row, quantile},
};

/// So many times.
pub(crate) async fn measure(times: usize) -> Result<Vec<Row>> {
    let server = Server::start(&[], 1).await?;
    let mut connection = server.connect().await?;
    let vm = connection.machine("{}").await?;
    let hand = ByHand::start(128)?;
    let mut agent = hand.agent()?;
    let (mut ours, mut own) = (Vec::with_capacity(times), Vec::with_capacity(times));
    for number in 0..times + 3 {
        let begun = Instant::now();
        connection.done("POST", &format!("/api/v1/vms/{vm}/exec"), r#"{"argv":["/bin/true"]}"#).await?;
        let through = begun.elapsed();
        let direct = by_hand(&mut agent)?;
        if number >= 3 {
            ours.push(through.as_secs_f64() * 1000.0);
            own.push(direct.as_secs_f64() * 1000.0);
        }
    }
    let floor = quantile(&mut own, 0.5);
    Ok(vec![Row::at_most_above(
        "exec round trip, beside the guest agent's own, p50",
        quantile(&mut ours, 0.5),
        "ms",
        floor,
        10.0,
    )])
}

fn by_hand(agent: &mut Lines) -> Result<Duration> {
    let begun = Instant::now();
    let started = agent.call("guest-exec", json!({"path": "/bin/true", "capture-output": true}))?;
    while agent.call("guest-exec-status", json!({"pid": started["pid"]}))?["exited"] != true {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(begun.elapsed())
}
