//! The tokens by which people and programs call. Only their hashes are kept.

use hostler_db::{Result, Row, Tx};
use hostler_model::{
    PrincipalId, TenantId, Timestamp, TokenId,
    caller::Caller,
    scope::Scopes,
    token::{Token, TokenFormat},
};
use serde_json::json;

use crate::NewApiToken;

/// How many tokens of one principal are good at once: more than anybody looks through.
pub(crate) const MOST: usize = 200;
/// How long a token is shown that is no longer good: somebody may ask what it was.
const SHOWN_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;

const INSERT: &str = "
INSERT INTO api_tokens (hash, id, principal, audience, tenant, role, scopes, label, format, created_at, created_by,
                        made_with, expires_at)
VALUES (?1->>'hash', ?1->>'id', ?1->>'principal', ?1->>'audience', ?1->>'tenant', ?1->>'role', ?1->>'scopes',
        ?1->>'label', ?1->>'format', CAST(?1->>'created_at' AS BIGINT), ?1->>'created_by', ?1->>'made_with',
        CAST(?1->>'expires_at' AS BIGINT))";

/// Writes a token down.
pub(crate) fn insert(tx: &Tx<'_>, token: &NewApiToken, now: Timestamp) -> Result<()> {
    let Caller { principal, audience, tenant, role, scopes, expires_at, .. } = &token.caller;
    let row = json!({
        "hash": token.token_hash, "id": token.id, "principal": principal, "audience": audience.as_str(), "tenant": tenant,
        "role": role.as_str(), "scopes": scopes.words(), "label": token.label, "format": token.format.as_str(),
        "created_at": now.as_micros(), "created_by": token.actor.principal, "made_with": token.made_with,
        "expires_at": expires_at.map(Timestamp::as_micros),
    });
    tx.put(INSERT, &row)
}

const CALLER: &str = "
SELECT id, principal, audience, tenant, role, scopes, expires_at, revoked_at
  FROM api_tokens
 WHERE hash = ?1->>'hash'";

/// Whom the token of this hash stands for, also one whose time is up; and since when it is revoked.
pub(crate) fn caller(tx: &Tx<'_>, hash: &str) -> Result<Option<(Caller, Option<Timestamp>)>> {
    tx.query_one(CALLER, &json!({"hash": hash}), |row| {
        let caller = Caller {
            token: Some(row.parse(0)?),
            principal: row.parse(1)?,
            audience: row.parse(2)?,
            tenant: row.parse_opt(3)?,
            role: row.parse(4)?,
            scopes: Scopes::of_words(row.get::<Option<String>>(5)?.as_deref()),
            expires_at: time(row, 6)?,
        };
        Ok((caller, time(row, 7)?))
    })
}

macro_rules! select {
    ($($rest:literal),*) => {
        concat!(
            "
SELECT t.id, t.label, t.principal, a.name, t.audience, t.tenant, t.role, t.scopes, t.format, t.created_at,
       t.created_by, t.made_with, t.expires_at, t.revoked_at
  FROM api_tokens t
  LEFT JOIN service_accounts a ON a.id = t.principal",
            $($rest),*
        )
    };
}

const ONE: &str = select!("\n WHERE t.id = ?1->>'id'");

/// A token.
pub(crate) fn one(tx: &Tx<'_>, id: TokenId) -> Result<Option<Token>> {
    tx.query_one(ONE, &json!({"id": id}), read)
}

/// Whose tokens.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum TokensOf {
    /// Everybody's.
    All,
    /// A tenant's: those of its own work.
    Tenant(TenantId),
    /// One principal's.
    Principal(PrincipalId),
}

