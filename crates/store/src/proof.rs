//! What proves results: signatures, kept with the tasks that they ended, and the certificates by which they are verified, kept
//! once for each.

use std::time::Duration;

use hostler_db::{Result, Tx};
use hostler_model::{
    Fence, TaskId, Timestamp,
    proof::{TaskProof, said},
    task::End,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::NodeCertificate;

/// What is kept with a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeptProof {
    /// Of which attempt.
    pub(crate) fence: Fence,
    /// The signature.
    pub(crate) signed: String,
    /// By which certificate.
    pub(crate) certificate: String,
    /// How it ended, where the task's own output does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<End>,
}

const OF_TASK: &str = "
SELECT proof, output
  FROM tasks
 WHERE id = ?1->>'task' AND proof IS NOT NULL";

const CERTIFICATE: &str = "
SELECT certificate
  FROM node_certificates
 WHERE thumbprint = ?1->>'thumbprint'";

/// What proves the end of a task's last attempt that was reported. `None`: nothing does.
pub(crate) fn of_task(tx: &Tx<'_>, task: TaskId) -> Result<Option<TaskProof>> {
    let kept = tx.query_one(OF_TASK, &json!({"task": task}), |row| {
        Ok((row.json::<KeptProof>(0)?, row.json_opt::<Value>(1)?.unwrap_or_default()))
    })?;
    let Some((KeptProof { fence, signed, certificate, end }, output)) = kept else { return Ok(None) };
    let certificate = tx.query_one(CERTIFICATE, &json!({"thumbprint": certificate}), |row| row.get::<String>(0))?;
    let said = said(task, fence, &end.unwrap_or(End::Succeeded { output }));
    Ok(certificate.map(|certificate_pem| TaskProof { said, signed, certificate_pem }))
}

const KEEP: &str = "
INSERT INTO node_certificates (thumbprint, certificate, ends_at)
VALUES (?1->>'thumbprint', ?1->>'certificate', CAST(?1->>'ends_at' AS BIGINT))
    ON CONFLICT (thumbprint) DO NOTHING";
const FORGET: &str = "DELETE FROM node_certificates WHERE ends_at < CAST(?1->>'before' AS BIGINT)";

/// How long after its end a certificate is kept beyond what is kept of tasks: for those that wait to be decided about.
const BEYOND: Duration = Duration::from_secs(60 * 24 * 60 * 60);

/// Keeps a certificate, and lets those go of which no result is kept any more; `history`: how long those are.
pub(crate) fn keep(
    tx: &Tx<'_>,
    certificate: &NodeCertificate,
    now: Timestamp,
    history: Option<Duration>,
) -> Result<()> {
    let NodeCertificate { thumbprint, pem, ends_at } = certificate;
    tx.put(KEEP, &json!({"thumbprint": thumbprint, "certificate": pem, "ends_at": ends_at.as_micros()}))?;
    let Some(history) = history else { return Ok(()) };
    let kept = i64::try_from((history + BEYOND).as_micros()).unwrap_or(i64::MAX);
    tx.put(FORGET, &json!({"before": now.as_micros().saturating_sub(kept)}))
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[OF_TASK, CERTIFICATE, KEEP, FORGET];
