//! The log: events and audit entries, numbered in the order of commits without gaps, chained by one link per batch.

use std::time::Duration;

use hostler_db::{Document, Error, Result, Row, Texts, Tx};
use hostler_model::{
    TenantId, Timestamp,
    chain::{self, Hash, Hashes, HexHash, Joint, Stand},
    event::{Class, Entry, NewEntry},
};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::LogFilter;

/// The head of the log: the one row that every writing step advances last; and what else every step asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) seq: i64,
    pub(crate) hash: Hash,
    /// The store's epoch: the first part of every new fence.
    pub(crate) store_epoch: u32,
    /// Whether the tasks of any node travel by a broker.
    pub(crate) brokered: bool,
    /// Another one after each change of a node or a node's book; none before the first.
    pub(crate) fleet: Option<Uuid>,
}

/// What nearly every step asks for first.
pub(crate) const HEAD: &str = "
SELECT seq, hash, store_epoch, EXISTS (SELECT 1 FROM nodes WHERE transport <> 'poll'), fleet
  FROM log_head
 WHERE one = 1";

/// Says that [`head`] will be asked.
pub(crate) fn expect_head(tx: &Tx<'_>) -> Result<()> {
    tx.expect(HEAD, &())
}

/// The head as it is now.
pub(crate) fn head(tx: &Tx<'_>) -> Result<Head> {
    let read = |row: &Row<'_>| {
        let (seq, HexHash(hash), store_epoch) = (row.get(0)?, row.parse(1)?, row.get(2)?);
        Ok(Head { seq, hash, store_epoch, brokered: row.get(3)?, fleet: row.parse_opt(4)? })
    };
    tx.query_one(HEAD, &(), read)?.ok_or_else(|| Error::Aborted("the head of the log is missing".to_owned()))
}

const RAISE: &str = "
UPDATE log_head
   SET store_epoch = CASE WHEN store_epoch < CAST(?1->>'least' AS BIGINT) THEN CAST(?1->>'least' AS BIGINT)
                          ELSE store_epoch + 1 END
 WHERE one = 1";

/// Begins a new epoch, above all that there were: also those of a history that a restore forgot. So it counts the seconds
/// since 1970, which no restore takes back.
pub(crate) fn raise_epoch(tx: &Tx<'_>, now: Timestamp) -> Result<u32> {
    tx.put(RAISE, &json!({"least": now.as_micros() / 1_000_000}))?;
    Ok(head(tx)?.store_epoch)
}

const ADVANCE: &str = "
UPDATE log_head
   SET seq = CAST(?1->>'seq' AS BIGINT), hash = ?1->>'hash'
 WHERE one = 1";

const SET_FLEET: &str = "UPDATE log_head SET fleet = ?1->>'fleet' WHERE one = 1";

/// Nodes or their books are not as they were.
pub(crate) fn set_fleet(tx: &Tx<'_>, fleet: Uuid) -> Result<()> {
    tx.put(SET_FLEET, &json!({"fleet": fleet}))
}

const MARK: &str = "SELECT mark FROM log_head WHERE one = 1";

/// Whose certificates and signatures go with this database, once a server has said it.
pub(crate) fn mark(tx: &Tx<'_>) -> Result<Option<String>> {
    Ok(tx.query_one(MARK, &(), |row| row.get(0))?.flatten())
}

const SET_MARK: &str = "UPDATE log_head SET mark = ?1->>'mark' WHERE one = 1";

pub(crate) fn set_mark(tx: &Tx<'_>, mark: &str) -> Result<()> {
    tx.put(SET_MARK, &json!({"mark": mark}))
}

const INSERT: Texts = Texts {
    sqlite: "
INSERT INTO log (seq, at, class, tenant, kind, noun, subject, data)
VALUES (:seq, :at, :class, :tenant, :kind, :noun, :subject, :data)",
    postgres: "
INSERT INTO log (seq, at, class, tenant, kind, noun, subject, data)
SELECT *
  FROM rows(seq bigint, at bigint, class, tenant, kind, noun, subject, data)",
};

const LINK: &str = "
INSERT INTO links (last_seq, first_seq, hashes, hash)
VALUES (CAST(?1->>'seq' AS BIGINT), CAST(?1->>'first' AS BIGINT), ?1->>'hashes', ?1->>'hash')";

