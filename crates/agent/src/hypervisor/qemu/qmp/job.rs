//! QMP's commands for work on a disk that takes long: a job is begun, watched, and only brought to its end when told to.
//!
//! ```text
//! begun ──running──► pending (all is copied, the file says what it said) ──finalize──► concluded ──dismiss──► gone
//!            └──────────┴──cancel, an error────────────────────────────────────────────────┘
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Qmp, QmpError, state::DISK, state::read};

/// One of QEMU's jobs.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) struct Job {
    pub(in super::super) id: String,
    /// `running`, `pending`, `concluded` …
    pub(in super::super) status: String,
    #[serde(default)]
    current_progress: u64,
    #[serde(default)]
    total_progress: u64,
    /// Why it failed.
    pub(in super::super) error: Option<String>,
}

impl Job {
    /// How much is done.
    pub(in super::super) fn percent(&self) -> u8 {
        match self.total_progress {
            0 => 0,
            total => u8::try_from(self.current_progress.saturating_mul(100) / total).unwrap_or(100).min(100),
        }
    }
}

/// A file that QEMU has open as part of a disk.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Node {
    node_name: String,
    drv: String,
    file: PathBuf,
}

impl Qmp {
    /// The name by which QEMU knows this layer; `None` where it does not have it open.
    pub(in super::super) async fn node(&self, layer: &Path) -> Result<Option<String>, QmpError> {
        Ok(self.layers().await?.into_iter().find(|(_, file)| file == layer).map(|(node, _)| node))
    }

    /// Every layer that QEMU has open: the name by which it knows it, and its file.
    pub(in super::super) async fn layers(&self) -> Result<Vec<(String, PathBuf)>, QmpError> {
        let nodes = self.ask("query-named-block-nodes", json!({"flat": true}), None, DISK).await?;
        let nodes: Vec<Node> = read(nodes)?;
        let layers = nodes.into_iter().filter(|node| node.drv == "qcow2");
        Ok(layers.map(|node| (node.node_name, node.file)).collect())
    }

    /// Closes a layer on which nothing stands any more. QEMU keeps open what it was told to open, until it is told to
    /// close it; what it opened by itself it closes by itself, and refuses, as it does for one that is in use.
    pub(in super::super) async fn close(&self, node: &str) -> Result<(), QmpError> {
        match self.ask("blockdev-del", json!({"node-name": node}), None, DISK).await {
            Ok(_) => Ok(()),
            Err(QmpError::Refused { description, .. }) => {
                tracing::debug!(node, description, "QEMU does not close a layer");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to copy into `upper` what it lacks of `lower`, the layer below it, at this many bytes a second.
    pub(in super::super) async fn pull(&self, job: &str, upper: &str, lower: &str, speed: u64) -> Result<(), QmpError> {
        let what = json!({"job-id": job, "device": upper, "bottom": lower, "speed": speed,
            "auto-finalize": false, "auto-dismiss": false});
        self.ask("block-stream", what, None, DISK).await.map(drop)
    }

    /// The jobs there are.
    pub(in super::super) async fn jobs(&self) -> Result<Vec<Job>, QmpError> {
        read(self.ask("query-jobs", Value::Null, None, DISK).await?)
    }

    /// Writes out all that QEMU keeps of a layer: what its file does not say then was not written. That the host could
    /// not write it QEMU does not say here ([`super::super::witness`]).
    pub(in super::super) async fn flush(&self, node: &str) -> Result<(), QmpError> {
        let said = self.say(&format!("qemu-io {node} flush"), DISK).await?;
        match said.trim() {
            "" => Ok(()),
            error => Err(QmpError::Refused { command: "qemu-io flush", description: error.to_owned() }),
        }
    }

    /// Brings a pending job to its end.
    pub(in super::super) async fn finalize(&self, job: &str) -> Result<(), QmpError> {
        self.ask("job-finalize", json!({"id": job}), None, DISK).await.map(drop)
    }

    /// Ends every job, whoever began it, and returns when none is left. The disk stays as it is. One that waits for a disk
    /// that does not answer is left after a while: the machine's turn is not held for it.
    pub(in super::super) async fn end_jobs(&self) -> Result<(), QmpError> {
        timeout(DISK, self.no_jobs()).await.unwrap_or(Err(QmpError::Silent(DISK)))
    }

    async fn no_jobs(&self) -> Result<(), QmpError> {
        loop {
            let news = self.job_news();
            let jobs = self.jobs().await?;
            if jobs.is_empty() {
                return Ok(());
            }
            let mut dismissed = false;
            for job in jobs {
                let command = if job.status == "concluded" { "job-dismiss" } else { "job-cancel" };
                // One that is on its way to its end takes no command: it is looked at again.
                dismissed |=
                    self.ask(command, json!({"id": job.id}), None, DISK).await.is_ok() && command == "job-dismiss";
            }
            if !dismissed {
                self.job_news_after(news).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_as_qemu_tells_of_it() {
        let said = r#"{"current-progress": 524288, "status": "running", "total-progress": 1048576, "type": "stream", "id": "flatten"}"#;
        let job: Job = serde_json::from_str(said).unwrap();
        assert_eq!((job.percent(), job.status.as_str(), &job.error), (50, "running", &None));
    }
}
