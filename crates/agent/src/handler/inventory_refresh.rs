//! `inventory.refresh`: looks at every machine on the host, and tells the server at once.

use std::collections::BTreeMap;

use hostler_model::{
    error::Code,
    kind::{InventoryRefresh, InventoryRefreshOutput},
};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for InventoryRefresh {
    async fn run(job: &Job<InventoryRefresh>) -> Result<InventoryRefreshOutput, Failure> {
        job.phase("look");
        let found = job.tools.vms.look_again().await;
        job.phase("tell");
        let answer = job.tools.beats.now().await.ok_or_else(|| Failure {
            code: Code::HandlerFailed,
            detail: "the agent is ending; ask again when it is back".to_owned(),
            retryable: true,
        })?;
        let inventory = job.tools.vms.inventory(&[]).await;
        let mut states: BTreeMap<String, usize> = BTreeMap::new();
        for seen in &inventory.vms {
            *states.entry(seen.state.to_string()).or_default() += 1;
        }
        let (full, machines) = (inventory.full, inventory.vms.len());
        Ok(InventoryRefreshOutput { full, machines, states, found, orphans: answer.orphans })
    }

    async fn undo(_: &Job<InventoryRefresh>, _: Begun) -> Undo<InventoryRefreshOutput> {
        Undo::Undone
    }
}
