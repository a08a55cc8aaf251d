//! What is on hosts and no record knows: seen and claimed by the platform's administrators.

use hostler_model::{
    unassigned::{NewClaim, Unassigned},
    vm::Vm,
};
use hostler_store::Claimed;

use super::{App, Result, caller::Call};

impl App {
    /// Machines that nodes have told of and that no record knows.
    pub async fn unassigned(&self) -> Result<Vec<Unassigned>> {
        Ok(self.store.unassigned().await?)
    }

    /// Makes one of them a tenant's.
    pub async fn claim(&self, call: &Call, claim: NewClaim) -> Result<Vm> {
        let (node, tenant) = (self.node(&claim.node).await?.id, self.tenant(call, &claim.tenant).await?.id);
        let claimed = Claimed { node, vm: claim.id, tenant, name: claim.name, actor: call.actor() };
        Ok(self.store.claim_unassigned(claimed).await??)
    }
}
