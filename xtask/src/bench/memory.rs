//! What `hostler dev` takes while it has nothing to do, server and agent together.

use std::time::Duration;

use anyhow::Result;

use super::{server::Server, table::Row};

/// Ten seconds after its start, with the real driver.
pub(crate) async fn measure() -> Result<Vec<Row>> {
    let server = Server::start(&[], 1).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    Ok(vec![Row::at_most("hostler dev, idle, resident", server.resident_mib()?, "MiB", 40.0)])
}
