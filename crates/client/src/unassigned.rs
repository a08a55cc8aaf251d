//! What is on hosts and no record knows: `/api/v1/unassigned`.

use hostler_model::{
    api::Page,
    unassigned::{NewClaim, Unassigned},
    vm::Vm,
};

use crate::{Client, ClientError, call::Call};

impl Client {
    /// All machines that nodes have told of and that no record knows: the server gives them on one page.
    pub async fn unassigned(&self) -> Result<Vec<Unassigned>, ClientError> {
        let page: Page<Unassigned> = self.call(Call::get("/api/v1/unassigned")).await?;
        Ok(page.items)
    }

    /// Makes one of them a tenant's. Asked once more it is as it was.
    pub async fn claim(&self, claim: &NewClaim) -> Result<Vm, ClientError> {
        self.call(Call::post("/api/v1/unassigned/claim").json(claim)?).await
    }
}
