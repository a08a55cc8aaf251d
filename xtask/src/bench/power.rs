//! Pause and resume through the API, one after the other, each waited for.

use std::time::Instant;

use anyhow::Result;

use super::{
    server::Server,
    table::{Row, quantile},
};

/// So many times.
pub(crate) async fn measure(times: usize) -> Result<Vec<Row>> {
    let server = Server::start(&[], 1).await?;
    let mut connection = server.connect().await?;
    let vm = connection.machine("{}").await?;
    let mut sample = Vec::with_capacity(times);
    for number in 0..times + 5 {
        let begun = Instant::now();
        connection.done("POST", &format!("/api/v1/vms/{vm}/pause"), "{}").await?;
        connection.done("POST", &format!("/api/v1/vms/{vm}/resume"), "{}").await?;
        if number >= 5 {
            sample.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
    }
    Ok(vec![Row::at_most("pause + resume through the API, p50", quantile(&mut sample, 0.5), "ms", 20.0)])
}
