//! Starting a machine again, from what its folder says.
//!
//! ```text
//! process ──ended──► noted (`ended`) ──start──► the note goes ──setsid qemu──► process
//! ```
//!
//! Whatever instant an agent dies at: a note without a process is how it ended; neither is an end that nobody saw, and
//! then the pidfile tells: QEMU removes it when it ends in order, and one that is killed or breaks leaves it behind. The
//! disk is never touched here.

use std::{fs, io, sync::Arc};

use hostler_model::VmId;

use super::{
    Driver, blocking, command,
    disk::unusable_image,
    error::{refused, storage},
    folder::Folder,
    machine::{Live, SIGNALLED},
};
use crate::{
    host::{boot_id, file::tail},
    hypervisor::{DriverError, Exit, MachinePlan, Phases},
};

/// How a machine ended of which no process lives, where anything is known of it.
pub(super) fn how_it_ended(folder: &Folder) -> io::Result<Option<Exit>> {
    if let Some(exit) = folder.ended()? {
        return Ok(Some(exit));
    }
    let Some(recorded) = folder.process()? else { return Ok(None) };
    if recorded.boot_id != boot_id()? {
        return Ok(Some(Exit::HostWentDown));
    }
    // Of one that was half removed, no file says anything.
    if folder.pidfile().try_exists()? || !folder.base().try_exists()? {
        return Ok(None);
    }
    // QEMU names the signal on stderr before it obeys it (`qemu_kill_report`); a guest that turns itself off it does not
    // mention.
    let signalled =
        tail(&folder.log(), LAST_LINES, LOG_BYTES).iter().any(|line| line.contains("terminating on signal"));
    Ok(Some(if signalled { Exit::Crashed(SIGNALLED.to_owned()) } else { Exit::GuestShutdown }))
}

/// Of QEMU's log: where its last words are.
const LAST_LINES: usize = 5;
const LOG_BYTES: u64 = 4096;

impl Driver {
    /// What the machine's folder says it is.
    pub(super) async fn plan(&self, folder: &Folder) -> Result<Option<MachinePlan>, DriverError> {
        let (id, folder) = (folder.id(), folder.clone());
        let plan = blocking(move || folder.spec()).await;
        plan.map_err(|error| storage(format!("what machine {id} is cannot be read"), &error))
    }

    pub(super) async fn start(&self, plan: &MachinePlan, phases: &Phases) -> Result<Arc<Live>, DriverError> {
        let folder = self.folder(plan.id);
        command::check(plan, self.uefi.as_ref())?;
        let _turn = self.turns.wait(plan.id).await;
        let _ = phases.send("start");
        if let Some(live) = self.living(&folder).await? {
            return Ok(live);
        }
        super::edit::check_ports(plan)?;
        self.make_startable(plan, &folder).await?;
        // Which layer of the disk is written is known once it is our turn.
        let arguments = command::arguments(plan, &folder, &self.acceleration, self.uefi.as_ref())?;
        super::console::begin(&folder).await;
        let live = self.launch(&folder, &arguments).await?;
        super::restore::settled(&folder).await;
        Ok(live)
    }

    /// All that a process needs is there, and nothing is left of the one before.
    pub(super) async fn make_startable(&self, plan: &MachinePlan, folder: &Folder) -> Result<(), DriverError> {
        let (plan, folder) = (plan.clone(), folder.clone());
        let made = tokio::task::spawn_blocking(move || {
            for part in plan.manifest.files.keys() {
                let path = plan.image_dir.join(part.file_name());
                fs::metadata(&path).map_err(|error| unusable_image(&plan, &path, &error))?;
            }
            folder.disk().and_then(fs::metadata).map_err(|error| no_disk(&plan, &error))?;
            let cannot = |error| storage(format!("machine {} cannot be made ready to start", plan.id), &error);
            folder.forget_ended().and_then(|()| folder.make_sockets()).map_err(cannot)
        });
        made.await.unwrap_or_else(|error| Err(refused(format!("the start was broken off: {error}"))))
    }

    pub(super) async fn note_end(&self, id: VmId, exit: Exit) -> Result<(), DriverError> {
        let _turn = self.turns.wait(id).await;
        let folder = self.folder(id);
        let sought = folder.clone();
        let noted = blocking(move || {
            // One that was started meanwhile has not ended; and of one that is gone there is nothing to remember.
            if super::seek(&sought)?.is_some() || sought.spec()?.is_none() {
                return Ok(());
            }
            sought.write_ended(&exit)
        });
        noted
            .await
            .map_err(|error| storage(format!("how machine {} ended cannot be written down", folder.id()), &error))
    }
}

fn no_disk(plan: &MachinePlan, error: &io::Error) -> DriverError {
    refused(format!("the disk of machine {} cannot be used: {error}; delete the machine and create another", plan.id))
}
