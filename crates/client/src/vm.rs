//! Machines: `/api/v1/vms`.

use hostler_model::{
    Code,
    api::{Edited, NewExec, NewReboot, NewStart, NewStop, NewVm, Page, Submitted},
    edit::VmPatch,
    kind::VmRenameParams,
    name::Name,
    vm::{Vm, VmState},
};

use crate::{
    Client, ClientError, Paging, Submit,
    call::{Call, segment},
};

/// Which machines to list. Everything left out does not matter; without a state, those that are not deleted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VmQuery {
    /// Only in this state.
    pub state: Option<VmState>,
    /// Only on this node, by id or name.
    pub node: Option<String>,
}

impl VmQuery {
    fn call(&self) -> Call {
        Call::get("/api/v1/vms").query("state", self.state).query("node", self.node.as_deref())
    }
}

fn path(vm: &str) -> Result<String, ClientError> {
    Ok(format!("/api/v1/vms/{}", segment(vm, Code::VmNotFound)?))
}

impl Client {
    /// Makes a machine.
    pub async fn create_vm(&self, vm: &NewVm, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post("/api/v1/vms").json(vm)?, how).await
    }

    /// One machine, by id or name.
    pub async fn vm(&self, vm: &str) -> Result<Vm, ClientError> {
        self.call(Call::get(path(vm)?)).await
    }

    /// A page of machines, newest first.
    pub async fn vms_page(&self, which: &VmQuery, paging: &Paging) -> Result<Page<Vm>, ClientError> {
        self.page(which.call(), paging).await
    }

    /// The newest `most` machines, or all of them.
    pub async fn vms(&self, which: &VmQuery, most: Option<usize>) -> Result<Vec<Vm>, ClientError> {
        self.every(which.call(), most).await
    }

    /// Runs a program in a machine's guest.
    pub async fn exec(&self, vm: &str, exec: &NewExec, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post(format!("{}/exec", path(vm)?)).json(exec)?, how).await
    }

    /// Edits a machine; with `generation`, only if that is its generation.
    pub async fn edit_vm(
        &self,
        vm: &str,
        patch: &VmPatch,
        generation: Option<u32>,
        how: &Submit,
    ) -> Result<Edited, ClientError> {
        let mut call = Call::patch(path(vm)?).json(patch)?;
        if let Some(generation) = generation {
            call = call.header("if-match", &format!("\"{generation}\""))?;
        }
        self.submit(call, how).await
    }

    /// Renames a machine.
    pub async fn rename_vm(&self, vm: &str, name: &Name, how: &Submit) -> Result<Submitted, ClientError> {
        let params = VmRenameParams { name: name.clone() };
        self.submit(Call::post(format!("{}/rename", path(vm)?)).json(&params)?, how).await
    }

    /// Starts a machine that is stopped or in error.
    pub async fn start_vm(&self, vm: &str, start: &NewStart, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post(format!("{}/start", path(vm)?)).json(start)?, how).await
    }

    /// Stops a machine and keeps its disk.
    pub async fn stop_vm(&self, vm: &str, stop: &NewStop, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post(format!("{}/stop", path(vm)?)).json(stop)?, how).await
    }

    /// Restarts a machine's guest.
    pub async fn reboot_vm(&self, vm: &str, reboot: &NewReboot, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post(format!("{}/reboot", path(vm)?)).json(reboot)?, how).await
    }

    /// Holds a machine's processors.
    pub async fn pause_vm(&self, vm: &str, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post(format!("{}/pause", path(vm)?)), how).await
    }

    /// Lets a paused machine's processors run again.
    pub async fn resume_vm(&self, vm: &str, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::post(format!("{}/resume", path(vm)?)), how).await
    }

    /// Ends a machine and removes what it had.
    pub async fn delete_vm(&self, vm: &str, how: &Submit) -> Result<Submitted, ClientError> {
        self.submit(Call::delete(path(vm)?), how).await
    }
}
