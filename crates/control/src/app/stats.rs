//! Statistics of tasks: of the caller's tenant, or of all for whoever answers for the platform.

use hostler_model::{caller::Access, kind::KindName, scope::Scope, stats::TaskStats};
use hostler_store::StatsFilter;

use super::{App, Result, caller::Call};

/// Whose tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The caller's tenant's.
    Own,
    /// Every tenant's, and what the system does by itself for them.
    All,
}

impl App {
    /// What waits, what is under way, and what happened lately; of one kind or one node where one is named.
    pub async fn task_stats(
        &self,
        call: &Call,
        whose: Whose,
        kind: Option<KindName>,
        node: Option<&str>,
    ) -> Result<TaskStats> {
        let tenant = match whose {
            Whose::Own => Some(call.tenant()?),
            Whose::All => {
                call.require(Access::Admin { scope: Scope::TaskRead })?;
                None
            }
        };
        let node = match node {
            Some(node) => Some(self.node(node).await?.id),
            None => None,
        };
        Ok(self.store.task_stats(StatsFilter { tenant, kind, node }).await?)
    }
}
