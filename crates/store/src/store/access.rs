//! The store's face for who was let in, and what those who are known were refused: entries of the audit, and nothing else.

use serde_json::json;

use super::Store;
use crate::{Denied, Login, Result};

impl Store {
    /// What known callers were refused is in the audit.
    pub async fn denied(&self, denied: Vec<Denied>) -> Result<()> {
        self.step("store.denied", move |work| {
            denied.iter().for_each(|denied| work.deny(denied));
            Ok(())
        })
        .await
    }

    /// That somebody was sent by an identity provider is in the audit.
    pub async fn logged_in(&self, logins: Vec<Login>) -> Result<()> {
        self.step("store.login", move |work| {
            for Login { actor, tenant, issuer, subject, until } in &logins {
                let data = json!({"issuer": issuer, "subject": subject, "until": until});
                work.audit(actor, *tenant, "principal", "login", actor.principal.0, data);
            }
            Ok(())
        })
        .await
    }
}
