//! Idempotency keys: the first answer under a key, kept for 24 h and until its task or import ends.

use std::time::Duration;

use hostler_db::{Document, Result, Tx};
use hostler_model::{
    Code, PrincipalId, Refusal, TenantId, Timestamp, event::Actor, import::Import, reservation::Reservation,
    snapshot::Snapshot, task::Task, tenant::Tenant, vm::Vm,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use uuid::Uuid;

use crate::{Idempotency, Submission};

/// How long a key is kept at least: what the API promises.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a key is unique by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(crate) struct Key {
    pub(crate) tenant: TenantId,
    pub(crate) principal: PrincipalId,
    pub(crate) route: String,
    pub(crate) key: String,
}

impl Key {
    /// The key of a submission that sent one and is not a dry run.
    pub(crate) fn of(item: &Submission) -> Option<Key> {
        let sent = item.idempotency.as_ref().filter(|_| !item.dry_run)?;
        Some(Key::new(item.tenant, &item.actor, sent))
    }

    /// The key that a caller sent.
    pub(crate) fn new(tenant: TenantId, actor: &Actor, sent: &Idempotency) -> Key {
        // No caller's key has a line feed.
        let key = sent.part.map_or_else(|| sent.key.clone(), |part| format!("{}\n{part}", sent.key));
        Key { tenant, principal: actor.principal, route: sent.route.clone(), key }
    }

    /// What stands for the whole batch that a submission is part of: under another body the key is used up for all.
    pub(crate) fn of_batch(item: &Submission) -> Option<Key> {
        let sent = item.idempotency.as_ref().filter(|sent| sent.part.is_some())?;
        Key::of(item).map(|key| Key { key: sent.key.clone(), ..key })
    }
}

/// What an answer is about. Its key is kept until that ends.
pub(crate) trait Begun: Clone + Serialize + DeserializeOwned {
    /// What it is called.
    const NOUN: &'static str;
    /// Its id; `None` where it was done with the answer.
    fn id(&self) -> Option<Uuid>;
}

impl Begun for Stored {
    const NOUN: &'static str = "task";

    fn id(&self) -> Option<Uuid> {
        self.task.as_ref().map(|task| task.id.0)
    }
}

impl Begun for Tenant {
    const NOUN: &'static str = "tenant";

    fn id(&self) -> Option<Uuid> {
        Some(self.id.0)
    }
}

impl Begun for Reservation {
    const NOUN: &'static str = "reservation";

    fn id(&self) -> Option<Uuid> {
        Some(self.id.0)
    }
}

impl Begun for Import {
    const NOUN: &'static str = "import";

    fn id(&self) -> Option<Uuid> {
        Some(self.id.0)
    }
}

/// The first answer under a key.
#[derive(Clone, Debug)]
pub(crate) struct FirstAnswer<A = Stored> {
    pub(crate) key: Key,
    pub(crate) body: String,
    pub(crate) answer: A,
}

impl<A: Begun> FirstAnswer<A> {
    /// The answer once more.
    ///
    /// # Errors
    /// When it is another body's.
    pub(crate) fn again(&self, sent: &Idempotency) -> std::result::Result<A, Refusal> {
        if sent.body == self.body { Ok(self.answer.clone()) } else { Err(used_up(&self.answer)) }
    }
}

/// That a key was used with another body, and for what if that has an id.
pub(crate) fn used_up<A: Begun>(answer: &A) -> Refusal {
    let detail = "this Idempotency-Key was used with another body; send the same body, or another key";
    let refusal = Refusal::new(Code::IdempotencyMismatch, detail);
    match answer.id() {
        Some(id) => refusal.with(A::NOUN, id.to_string()),
        None => refusal,
    }
}

/// An answer as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// `None`: it was done with the answer.
    pub(crate) task: Option<Task>,
    pub(crate) vm: Option<Vm>,
    pub(crate) snapshot: Option<Snapshot>,
}

const BY_KEYS: &str = "
SELECT i.tenant, i.principal, i.route, i.key, i.body, i.answer
  FROM jsonb_each(?1) wanted
  JOIN idempotency i ON i.tenant = wanted.value->>'tenant' AND i.principal = wanted.value->>'principal'
   AND i.route = wanted.value->>'route' AND i.key = wanted.value->>'key'";

/// The first answer under a key.
pub(crate) fn by_key<A: Begun>(tx: &Tx<'_>, key: &Key) -> Result<Option<FirstAnswer<A>>> {
    Ok(by_keys(tx, std::slice::from_ref(key))?.pop())
}

/// The first answers under these keys. A route has answers of one kind only.
pub(crate) fn by_keys<A: Begun>(tx: &Tx<'_>, keys: &[Key]) -> Result<Vec<FirstAnswer<A>>> {
    tx.query(BY_KEYS, &keys, |row| {
        let key = Key { tenant: row.parse(0)?, principal: row.parse(1)?, route: row.get(2)?, key: row.get(3)? };
        Ok(FirstAnswer { key, body: row.get(4)?, answer: row.json(5)? })
    })
}

const INSERT: &str = "
INSERT INTO idempotency (tenant, principal, route, key, body, work, answer, created_at)
SELECT value->>'tenant', value->>'principal', value->>'route', value->>'key', value->>'body', value->>'work',
       value->>'answer', CAST(value->>'created_at' AS BIGINT)
  FROM jsonb_each(?1)
 WHERE true";

#[derive(Serialize)]
struct Written<'a, A> {
    #[serde(flatten)]
    key: &'a Key,
    body: &'a str,
    work: Option<Uuid>,
    answer: Document<&'a A>,
    created_at: i64,
}

/// Writes first answers.
pub(crate) fn insert<A: Begun>(tx: &Tx<'_>, answers: &[FirstAnswer<A>], now: Timestamp) -> Result<()> {
    let batch: Vec<Written<'_, A>> = answers
        .iter()
        .map(|FirstAnswer { key, body, answer }| Written {
            key,
            body,
            work: answer.id(),
            answer: Document(answer),
            created_at: now.as_micros(),
        })
        .collect();
    if !batch.is_empty() {
        tx.put(INSERT, &batch)?;
    }
    Ok(())
}

const DROP: &str = "
DELETE FROM idempotency
 WHERE (tenant, principal, route, key) IN (
       SELECT i.tenant, i.principal, i.route, i.key
         FROM idempotency i
         LEFT JOIN tasks t ON t.id = i.work
         LEFT JOIN imports m ON m.id = i.work AND m.state = 'running'
        WHERE i.created_at <= CAST(?1->>'before' AS BIGINT)
          AND (t.id IS NULL OR t.state IN ('succeeded', 'failed', 'cancelled')) AND m.id IS NULL
        ORDER BY i.created_at
        LIMIT CAST(?1->>'limit' AS BIGINT))";

/// Drops keys that are old enough and whose task or import ended; says how many.
pub(crate) fn drop_old(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<usize> {
    let kept = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
    tx.execute(DROP, &json!({"before": now.as_micros().saturating_sub(kept), "limit": limit}))
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[BY_KEYS, DROP, INSERT];
