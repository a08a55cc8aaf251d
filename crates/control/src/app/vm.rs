//! Machines: found by id or name, listed, their records edited. What a host must do about one is a task (`submit.rs`).

use hostler_model::{
    Code, TenantId, VmId, edit::VmPatch, kind::KindName, name::Name, schedule::Schedule, task::Target, vm::Vm,
};
use hostler_store::{Edited, Submission, VmFilter};

use super::{App, Error, Result, caller::Call, not_found, submit::Terms};

impl App {
    /// A machine that this caller may see, by id or, among those that are not deleted, by name.
    pub async fn vm(&self, call: &Call, text: &str) -> Result<Vm> {
        self.vm_in(call, call.tenant()?, text).await
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

    /// Edits a machine: its record at once, its host by a task.
    pub async fn edit_vm(&self, call: &Call, text: &str, patch: VmPatch, terms: Terms) -> Result<Edited> {
        let kind = KindName::VmEdit;
        call.require(kind.spec().access())?;
        let Vm { id, tenant, .. } = self.vm(call, text).await?;
        let patch = VmPatch { filed: None, ..patch };
        let params = serde_json::to_value(patch).map_err(|_| Error::Fault("a patch could not be written as JSON"))?;
        let now = self.clock.now();
        let (schedule, not_before) = Schedule::asked(kind.spec(), &params, &terms.when, now)?;
        let submission = Submission {
            task: self.ids.next(now),
            tenant,
            actor: call.actor(),
            kind,
            schedule,
            not_before,
            params,
            secrets: Vec::new(),
            target: Target { vm: Some(id), node: None },
            vm: None,
            snapshot: None,
            retry_of: None,
            idempotency: terms.idempotency.filter(|_| !terms.dry_run),
            if_match: terms.if_match,
            dry_run: terms.dry_run,
        };
        Ok(self.store.edit_vm(submission).await??)
    }

    /// The caller's machines, newest first.
    pub async fn vms(&self, call: &Call, filter: VmFilter, before: Option<VmId>, limit: usize) -> Result<Vec<Vm>> {
        let filter = VmFilter { tenant: Some(call.tenant()?), ..filter };
        Ok(self.store.vms(filter, before, limit).await?)
    }
}
