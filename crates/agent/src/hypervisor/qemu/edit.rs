//! What a machine is to be, while it is there: its folder says it, and a process that lives gets what it can take.
//!
//! ```text
//! ports chosen and free ──► spec.json ──► forwards added, taken away ──► disk grown
//!                              └────────────────┴── failed: forwards as they were, spec.json as it was
//! ```
//!
//! What is there is looked at, never remembered: the same edit again, after a crash at any instant, does what is missing.

use std::{ffi::OsStr, fs::File, io, os::unix::fs::FileExt, path::Path, process::Stdio};

use hostler_model::{
    VmId,
    error::Code,
    forward::{self, PortForward},
};

use super::{
    Driver, GIB, blocking,
    error::{failed, storage},
    folder::Folder,
    machine::Live,
    qmp::{Qmp, QmpError},
};
use crate::{
    host::port,
    hypervisor::{Applied, DriverError, MachinePlan, NotApplied, Runs},
};

/// Where a qcow2 header says how large the disk is, in bytes: eight of them, big-endian.
const SIZE_AT: u64 = 24;

impl Driver {
    pub(super) async fn edit(&self, plan: &MachinePlan) -> Result<Applied, NotApplied> {
        let _turn = self.turns.wait(plan.id).await;
        let folder = self.folder(plan.id);
        let before =
            self.plan(&folder).await?.ok_or_else(|| failed(format!("there is nothing of machine {}", plan.id)))?;
        let live = self.living(&folder).await?;
        let plan = with_ports(plan, &before.spec.port_forwards)?;
        if plan != before {
            write(&folder, &plan).await?;
        }
        fail::fail_point!("agent.qemu.edit.after_spec");
        match bring(&plan, &folder, live.as_deref()).await {
            Ok(()) => {
                let runs = match &live {
                    Some(live) => Some(runs(live).await?),
                    None => None,
                };
                Ok(Applied { plan, runs })
            }
            Err(error) => Err(self.take_back(&before, &folder, live.as_deref(), error).await),
        }
    }

    /// The machine is again what it was; a disk that has grown is none the worse for it.
    async fn take_back(
        &self,
        before: &MachinePlan,
        folder: &Folder,
        live: Option<&Live>,
        error: DriverError,
    ) -> NotApplied {
        let forwards = match live {
            Some(live) => set_forwards(live, &before.spec.port_forwards).await,
            None => Ok(()),
        };
        let undone = match forwards {
            Ok(()) => write(folder, before).await,
            Err(why) => Err(why),
        };
        if let Err(why) = &undone {
            tracing::warn!(vm.id = %before.id, error = %why, "an edit that failed could not be taken back");
        }
        NotApplied { error, left: undone.is_err() }
    }

    /// Whether a machine's process was started as something else than its folder says now.
    pub(super) async fn behind(&self, id: VmId) -> Result<bool, DriverError> {
        let folder = self.folder(id);
        let (Some(plan), Some(live)) = (self.plan(&folder).await?, self.living(&folder).await?) else {
            return Ok(false);
        };
        let runs = runs(&live).await?;
        Ok(runs != Runs { vcpus: plan.spec.vcpus, memory_mib: plan.spec.memory_mib })
    }
}

async fn write(folder: &Folder, plan: &MachinePlan) -> Result<(), DriverError> {
    let (written, spec) = (folder.clone(), plan.clone());
    let done = blocking(move || written.write_spec(&spec)).await;
    done.map_err(|error| storage(format!("what machine {} is to be cannot be written down", plan.id), &error))
}

/// The plan with a port for each forward that leaves it to the node. Those in `held` are the machine's already.
pub(super) fn with_ports(plan: &MachinePlan, held: &[PortForward]) -> Result<MachinePlan, DriverError> {
    let mut plan = plan.clone();
    let mut held = held.to_vec();
    // Those that are named come first: what is left may be what was chosen before for those that are not.
    for named in plan.spec.port_forwards.iter().filter(|forward| forward.host_port != 0) {
        match held.iter().position(|held| held == named) {
            Some(at) => drop(held.swap_remove(at)),
            None => drop(port::free(named).map_err(|error| not_free(named, &error))?),
        }
    }
    for forward in plan.spec.port_forwards.iter_mut().filter(|forward| forward.host_port == 0) {
        let chosen = held.iter().position(|held| PortForward { host_port: 0, ..*held } == *forward);
        forward.host_port = match chosen {
            Some(at) => held.swap_remove(at).host_port,
            None => port::free(forward).map_err(|error| not_free(forward, &error))?,
        };
    }
    Ok(plan)
}

/// Refuses to start a process whose ports somebody else has: QEMU would not say who.
pub(super) fn check_ports(plan: &MachinePlan) -> Result<(), DriverError> {
    plan.spec.port_forwards.iter().try_for_each(|forward| match port::free(forward) {
        Ok(_) => Ok(()),
        Err(error) => Err(not_free(forward, &error)),
    })
}

