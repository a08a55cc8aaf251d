//! Tokens by which nodes join, once. Only their hashes are kept.

use std::time::Duration;

use hostler_db::{Result, Tx};
use hostler_model::{
    NodeId, Timestamp,
    join_token::{KnownJoinToken, Spent},
    name::Name,
};
use serde_json::json;

use crate::{JoinNode, NewJoinToken};

const INSERT_JOIN: &str = "
INSERT INTO join_tokens (hash, id, node_name, approve, expires_at, created_by, created_at)
VALUES (?1->>'hash', ?1->>'id', ?1->>'node_name', CAST(?1->>'approve' AS BIGINT),
        CAST(?1->>'expires_at' AS BIGINT), ?1->>'created_by', CAST(?1->>'created_at' AS BIGINT))";

/// Writes a join token down; the answer is until when it is good.
pub(crate) fn insert_join(tx: &Tx<'_>, token: &NewJoinToken, now: Timestamp) -> Result<Timestamp> {
    let expires_at = now.plus(token.validity);
    let row = json!({
        "hash": token.token_hash, "id": token.id, "node_name": token.node_name, "approve": u8::from(token.approve),
        "expires_at": expires_at.as_micros(), "created_by": token.actor.principal, "created_at": now.as_micros(),
    });
    tx.put(INSERT_JOIN, &row)?;
    Ok(expires_at)
}

const JOIN: &str = "
SELECT id, node_name, approve, expires_at, used_at IS NOT NULL, used_key, used_by, enrolment
  FROM join_tokens
 WHERE hash = ?1->>'hash'";

/// The join token of this hash.
pub(crate) fn join(tx: &Tx<'_>, hash: &str) -> Result<Option<KnownJoinToken>> {
    tx.query_one(JOIN, &json!({"hash": hash}), |row| {
        let spent = match (row.get(5)?, row.parse_opt(6)?, row.parse_opt(7)?) {
            (Some(key), Some(node), Some(enrolment)) => Spent::Used { key, node, enrolment },
            _ => Spent::Void,
        };
        Ok(KnownJoinToken {
            id: row.parse(0)?,
            node: row.parse_opt(1)?,
            approve: row.get(2)?,
            expires_at: Timestamp::from_micros(row.get(3)?),
            spent: row.get::<bool>(4)?.then_some(spent),
        })
    })
}

const USE_JOIN: &str = "
UPDATE join_tokens
   SET used_at = CAST(?1->>'now' AS BIGINT), used_key = ?1->>'key', used_by = ?1->>'node', enrolment = ?1->>'enrolment'
 WHERE hash = ?1->>'hash'";

/// Spends a join token on this node.
pub(crate) fn use_join(tx: &Tx<'_>, join: &JoinNode, node: NodeId, now: Timestamp) -> Result<()> {
    let JoinNode { token_hash, key, enrolment, .. } = join;
    let used = json!({"hash": token_hash, "key": key, "node": node, "enrolment": enrolment, "now": now.as_micros()});
    tx.put(USE_JOIN, &used)
}

const USE_UP_JOINS: &str = "UPDATE join_tokens SET used_at = CAST(?1->>'now' AS BIGINT) WHERE used_at IS NULL";

/// No join token that was made is good any more: which of them were used since is not known.
pub(crate) fn use_up_joins(tx: &Tx<'_>, now: Timestamp) -> Result<()> {
    tx.put(USE_UP_JOINS, &json!({"now": now.as_micros()}))
}

const USE_UP_OF: &str = "
UPDATE join_tokens
   SET used_at = CAST(?1->>'now' AS BIGINT)
 WHERE node_name = ?1->>'name' AND used_at IS NULL";

/// No join token that names this node is good any more.
pub(crate) fn use_up_of(tx: &Tx<'_>, name: &Name, now: Timestamp) -> Result<()> {
    tx.put(USE_UP_OF, &json!({"name": name, "now": now.as_micros()}))
}

/// How long a join token is known after its time is over: whoever comes with it is told that it is over.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

const DROP: &str = "DELETE FROM join_tokens WHERE expires_at < CAST(?1->>'before' AS BIGINT)";

/// Drops join tokens that were over a day ago; says how many.
pub(crate) fn drop_old(tx: &Tx<'_>, now: Timestamp) -> Result<usize> {
    let kept = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
    tx.execute(DROP, &json!({"before": now.as_micros().saturating_sub(kept)}))
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[JOIN, INSERT_JOIN, USE_JOIN];
