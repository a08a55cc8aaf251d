//! The keys that sign tasks, with their private parts sealed; and the keys under which values are sealed, wrapped. What
//! seals and wraps is nowhere in the database.

use hostler_db::{Result, Row, Tx};
use hostler_model::{
    Timestamp,
    key::{KeyState, Kid, SigningKey},
};
use serde_json::{Value, json};

use crate::{NewSigningKey, Rewrapped, WrappedKey};

/// A key, with its private part where it may still sign.
#[derive(Clone, Debug)]
pub(crate) struct KeyRow {
    pub(crate) key: SigningKey,
    pub(crate) private: Option<String>,
}

const ALL: &str = "
SELECT kid, state, public, private, created_at, changed_at
  FROM signing_keys
 ORDER BY created_at, kid";

/// Every key there ever was, in the order in which they were made.
pub(crate) fn all(tx: &Tx<'_>) -> Result<Vec<KeyRow>> {
    tx.query(ALL, &(), |row: &Row<'_>| {
        let key = SigningKey {
            kid: Kid(row.get(0)?),
            state: row.word(1)?,
            public: row.get(2)?,
            created_at: Timestamp::from_micros(row.get(4)?),
            changed_at: Timestamp::from_micros(row.get(5)?),
        };
        Ok(KeyRow { key, private: row.get(3)? })
    })
}

const INSERT: &str = "
INSERT INTO signing_keys (kid, state, public, private, created_at, changed_at)
VALUES (?1->>'kid', ?1->>'state', ?1->>'public', ?1->>'private', CAST(?1->>'now' AS BIGINT),
        CAST(?1->>'now' AS BIGINT))";

/// Writes a new key down.
pub(crate) fn insert(tx: &Tx<'_>, new: &NewSigningKey, state: KeyState, now: Timestamp) -> Result<()> {
    let NewSigningKey { kid, public, private } = new;
    tx.put(INSERT, &json!({"kid": kid, "state": state, "public": public, "private": private, "now": now.as_micros()}))
}

// A key that is over has no private part any more.
const UPDATE: &str = "
UPDATE signing_keys
   SET state = ?1->>'state', changed_at = CAST(?1->>'now' AS BIGINT),
       private = CASE WHEN CAST(?1->>'over' AS BIGINT) = 1 THEN NULL ELSE private END
 WHERE kid = ?1->>'kid'";

/// Changes a key's state.
pub(crate) fn update(tx: &Tx<'_>, kid: &Kid, state: KeyState, now: Timestamp) -> Result<()> {
    let over = u8::from(!state.is_believed());
    tx.put(UPDATE, &json!({"kid": kid, "state": state, "over": over, "now": now.as_micros()}))
}

const DATA_KEY: &str = "SELECT wrapped FROM data_keys WHERE owner = ?1->>'owner'";

/// The key under which an owner's values are sealed.
pub(crate) fn data_key(tx: &Tx<'_>, owner: &str) -> Result<Option<String>> {
    tx.query_one(DATA_KEY, &json!({"owner": owner}), |row| row.get(0))
}

// Every row says the same.
const MASTER: &str = "SELECT master FROM data_keys ORDER BY owner LIMIT 1";

/// The name of what wraps the keys under which values are sealed; `None` while there are none.
pub(crate) fn master(tx: &Tx<'_>) -> Result<Option<String>> {
    tx.query_one(MASTER, &(), |row| row.get(0))
}

const PUT_DATA_KEY: &str = "
INSERT INTO data_keys (owner, master, wrapped, created_at)
VALUES (?1->>'owner', ?1->>'master', ?1->>'wrapped', CAST(?1->>'now' AS BIGINT))";

/// Writes an owner's key down where it has none; the one that it then has. `None`: nothing was written, because by now
/// another master key wraps than that of this one.
pub(crate) fn put_data_key(tx: &Tx<'_>, key: &WrappedKey, now: Timestamp) -> Result<Option<String>> {
    let WrappedKey { owner, master: under, wrapped } = key;
    if let Some(first) = data_key(tx, owner)? {
        return Ok(Some(first));
    }
    if master(tx)?.is_some_and(|wraps| wraps != *under) {
        return Ok(None);
    }
    let row: Value = json!({"owner": owner, "master": under, "wrapped": wrapped, "now": now.as_micros()});
    tx.put(PUT_DATA_KEY, &row)?;
    Ok(Some(wrapped.clone()))
}

const DATA_KEYS: &str = "SELECT owner, master, wrapped FROM data_keys ORDER BY owner";

/// Every wrapped key.
pub(crate) fn data_keys(tx: &Tx<'_>) -> Result<Vec<WrappedKey>> {
    tx.query(DATA_KEYS, &(), |row| Ok(WrappedKey { owner: row.get(0)?, master: row.get(1)?, wrapped: row.get(2)? }))
}

const REWRAP: &str = "
UPDATE data_keys
   SET master = ?1->>'master', wrapped = ?1->>'after'
 WHERE owner = ?1->>'owner'";

/// All keys, in the order in which they were read, are wrapped under another master key. `false`: these are not all that there
/// are by now, or not as they are, and nothing is written.
pub(crate) fn rewrap(tx: &Tx<'_>, keys: &[Rewrapped]) -> Result<bool> {
    let now = data_keys(tx)?;
    let is_same = |(key, anew): (&WrappedKey, &Rewrapped)| key.owner == anew.owner && key.wrapped == anew.before;
    if now.len() != keys.len() || !now.iter().zip(keys).all(is_same) {
        return Ok(false);
    }
    keys.iter().try_for_each(|key| tx.put(REWRAP, key))?;
    Ok(true)
}

const DROP_DATA_KEY: &str = "DELETE FROM data_keys WHERE owner = ?1->>'owner'";

/// An owner has nothing any more, and what was sealed for it opens never again.
pub(crate) fn drop_data_key(tx: &Tx<'_>, owner: &str) -> Result<()> {
    tx.put(DROP_DATA_KEY, &json!({"owner": owner}))
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[INSERT, UPDATE, DATA_KEY, PUT_DATA_KEY, REWRAP, DROP_DATA_KEY];
