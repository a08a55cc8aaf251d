//! What snapshots ask of QMP: a machine's memory saved to an open file and loaded from one, and layers of its disk.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Qmp, QmpError};

/// How long a command about disks may take: QEMU flushes them before it answers.
pub(super) const DISK: Duration = Duration::from_secs(60);

/// The name under which an open file is handed over.
const FILE: &str = "memory";

/// As fast as the disk is: bytes per second, far more than any has.
const UNBOUNDED: u64 = 1 << 50;

/// How far the saving or loading of a machine's memory is.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) struct Migration {
    /// `active`, `completed`, `failed` …; nothing where none was ever begun.
    #[serde(default)]
    pub(in super::super) status: String,
    /// How long the processors had stood still when it was over, in milliseconds.
    #[serde(default)]
    pub(in super::super) downtime: f64,
    /// Why it failed.
    #[serde(default)]
    pub(in super::super) error_desc: Option<String>,
}

/// The layer that QEMU writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct Top {
    pub(in super::super) node: String,
    pub(in super::super) file: PathBuf,
}

#[derive(Deserialize)]
struct Block {
    inserted: Option<Inserted>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Inserted {
    node_name: String,
    file: PathBuf,
}

pub(super) fn read<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, QmpError> {
    serde_json::from_value(answer).map_err(|error| QmpError::Malformed(error.to_string()))
}

impl Qmp {
    /// Begins to save the memory to this file. The machine goes on, until what it still changes is little enough.
    pub(in super::super) async fn save_memory(&self, file: OwnedFd) -> Result<(), QmpError> {
        self.ask("migrate-set-parameters", json!({"max-bandwidth": UNBOUNDED}), None, DISK).await?;
        self.ask("getfd", json!({"fdname": FILE}), Some(file), DISK).await?;
        self.ask("migrate", json!({"uri": format!("fd:{FILE}")}), None, DISK).await.map(drop)
    }

    /// Begins to load the memory from this file, in a QEMU that was started to do so.
    pub(in super::super) async fn load_memory(&self, file: OwnedFd) -> Result<(), QmpError> {
        self.ask("getfd", json!({"fdname": FILE}), Some(file), DISK).await?;
        self.ask("migrate-incoming", json!({"uri": format!("fd:{FILE}")}), None, DISK).await.map(drop)
    }

    /// How far saving or loading is.
    pub(in super::super) async fn migration(&self) -> Result<Migration, QmpError> {
        read(self.ask("query-migrate", Value::Null, None, DISK).await?)
    }

    /// Gives a saving up. The machine goes on.
    pub(in super::super) async fn stop_saving(&self) -> Result<(), QmpError> {
        self.ask("migrate_cancel", Value::Null, None, DISK).await.map(drop)
    }

    /// The layer of the machine's disk that is written now.
    pub(in super::super) async fn top(&self) -> Result<Top, QmpError> {
        let blocks: Vec<Block> = read(self.ask("query-block", Value::Null, None, DISK).await?)?;
        // Its first node is named on the command line, those above it here.
        let disk =
            blocks.into_iter().filter_map(|block| block.inserted).find(|block| block.node_name.starts_with("disk"));
        let disk = disk.ok_or_else(|| QmpError::Malformed("the machine has no disk".to_owned()))?;
        Ok(Top { node: disk.node_name, file: disk.file })
    }

    /// Puts an empty layer above the one that is written, and writes that from now on.
    pub(in super::super) async fn add_layer(&self, below: &Top, file: &Path) -> Result<(), QmpError> {
        let node = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let layer = json!({
            "driver": "qcow2", "node-name": node, "discard": "unmap", "backing": null,
            "file": {"driver": "file", "filename": file.to_string_lossy()},
        });
        self.ask("blockdev-add", layer, None, DISK).await?;
        let above = json!({"node": below.node, "overlay": node});
        if let Err(error) = self.ask("blockdev-snapshot", above, None, DISK).await {
            if let Err(left) = self.ask("blockdev-del", json!({"node-name": node}), None, DISK).await {
                tracing::warn!(error = %left, "QEMU keeps a layer open that it does not use");
            }
            return Err(error);
        }
        Ok(())
    }
}
