//! Tasks that end with their agent: dropping the agent drops every one of them at its next await, as a kill would.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Spawns tasks that do not outlive the agent. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Tether {
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Tether {
    /// Runs a task until it ends or the tether is cut.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            cut.run_until_cancelled_owned(task).await;
        });
    }

    /// Drops every task at its next await.
    pub fn cut(&self) {
        self.cut.cancel();
        self.tasks.close();
    }

    /// Goes on after a moment, but never once the tether is cut.
    pub async fn unless_cut(&self) {
        if self.cut.is_cancelled() {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
    }

    /// Waits until the tether was cut and every task is gone.
    pub async fn gone(&self) {
        self.tasks.wait().await;
    }
}
