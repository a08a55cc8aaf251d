//! Machines: found by id or name, listed, their records edited. What a host must do about one is a task (`submit.rs`).

use hostler_model::{Code, TenantId, VmId, edit::VmPatch, kind::Role, name::Name, vm::Vm};
use hostler_store::{EditVm, VmFilter};

use super::{App, Result, caller::Call, not_found};

impl App {
    /// A machine that this caller may see, by id or, among those that are not deleted, by name.
    pub async fn vm(&self, call: &Call, text: &str) -> Result<Vm> {
        self.vm_in(call, call.caller.tenant, text).await
    }

    /// A machine that this caller may see, by id, or by its name in this tenant.
    pub(super) async fn vm_in(&self, call: &Call, tenant: TenantId, text: &str) -> Result<Vm> {
        // A name may look like an id, so an id that finds nothing is tried as a name.
        if let Ok(id) = text.parse::<VmId>()
            && let Some(vm) = self.store.vm(id).await?.filter(|vm| call.may_see(vm.tenant))
        {
            return Ok(vm);
        }
        if let Ok(name) = text.parse::<Name>()
            && let Some(vm) = self.store.vm_by_name(tenant, name).await?
        {
            return Ok(vm);
        }
        Err(not_found(Code::VmNotFound, "vm", text).into())
    }

    /// Edits a machine's record. `if_match`: the generations that it may have.
    pub async fn edit_vm(
        &self,
        call: &Call,
        text: &str,
        patch: VmPatch,
        if_match: Option<Vec<u32>>,
        dry_run: bool,
    ) -> Result<Vm> {
        call.require(Role::Operator)?;
        let Vm { id: vm, tenant, .. } = self.vm(call, text).await?;
        let edit = EditVm { vm, tenant, actor: call.actor(), patch, if_match, dry_run };
        Ok(self.store.edit_vm(edit).await??)
    }

    /// The caller's machines, newest first.
    pub async fn vms(&self, call: &Call, filter: VmFilter, before: Option<VmId>, limit: usize) -> Result<Vec<Vm>> {
        let filter = VmFilter { tenant: Some(call.caller.tenant), ..filter };
        Ok(self.store.vms(filter, before, limit).await?)
    }
}
