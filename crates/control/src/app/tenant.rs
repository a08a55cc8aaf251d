//! Tenants: made, changed and deleted by the platform's administrators, seen by their own callers. Never here: what a
//! tenant's machines take (the store's steps decide that under their locks).

use hostler_model::{
    Code, TenantId,
    tenant::{NewTenant, Tenant, TenantPatch},
};
use hostler_store::{EditTenant, MadeTenant, NewTenantRow};

use super::{App, Result, caller::Call, not_found, submit::Terms};

impl App {
    /// A tenant by id or name; another tenant's is not there for a tenant's callers.
    pub async fn tenant(&self, call: &Call, text: &str) -> Result<Tenant> {
        let unknown = || not_found(Code::NotFound, "tenant", text);
        let id = self.store.find_tenant(text.to_owned()).await?.filter(|id| self.sees(call, *id));
        let found = self.store.tenant(id.ok_or_else(unknown)?).await?;
        Ok(found.ok_or_else(unknown)?)
    }

    fn sees(&self, call: &Call, tenant: TenantId) -> bool {
        call.caller.is_global() || call.may_see(tenant)
    }

    /// Every tenant, newest first.
    pub async fn tenants(&self, before: Option<TenantId>, limit: usize) -> Result<Vec<Tenant>> {
        Ok(self.store.tenants(before, limit).await?)
    }

    /// Makes a tenant. Limits that are not named are those of the configuration.
    pub async fn create_tenant(&self, call: &Call, new: NewTenant, terms: Terms) -> Result<MadeTenant> {
        let usual = self.defaults().limits;
        let row = NewTenantRow {
            id: self.ids.next(self.clock.now()),
            name: new.name,
            limits: new.limits.apply(&usual, &usual),
            idempotency: terms.idempotency,
            dry_run: terms.dry_run,
            actor: call.actor(),
        };
        Ok(self.store.create_tenant(row).await??)
    }

    /// Changes a tenant's name and limits.
    pub async fn edit_tenant(&self, call: &Call, text: &str, patch: TenantPatch, terms: Terms) -> Result<Tenant> {
        let edit = self.change(call, text, patch, terms).await?;
        Ok(self.store.edit_tenant(edit).await??)
    }

    /// Deletes a tenant that has nothing.
    pub async fn delete_tenant(&self, call: &Call, text: &str, terms: Terms) -> Result<Tenant> {
        let edit = self.change(call, text, TenantPatch::default(), terms).await?;
        Ok(self.store.delete_tenant(edit).await??)
    }

    async fn change(&self, call: &Call, text: &str, patch: TenantPatch, terms: Terms) -> Result<EditTenant> {
        let tenant = self.tenant(call, text).await?.id;
        let (usual, actor) = (self.defaults().limits, call.actor());
        Ok(EditTenant { tenant, patch, usual, if_match: terms.if_match, dry_run: terms.dry_run, actor })
    }
}