#[derive(Serialize)]
struct Written<'a> {
    seq: i64,
    at: i64,
    class: Class,
    tenant: Option<TenantId>,
    kind: &'a str,
    noun: &'a str,
    subject: Uuid,
    data: Document<&'a Value>,
}

/// Appends a batch: its entries, its link, the new head.
pub(crate) fn append(tx: &Tx<'_>, head: Head, now: Timestamp, entries: Vec<NewEntry>) -> Result<()> {
    let numbered = entries.into_iter().zip(head.seq + 1..).map(|(new, seq)| {
        let NewEntry { class, tenant, kind, noun, subject, data } = new;
        Entry { seq, at: now, class, tenant, kind, noun, subject, data }
    });
    let entries: Vec<Entry> = numbered.collect();
    let Some(last) = entries.last() else { return Ok(()) };
    let hashes = Hashes::of(&entries);
    let hash = HexHash(chain::link(&head.hash, &hashes.digest()));
    tx.put_each(&INSERT, &entries.iter().map(written).collect::<Vec<_>>())?;
    tx.put(LINK, &json!({"seq": last.seq, "first": head.seq + 1, "hashes": hashes, "hash": hash}))?;
    tx.put(ADVANCE, &json!({"seq": last.seq, "hash": hash}))?;
    Ok(())
}

fn written(entry: &Entry) -> Written<'_> {
    Written {
        seq: entry.seq,
        at: entry.at.as_micros(),
        class: entry.class,
        tenant: entry.tenant,
        kind: &entry.kind,
        noun: &entry.noun,
        subject: entry.subject,
        data: Document(&entry.data),
    }
}

const AFTER: &str = "
SELECT seq, at, class, tenant, kind, noun, subject, data
  FROM log
 WHERE seq > CAST(?1->>'after' AS BIGINT)
   AND (?1->>'class' IS NULL OR class IN (?1->>'class', 'act'))
 ORDER BY seq
 LIMIT CAST(?1->>'limit' AS BIGINT)";

const AFTER_OF_TENANT: &str = "
SELECT seq, at, class, tenant, kind, noun, subject, data
  FROM log
 WHERE seq > CAST(?1->>'after' AS BIGINT)
   AND tenant = ?1->>'tenant' AND tenant IS NOT NULL
   AND (?1->>'class' IS NULL OR class IN (?1->>'class', 'act'))
 ORDER BY seq
 LIMIT CAST(?1->>'limit' AS BIGINT)";

const AFTER_OF_SUBJECT: &str = "
SELECT seq, at, class, tenant, kind, noun, subject, data
  FROM log
 WHERE seq > CAST(?1->>'after' AS BIGINT)
   AND subject = ?1->>'subject'
   AND (?1->>'tenant' IS NULL OR tenant = ?1->>'tenant')
   AND (?1->>'class' IS NULL OR class IN (?1->>'class', 'act'))
 ORDER BY seq
 LIMIT CAST(?1->>'limit' AS BIGINT)";

/// Entries with a number above `after`, oldest first; where they are asked for by their class, as those see them whom it is
/// for.
pub(crate) fn after(tx: &Tx<'_>, filter: &LogFilter, after: i64, limit: usize) -> Result<Vec<Entry>> {
    let sql = match filter {
        LogFilter { subject: Some(_), .. } => AFTER_OF_SUBJECT,
        LogFilter { tenant: Some(_), .. } => AFTER_OF_TENANT,
        LogFilter { .. } => AFTER,
    };
    let wanted = json!({
        "after": after, "limit": limit, "tenant": filter.tenant, "class": filter.class, "subject": filter.subject,
    });
    tx.query(sql, &wanted, |row| {
        let entry = entry(row)?;
        Ok(match filter.class {
            Some(class) => entry.seen_as(class),
            None => entry,
        })
    })
}

/// Entries with a number above `after`, for whoever verifies them; none: what is there can be no entry.
pub(crate) fn numbered(tx: &Tx<'_>, after: i64, limit: usize) -> Result<Vec<(i64, Option<Entry>)>> {
    let wanted = json!({"after": after, "limit": limit, "class": None::<Class>});
    tx.query(AFTER, &wanted, |row| Ok((row.get(0)?, entry(row).ok())))
}

fn entry(row: &Row<'_>) -> Result<Entry> {
    Ok(Entry {
        seq: row.get(0)?,
        at: Timestamp::from_micros(row.get(1)?),
        class: row.word(2)?,
        tenant: row.parse_opt(3)?,
        kind: row.get(4)?,
        noun: row.get(5)?,
        subject: row.parse(6)?,
        data: row.json(7)?,
    })
}