const ALL: &str = select!(
    "
 WHERE t.id < COALESCE(?1->>'before', 'g')
 ORDER BY t.id DESC
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

const OF_TENANT: &str = select!(
    "
 WHERE t.tenant = ?1->>'tenant' AND t.audience = 'tenant' AND t.id < COALESCE(?1->>'before', 'g')
 ORDER BY t.id DESC
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

const OF_PRINCIPAL: &str = select!(
    "
 WHERE t.principal = ?1->>'principal' AND t.id < COALESCE(?1->>'before', 'g')
 ORDER BY t.id DESC
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

/// Tokens, newest first, also those that are no longer good.
pub(crate) fn list(tx: &Tx<'_>, of: TokensOf, before: Option<TokenId>, limit: usize) -> Result<Vec<Token>> {
    match of {
        TokensOf::All => tx.query(ALL, &json!({"before": before, "limit": limit}), read),
        TokensOf::Tenant(tenant) => {
            tx.query(OF_TENANT, &json!({"tenant": tenant, "before": before, "limit": limit}), read)
        }
        TokensOf::Principal(principal) => {
            tx.query(OF_PRINCIPAL, &json!({"principal": principal, "before": before, "limit": limit}), read)
        }
    }
}

const GOOD: &str = "
SELECT COUNT(*)
  FROM api_tokens
 WHERE principal = ?1->>'principal' AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > CAST(?1->>'now' AS BIGINT))";

/// How many of a principal's are good.
pub(crate) fn good(tx: &Tx<'_>, principal: PrincipalId, now: Timestamp) -> Result<usize> {
    let found: Option<i64> =
        tx.query_one(GOOD, &json!({"principal": principal, "now": now.as_micros()}), |row| row.get(0))?;
    Ok(found.and_then(|found| usize::try_from(found).ok()).unwrap_or(0))
}

const PRUNE: &str = "
DELETE FROM api_tokens
 WHERE principal = ?1->>'principal' AND COALESCE(revoked_at, expires_at) < CAST(?1->>'before' AS BIGINT)
   AND NOT EXISTS (SELECT 1 FROM api_tokens made WHERE made.made_with = api_tokens.id)";

/// Forgets those of a principal that have not been good for long. One that made others stays as long as they do: by it they
/// are found when it is revoked with all that it made.
pub(crate) fn prune(tx: &Tx<'_>, principal: PrincipalId, now: Timestamp) -> Result<()> {
    tx.put(PRUNE, &json!({"principal": principal, "before": now.as_micros() - SHOWN_MICROS}))
}

/// Which tokens are revoked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// One.
    One(TokenId),
    /// One, those that were made with it, and with those.
    WithMade(TokenId),
    /// All of a principal's.
    AllOf(PrincipalId),
}

const REVOKE: &str = "
WITH RECURSIVE meant (id) AS (
    SELECT id FROM api_tokens WHERE id = ?1->>'id' OR principal = ?1->>'principal'
     UNION
    SELECT t.id FROM api_tokens t JOIN meant ON t.made_with = meant.id WHERE ?1->>'with_made' IS NOT NULL
)
UPDATE api_tokens
   SET revoked_at = CAST(?1->>'now' AS BIGINT)
 WHERE id IN (SELECT id FROM meant) AND revoked_at IS NULL
RETURNING id";

/// Revokes tokens; the answer names those that were not revoked before.
pub(crate) fn revoke(tx: &Tx<'_>, which: Which, now: Timestamp) -> Result<Vec<TokenId>> {
    let (id, principal, with_made) = match which {
        Which::One(id) => (Some(id), None, None),
        Which::WithMade(id) => (Some(id), None, Some(id)),
        Which::AllOf(principal) => (None, Some(principal), None),
    };
    let meant = json!({"id": id, "principal": principal, "with_made": with_made, "now": now.as_micros()});
    tx.query(REVOKE, &meant, |row| row.parse(0))
}

fn time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    Ok(row.get::<Option<i64>>(column)?.map(Timestamp::from_micros))
}

fn read(row: &Row<'_>) -> Result<Token> {
    Ok(Token {
        id: row.parse(0)?,
        label: row.get(1)?,
        principal: row.parse(2)?,
        service_account: row.parse_opt(3)?,
        audience: row.parse(4)?,
        tenant: row.parse_opt(5)?,
        role: row.parse(6)?,
        scopes: Scopes::of_words(row.get::<Option<String>>(7)?.as_deref()),
        format: row.word::<TokenFormat>(8)?,
        created_at: Timestamp::from_micros(row.get(9)?),
        created_by: row.parse(10)?,
        made_with: row.parse_opt(11)?,
        expires_at: time(row, 12)?,
        revoked_at: time(row, 13)?,
    })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[INSERT, CALLER, ONE, ALL, OF_TENANT, OF_PRINCIPAL, GOOD, PRUNE];
