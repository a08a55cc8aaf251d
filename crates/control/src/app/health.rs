//! Whether the server can do its work, how much there is, and whether the books agree.

use hostler_model::{Code, Refusal, api::Diagnosis};

use super::{App, Result};
use crate::broker::doctor;

impl App {
    /// Refuses while the store cannot be asked or the server goes away.
    pub async fn ready(&self) -> Result<()> {
        if self.closing.is_cancelled() {
            return Err(Refusal::new(Code::Unavailable, "the server is going away; ask another, or again").into());
        }
        self.store.log_head().await?;
        Ok(())
    }

    /// Recomputes the books and the chain of the log and compares, also with what was signed, and looks at the broker, where
    /// there is one.
    pub async fn doctor(&self) -> Result<Diagnosis> {
        let mut diagnosis = self.store.doctor().await?;
        diagnosis.checks.push(self.check_signed().await?);
        if let Some(broker) = &self.broker {
            diagnosis.checks.extend(doctor::examine(broker, &self.store.nodes().await?).await);
        }
        Ok(diagnosis)
    }

    /// Everything that is measured, as Prometheus reads it.
    pub async fn measurements(&self) -> Result<String> {
        let gauges = self.store.gauges().await?;
        self.metrics.encode(&gauges)
    }
}