const LINKS: &str = "
SELECT first_seq, last_seq, hashes, hash
  FROM links
 WHERE last_seq > CAST(?1->>'after' AS BIGINT)
 ORDER BY last_seq
 LIMIT CAST(?1->>'limit' AS BIGINT)";

/// Links that end above `after`, oldest first. Hashes that somebody made unreadable are none.
pub(crate) fn links(tx: &Tx<'_>, after: i64, limit: usize) -> Result<Vec<Joint>> {
    let read = |row: &Row<'_>| {
        let hashes = row.get::<String>(2)?.parse().unwrap_or_default();
        Ok(Joint { first: row.get(0)?, last: row.get(1)?, hashes, hash: row.parse(3)? })
    };
    tx.query(LINKS, &json!({"after": after, "limit": limit}), read)
}

const CHECKPOINT: &str = "SELECT seq, signed FROM checkpoints ORDER BY seq DESC LIMIT 1";

const CHECKPOINTS: &str = "
SELECT signed
  FROM checkpoints
 WHERE seq > CAST(?1->>'after' AS BIGINT) AND seq <= CAST(?1->>'up_to' AS BIGINT)
 ORDER BY seq";

// Only where that link is still there: a promotion may have lost it meanwhile.
const PUT_CHECKPOINT: &str = "
INSERT INTO checkpoints (seq, at, signed)
SELECT CAST(?1->>'seq' AS BIGINT), CAST(?1->>'at' AS BIGINT), ?1->>'signed'
  FROM links
 WHERE last_seq = CAST(?1->>'seq' AS BIGINT) AND hash = ?1->>'hash'
    ON CONFLICT (seq) DO NOTHING";

/// The entry at which the chain was last signed.
pub(crate) fn last_checkpoint(tx: &Tx<'_>) -> Result<Option<i64>> {
    tx.query_one(CHECKPOINT, &(), |row| row.get(0))
}

/// What was signed behind `after`, up to an entry.
pub(crate) fn checkpoints(tx: &Tx<'_>, after: i64, up_to: i64) -> Result<Vec<String>> {
    tx.query(CHECKPOINTS, &json!({"after": after, "up_to": up_to}), |row| row.get(0))
}

/// Keeps what was signed. `false`: nothing was written, because another server did it, or no link ends there with this hash.
pub(crate) fn put_checkpoint(tx: &Tx<'_>, stand: Stand, signed: &str, now: Timestamp) -> Result<bool> {
    let row = json!({"seq": stand.seq, "hash": stand.hash, "signed": signed, "at": now.as_micros()});
    Ok(tx.execute(PUT_CHECKPOINT, &row)? > 0)
}

/// Until when every checkpoint stays: somebody who kept an export finds those around it.
const THICK: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const THIN: &str = "
DELETE FROM checkpoints
 WHERE at < CAST(?1->>'before' AS BIGINT)
   AND seq NOT IN (SELECT MAX(seq)
                     FROM checkpoints
                    WHERE at < CAST(?1->>'before' AS BIGINT)
                    GROUP BY at / 86400000000)";

/// Of old checkpoints the last of each day stays: it vouches for all before it. Says how many went.
pub(crate) fn thin_checkpoints(tx: &Tx<'_>, now: Timestamp) -> Result<usize> {
    let kept = i64::try_from(THICK.as_micros()).unwrap_or(i64::MAX);
    tx.execute(THIN, &json!({"before": now.as_micros().saturating_sub(kept)}))
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[
    HEAD,
    AFTER,
    AFTER_OF_TENANT,
    AFTER_OF_SUBJECT,
    LINKS,
    RAISE,
    SET_FLEET,
    ADVANCE,
    MARK,
    SET_MARK,
    INSERT.sqlite,
    LINK,
    CHECKPOINTS,
    PUT_CHECKPOINT,
];

/// Those that are another text on a server.
#[cfg(test)]
pub(crate) const BOTH: &[&Texts] = &[&INSERT];

/// Lists, and the index that each is to walk.
#[cfg(test)]
pub(crate) const INDEXED: &[(&str, &str)] = &[
    (AFTER_OF_TENANT, "log_by_tenant (tenant=? AND seq>?)"),
    (AFTER_OF_SUBJECT, "log_by_subject (subject=? AND seq>?)"),
];
