//! Removing a snapshot, and listing those there are.
//!
//! ```text
//! whole ──leave──► leaving: it cannot be restored, its memory is gone ──its layer is nobody's, or shared, or flattened──► gone
//! ```
//!
//! It counts as there until nothing of it is left but what others answer for: what is charged for it stays charged until
//! then. Whatever instant an agent dies at, the same removal again goes on from what it finds.

use std::io;

use hostler_model::{SnapshotId, VmId};

use super::{
    Driver, blocking,
    error::{failed, storage},
    folder::Folder,
    machine::Live,
    qmp::{QmpError, Top},
    shelf::{self, Shelf},
    snapshot::{remove_above, sweep},
};
use crate::hypervisor::{DriverError, SnapshotRemoved};

impl Driver {
    pub(super) async fn remove_snapshot(&self, vm: VmId, id: SnapshotId) -> Result<SnapshotRemoved, DriverError> {
        let folder = self.folder(vm);
        let _turn = self.turns.wait(vm).await;
        let live = self.living(&folder).await?;
        let written = match live.as_deref() {
            Some(live) => Some(top(live).await?),
            None => None,
        };
        let removed = blocking(move || {
            let shelf = Shelf::new(&folder, id);
            let existed = match shelf.whole() {
                Ok(Some(_)) => shelf.leave()?,
                Ok(None) if shelf.leaving()?.is_some() => true,
                // Half of one; and what cannot be read is removed all the same.
                Ok(None) | Err(_) => shelf.remove()?,
            };
            fail::fail_point!("agent.snapshot.removed");
            if let Some(top) = &written {
                remove_above(&folder, &top.file)?;
            }
            sweep(&folder)?;
            let layer = shelf.leaving()?.map(|file| folder.layer(&file.layer));
            let layer_left = layer.map_or(Ok(false), |layer| layer.try_exists())?;
            if !layer_left {
                shelf.remove()?;
            }
            Ok(SnapshotRemoved { existed, layer_left })
        });
        removed.await.map_err(|error| storage(format!("snapshot {id} of machine {vm} cannot be removed"), &error))
    }

    pub(super) fn snapshots(&self) -> io::Result<Vec<SnapshotId>> {
        let mut all = Vec::new();
        for vm in Folder::list(&self.data)? {
            for (id, shelf) in Shelf::list(&self.folder(vm))? {
                if shelf.is_there()? {
                    all.push(id);
                }
            }
        }
        Ok(all)
    }
}

/// The layer that QEMU writes. Those that it stands on no more QEMU closes: a file that is removed while it is open gives
/// no room back.
pub(super) async fn top(live: &Live) -> Result<Top, DriverError> {
    let (id, qmp) = (live.folder.id(), live.qmp()?);
    let told = |error: QmpError| {
        failed(format!("which layers machine {id} writes and reads cannot be asked: {error}; ask again"))
    };
    // Whoever has the turn began none yet; and beside one that has concluded QEMU does not survive to be asked for its
    // layers.
    qmp.end_jobs().await.map_err(told)?;
    let top = qmp.top().await.map_err(told)?;
    let (folder, file) = (live.folder.clone(), top.file.clone());
    let chain = blocking(move || folder.chain(&file)).await;
    let chain = chain.map_err(|error| storage(format!("the layers of machine {id} cannot be looked at"), &error))?;
    for (node, layer) in qmp.layers().await.map_err(told)? {
        if layer.parent() == Some(live.folder.base()) && !chain.contains(&layer) {
            qmp.close(&node).await.map_err(told)?;
        }
    }
    Ok(top)
}

/// Forgets a snapshot whose layer is flattened, or shared by others that answer for it now: whether the layer is there,
/// and what the others have.
pub(super) fn forget(folder: &Folder, id: SnapshotId) -> io::Result<(bool, Vec<(SnapshotId, u64)>)> {
    let shelf = Shelf::new(folder, id);
    sweep(folder)?;
    let layer = shelf.leaving()?.map(|file| folder.layer(&file.layer));
    let kept = layer.map_or(Ok(false), |layer| layer.try_exists())?;
    let shares = shelf::shares(folder, id)?;
    shelf.remove()?;
    Ok((kept, shares))
}