fn not_free(forward: &PortForward, error: &io::Error) -> DriverError {
    let detail = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who = port::holder(forward).unwrap_or_else(|| "another program on the node".to_owned());
            forward::taken(forward, &who).detail
        }
        _ => format!("the node cannot listen on {}: {error}; choose another address or port", forward.host()),
    };
    DriverError { code: Code::PortTaken, detail, retryable: false }
}

async fn bring(plan: &MachinePlan, folder: &Folder, live: Option<&Live>) -> Result<(), DriverError> {
    if let Some(live) = live {
        set_forwards(live, &plan.spec.port_forwards).await?;
    }
    fail::fail_point!("agent.qemu.edit.after_forwards");
    let size = u64::try_from(plan.spec.disk_gib).unwrap_or_default() * GIB;
    let sought = folder.clone();
    let unreadable = |error| storage(format!("the disk of machine {} cannot be looked at", plan.id), &error);
    let look = move || sought.disk().and_then(|disk| Ok((virtual_size(&disk)?, disk)));
    let (has, disk) = blocking(look).await.map_err(unreadable)?;
    if has >= size {
        return Ok(());
    }
    match live {
        Some(live) => grow_live(live, folder, size).await,
        None => grow_file(&disk, size).await,
    }
}

fn virtual_size(disk: &Path) -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open(disk)?.read_exact_at(&mut bytes, SIZE_AT)?;
    Ok(u64::from_be_bytes(bytes))
}

async fn grow_live(live: &Live, folder: &Folder, size: u64) -> Result<(), DriverError> {
    let qmp = qmp(live)?;
    let grown = async {
        let top = qmp.top().await?;
        qmp.resize(&top.node, size).await
    };
    grown.await.map_err(|error| failed(format!("the disk of machine {} cannot grow: {error}", folder.id())))
}

/// With no process, nobody else has the file open.
async fn grow_file(disk: &Path, size: u64) -> Result<(), DriverError> {
    let size = size.to_string();
    let arguments =
        [OsStr::new("resize"), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), disk.as_os_str(), size.as_ref()];
    let ran = tokio::process::Command::new("qemu-img").args(arguments).stdin(Stdio::null()).output().await;
    let ran =
        ran.map_err(|error| failed(format!("qemu-img cannot be run: {error}; install the package qemu-utils")))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(failed(format!("the disk {} cannot grow: {said}", disk.display())))
}

/// The forwards that QEMU has become those that are wanted.
async fn set_forwards(live: &Live, wanted: &[PortForward]) -> Result<(), DriverError> {
    let qmp = qmp(live)?;
    let unsaid = |error: QmpError| {
        failed(format!("the port forwards of machine {} cannot be changed: {error}", live.folder.id()))
    };
    let have = qmp.forwards().await.map_err(unsaid)?;
    for gone in have.iter().filter(|have| !wanted.contains(have)) {
        qmp.remove_forward(gone).await.map_err(unsaid)?;
    }
    for new in wanted.iter().filter(|wanted| !have.contains(wanted)) {
        if qmp.add_forward(new).await.map_err(unsaid)? {
            continue;
        }
        let taken = io::Error::from(io::ErrorKind::AddrInUse);
        return Err(not_free(new, &port::free(new).err().unwrap_or(taken)));
    }
    Ok(())
}

async fn runs(live: &Live) -> Result<Runs, DriverError> {
    let asked = qmp(live)?.runs().await;
    asked.map_err(|error| failed(format!("what machine {} runs with cannot be asked: {error}", live.folder.id())))
}

fn qmp(live: &Live) -> Result<&Qmp, DriverError> {
    let silent = || {
        failed(format!("QEMU of machine {} does not answer its control socket; restart the machine", live.folder.id()))
    };
    live.qmp.as_ref().ok_or_else(silent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(forwards: &[PortForward]) -> MachinePlan {
        let id = "0190f1f0-0000-7000-8000-00000000000b";
        let spec = serde_json::json!({"image": "tiny", "image_digest": "d", "vcpus": 1, "memory_mib": 128, "disk_gib": 1,
            "ready_timeout_seconds": 60, "port_forwards": forwards});
        let manifest = serde_json::json!({"name": "tiny", "arch": "x86_64", "files": {}, "cmdline": "", "ready": "guest_agent",
            "defaults": {"vcpus": 1, "memory_mib": 128, "disk_gib": 1}});
        let plan = serde_json::json!({"id": id, "epoch": 1, "name": "web", "spec": spec, "manifest": manifest, "image_dir": "/"});
        serde_json::from_value(plan).unwrap()
    }

    #[test]
    fn a_port_that_was_chosen_stays_and_one_that_is_held_is_no_hindrance() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let held: PortForward = format!("{port}:80").parse().unwrap();
        let open: PortForward = "80".parse().unwrap();
        let chosen = |wanted: &[PortForward], held: &[PortForward]| with_ports(&plan(wanted), held);
        assert_eq!(chosen(&[open], &[held]).unwrap().spec.port_forwards, [held]);
        let two = chosen(&[open, held], &[held]).unwrap().spec.port_forwards;
        assert!(two[1] == held && two[0].host_port != port && two[0].host_port != 0, "{two:?}");
        assert_eq!(chosen(&[held], &[]).unwrap_err().code, Code::PortTaken);
    }
}
