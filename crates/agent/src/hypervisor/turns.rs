//! Turns: what is done to one machine is done one after another; different machines do not wait for each other.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use hostler_model::VmId;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// The turns of all machines.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<VmId, Arc<Turn<()>>>>);

impl Turns {
    /// Waits for this machine's turn, and holds it until what is returned is dropped.
    pub(super) async fn wait(&self, id: VmId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever holds or awaits a turn has a share of it; the others are forgotten.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(id).or_default())
        };
        turn.lock_owned().await
    }
}
