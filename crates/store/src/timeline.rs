//! In which history of its server the store was last at work. Where that is another now, what was answered since may not be
//! in it: a standby that was promoted may not have received everything, and a recovery ends where it was told to. Nothing in
//! the database says which of them it was, so every change counts as a step into the past. A file has no such thing.

use hostler_db::{Result, Timeline, Tx};
use serde_json::json;

use crate::{step::restored, work::Work};

const RECORDED: &str = "SELECT system_id, number FROM timeline WHERE one = 1";

fn recorded(tx: &Tx<'_>) -> Result<Option<Timeline>> {
    tx.query_one(RECORDED, &(), |row| Ok(Timeline { system: row.get(0)?, number: row.get(1)? }))
}

const RECORD: &str = "
INSERT INTO timeline (one, system_id, number)
VALUES (1, ?1->>'system_id', CAST(?1->>'number' AS BIGINT))
    ON CONFLICT (one) DO UPDATE
   SET system_id = excluded.system_id, number = excluded.number";

/// The store is at work in this one.
pub(crate) fn record(tx: &Tx<'_>, timeline: &Timeline) -> Result<()> {
    tx.put(RECORD, &json!({"system_id": timeline.system, "number": timeline.number}))
}

/// Begins a new epoch where the store was last at work in another, and says which epoch. Of several servers the first does.
pub(crate) fn follow(work: &mut Work<'_>, now: &Timeline) -> Result<Option<u32>> {
    let before = recorded(work.tx)?;
    if before.as_ref() == Some(now) {
        return Ok(None);
    }
    record(work.tx, now)?;
    let Some(before) = before else { return Ok(None) };
    let epoch = restored::restored(work)?;
    tracing::error!(
        store.epoch = epoch,
        system = now.system,
        timeline = now.number,
        system_before = before.system,
        timeline_before = before.number,
        "the database was promoted, or put back in time: what it had not received is lost. A new epoch begins, as after \
         `hostler restore`: nodes get tasks once they have said what they have, and what had not ended is done again"
    );
    Ok(Some(epoch))
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[RECORDED, RECORD];
