//! Snapshots: found by id or by their name among their machine's, listed. Every change of one is a task (`submit.rs`).

use hostler_model::{
    Code, SnapshotId,
    kind::VmSnapshotParams,
    name::Name,
    snapshot::{Snapshot, SnapshotState, Use},
    task::Task,
    vm::Vm,
};
use hostler_store::{NewSnapshot, SnapshotFilter};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, Error, Result, caller::Call, not_found};

impl App {
    /// A snapshot that this caller may see, by id.
    pub async fn snapshot(&self, call: &Call, text: &str) -> Result<Snapshot> {
        if let Ok(id) = text.parse::<SnapshotId>()
            && let Some(snapshot) = self.store.snapshot(id).await?.filter(|one| call.may_see(one.tenant))
        {
            return Ok(snapshot);
        }
        Err(not_found(Code::SnapshotNotFound, "snapshot", text).into())
    }

    /// A snapshot of this machine that is not deleted, by id or name.
    async fn snapshot_in(&self, vm: &Vm, text: &str) -> Result<Snapshot> {
        // A name may look like an id, so an id that finds nothing is tried as a name.
        if let Ok(id) = text.parse::<SnapshotId>()
            && let Some(snapshot) = self.store.snapshot(id).await?
            && snapshot.vm == vm.id
            && snapshot.state != SnapshotState::Deleted
        {
            return Ok(snapshot);
        }
        if let Ok(name) = text.parse::<Name>()
            && let Some(snapshot) = self.store.snapshot_by_name(vm.id, name).await?
        {
            return Ok(snapshot);
        }
        Err(not_found(Code::SnapshotNotFound, "snapshot", text).with("vm", vm.id.to_string()).into())
    }

    /// The caller's snapshots, newest first.
    pub async fn snapshots(
        &self,
        call: &Call,
        filter: SnapshotFilter,
        before: Option<SnapshotId>,
        limit: usize,
    ) -> Result<Vec<Snapshot>> {
        let filter = SnapshotFilter { tenant: Some(call.tenant()?), ..filter };
        Ok(self.store.snapshots(filter, before, limit).await?)
    }

    /// The snapshot that a task makes, uses or removes, as it is now.
    pub async fn snapshot_of(&self, task: &Task) -> Result<Option<Snapshot>> {
        let named = hostler_model::snapshot::named_by(&task.params);
        match named.filter(|_| task.kind.spec().snapshot != Use::None) {
            Some(id) => Ok(self.store.snapshot(id).await?),
            None => Ok(None),
        }
    }

    /// Writes into the parameters which snapshot a task is about, by id; for one that is to be made, its id and name.
    pub(super) async fn name_snapshot(&self, usage: Use, vm: &Vm, params: &mut Value) -> Result<Option<NewSnapshot>> {
        match usage {
            Use::None => Ok(None),
            Use::Make => self.new_snapshot(params).map(Some),
            Use::Read | Use::Remove => {
                let text = params.get("snapshot").and_then(Value::as_str).unwrap_or_default();
                params["snapshot"] = json!(self.snapshot_in(vm, text).await?.id);
                Ok(None)
            }
        }
    }

    fn new_snapshot(&self, params: &mut Value) -> Result<NewSnapshot> {
        let Ok(filled) = VmSnapshotParams::deserialize(&*params) else {
            return Err(Error::Fault("filled parameters cannot be read"));
        };
        let id: SnapshotId = self.ids.next(self.clock.now());
        let name = match filled.name {
            Some(name) => name,
            None => format!("snapshot-{}", id.short()).parse()?,
        };
        (params["name"], params["snapshot"]) = (json!(name), json!(id));
        Ok(NewSnapshot { id, name, memory: filled.memory })
    }
}
