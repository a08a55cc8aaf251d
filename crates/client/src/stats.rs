//! Statistics of tasks: `/api/v1/tasks/stats`.

use hostler_model::{kind::KindName, stats::TaskStats};

use crate::{Client, ClientError, call::Call};

/// Of which tasks. Everything left out does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatsQuery {
    /// Only of this kind.
    pub kind: Option<KindName>,
    /// Only on this node, by id or name.
    pub node: Option<String>,
    /// Of every tenant: for platform administrators.
    pub all_tenants: bool,
}

impl Client {
    /// What waits, what is under way, and what happened lately.
    pub async fn task_stats(&self, of: &StatsQuery) -> Result<TaskStats, ClientError> {
        let call = Call::get("/api/v1/tasks/stats")
            .query("kind", of.kind)
            .query("node", of.node.as_deref())
            .query("all_tenants", of.all_tenants.then_some(true));
        self.call(call).await
    }
}
