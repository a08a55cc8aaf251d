//! The store's face for tenants.

use hostler_model::{TenantId, api::Quota, name::Name, tenant::Tenant, unassigned::Unassigned, vm::Vm};

use super::Store;
use crate::{
    Answer, Claimed, EditTenant, MadeTenant, NewTenantRow, Result, image,
    node::{self, NodeRow},
    step, tenant,
};

impl Store {
    /// Makes a tenant; under the same key once more, the first answer.
    pub async fn create_tenant(&self, new: NewTenantRow) -> Result<Answer<MadeTenant>> {
        self.step("store.tenant", move |work| step::tenant::create(work, &new)).await
    }

    /// Changes a tenant's name and limits.
    pub async fn edit_tenant(&self, edit: EditTenant) -> Result<Answer<Tenant>> {
        self.step("store.tenant", move |work| step::tenant::edit(work, &edit)).await
    }

    /// Deletes a tenant that has nothing; what else the change says does not matter.
    pub async fn delete_tenant(&self, edit: EditTenant) -> Result<Answer<Tenant>> {
        self.step("store.tenant", move |work| step::tenant::delete(work, &edit)).await
    }

    /// Makes a machine that no record knows a tenant's.
    pub async fn claim_unassigned(&self, claim: Claimed) -> Result<Answer<Vm>> {
        self.step("store.claim", move |work| step::unassigned::claim(work, &claim)).await
    }

    /// Machines that nodes have told of and that no record knows.
    pub async fn unassigned(&self) -> Result<Vec<Unassigned>> {
        let usual = self.0.context.placement.overcommit;
        self.read(move |tx| {
            let nodes = node::all(tx, &usual)?.into_iter();
            let of = |NodeRow { node, orphans, .. }: NodeRow| {
                let told = move |orphan| Unassigned::of(node.id, &node.name, orphan);
                orphans.into_iter().map(told)
            };
            Ok(nodes.flat_map(of).collect())
        })
        .await
    }

    /// A tenant.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>> {
        self.read(move |tx| Ok(tenant::by_ids(tx, &[id])?.pop())).await
    }

    /// Newest first; `before` is the last id of the page before.
    pub async fn tenants(&self, before: Option<TenantId>, limit: usize) -> Result<Vec<Tenant>> {
        self.read(move |tx| tenant::list(tx, before, limit)).await
    }

    /// What a tenant may have, and has; no limits and nothing for one that does not exist.
    pub async fn quota(&self, tenant: TenantId) -> Result<Quota> {
        self.read(move |tx| {
            let found = tenant::by_ids(tx, &[tenant])?.pop();
            let (limits, book) = found.map_or_else(Default::default, |found| (found.limits, found.book));
            Ok(Quota { tenant, limits, book, images_bytes: image::sizes(tx, tenant)?.values().sum() })
        })
        .await
    }

    /// A tenant, by id or by name.
    pub async fn find_tenant(&self, text: String) -> Result<Option<TenantId>> {
        self.read(move |tx| {
            // A name may look like an id, so an id that finds nothing is tried as a name.
            if let Ok(id) = text.parse::<TenantId>()
                && !tenant::by_ids(tx, &[id])?.is_empty()
            {
                return Ok(Some(id));
            }
            match text.parse::<Name>() {
                Ok(name) => tenant::named(tx, &name),
                Err(_) => Ok(None),
            }
        })
        .await
    }
}
