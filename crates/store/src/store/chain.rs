//! The log's chain, to be verified, and what was signed of it.

use hostler_model::chain::{HexHash, Line, Stand};

use super::Store;
use crate::{
    Result,
    chain::{self, Eyes},
    log,
};

impl Store {
    /// So many links of the chain behind an entry where one ends, to be verified by whoever has these eyes.
    pub async fn chain(&self, eyes: Eyes, after: i64, links: usize) -> Result<Vec<Line>> {
        self.read(move |tx| chain::lines(tx, eyes, after, links)).await
    }

    /// Where the chain stands, where it went on since it was last signed.
    pub async fn unsigned(&self) -> Result<Option<Stand>> {
        self.read(|tx| {
            let (head, signed) = (log::head(tx)?, log::last_checkpoint(tx)?.unwrap_or(0));
            Ok((head.seq > signed).then_some(Stand { seq: head.seq, hash: HexHash(head.hash) }))
        })
        .await
    }

    /// Keeps a signed checkpoint.
    pub async fn put_checkpoint(&self, seq: i64, signed: String) -> Result<()> {
        self.step("store.checkpoint", move |work| log::put_checkpoint(work.tx, seq, &signed)).await
    }
}
