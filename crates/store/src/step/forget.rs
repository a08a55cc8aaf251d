//! Forgetting: what ended longer ago than it is kept for goes, a bounded piece at a time.

use hostler_db::Result;
use hostler_model::Timestamp;
use uuid::Uuid;

use crate::{Forgotten, Old, history, work::Work};

/// How many rows one piece looks at: a few milliseconds for which nobody else writes.
const PIECE: usize = 250;

/// The piece of a walk that begins behind that row.
pub(crate) fn forget(work: &mut Work<'_>, old: Old, after: Option<Uuid>) -> Result<Forgotten> {
    let Some(kept) = work.context.timing.history else { return Ok(Forgotten::default()) };
    let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
    let before = Timestamp::from_micros(work.now.as_micros().saturating_sub(kept));
    let looked = history::look(work.tx, old, after.unwrap_or(Uuid::nil()), before, PIECE)?;
    let next = looked.last().filter(|_| looked.len() == PIECE).map(|(id, _)| *id);
    let over: Vec<Uuid> = looked.into_iter().filter(|(_, may_go)| *may_go).map(|(id, _)| id).collect();
    history::remove(work.tx, old, &over)?;
    Ok(Forgotten { removed: over.len(), next })
}
