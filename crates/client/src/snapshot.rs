//! Snapshots: `/api/v1/snapshots`, and those of one machine.

use hostler_model::{
    Code,
    api::{NewRestore, NewSnapshot, Page, Submitted},
    snapshot::{Snapshot, SnapshotState},
};

use crate::{
    Client, ClientError, Paging, Submit,
    call::{Call, segment},
};

/// Which snapshots to list. Everything left out does not matter; without a state, those that are not deleted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotQuery {
    /// Only of this machine, by id or name.
    pub vm: Option<String>,
    /// Only in this state.
    pub state: Option<SnapshotState>,
}

impl SnapshotQuery {
    fn call(&self) -> Result<Call, ClientError> {
        let path = match &self.vm {
            Some(vm) => of_vm(vm, "snapshots")?,
            None => "/api/v1/snapshots".to_owned(),
        };
        Ok(Call::get(path).query("state", self.state))
    }
}

fn of_vm(vm: &str, rest: &str) -> Result<String, ClientError> {
    Ok(format!("/api/v1/vms/{}/{rest}", segment(vm, Code::VmNotFound)?))
}

fn path(snapshot: &str) -> Result<String, ClientError> {
    Ok(format!("/api/v1/snapshots/{}", segment(snapshot, Code::SnapshotNotFound)?))
}

impl Client {
    /// Takes a snapshot of a machine.
    pub async fn take_snapshot(&self, vm: &str, new: &NewSnapshot, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post(of_vm(vm, "snapshots")?).json(new)?, how).await
    }

    /// Puts a machine back to one of its snapshots.
    pub async fn restore_vm(&self, vm: &str, restore: &NewRestore, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post(of_vm(vm, "restore")?).json(restore)?, how).await
    }

    /// One snapshot, by id.
    pub async fn snapshot(&self, snapshot: &str) -> Result<Snapshot, ClientError> {
        self.call(Call::get(path(snapshot)?)).await
    }

    /// A page of snapshots, newest first.
    pub async fn snapshots_page(&self, which: &SnapshotQuery, paging: &Paging) -> Result<Page<Snapshot>, ClientError> {
        self.page(which.call()?, paging).await
    }

    /// The newest `most` snapshots, or all of them.
    pub async fn snapshots(&self, which: &SnapshotQuery, most: Option<usize>) -> Result<Vec<Snapshot>, ClientError> {
        self.every(which.call()?, most).await
    }

    /// Removes a snapshot.
    pub async fn delete_snapshot(&self, snapshot: &str, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::delete(path(snapshot)?), how).await
    }
}
