//! The log's chain, to be verified, and what was signed of it.

use hostler_model::chain::{Line, Stand};

use super::Store;
use crate::{
    Result,
    chain::{self, Eyes, Piece},
    log,
};

impl Store {
    /// So many links of the chain behind an entry where one ends, to be verified by whoever has these eyes.
    pub async fn chain(&self, eyes: Eyes, after: i64, links: usize) -> Result<Vec<Line>> {
        self.read(move |tx| chain::lines(tx, eyes, after, links)).await
    }

    /// So many links behind an entry where one ends, without their entries.
    pub async fn chain_piece(&self, after: i64, links: usize) -> Result<Piece> {
        self.read(move |tx| chain::piece(tx, after, links)).await
    }

    /// The entry at which the chain was last signed; 0 where it was not yet.
    pub async fn signed_up_to(&self) -> Result<i64> {
        self.read(|tx| Ok(log::last_checkpoint(tx)?.unwrap_or(0))).await
    }

    /// Keeps a signed checkpoint. `false`: another server did, or the chain does not stand there any more.
    pub async fn put_checkpoint(&self, stand: Stand, signed: String) -> Result<bool> {
        self.step("store.checkpoint", move |work| log::put_checkpoint(work.tx, stand, &signed, work.now)).await
    }

    /// Of checkpoints that are older than a month the last of each day stays; says how many went.
    pub async fn thin_checkpoints(&self) -> Result<usize> {
        self.step("store.checkpoint", |work| log::thin_checkpoints(work.tx, work.now)).await
    }
}
