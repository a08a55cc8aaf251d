//! What a tenant may have and has: the caller's own at `/api/v1/quota`, others' below `/api/v1/tenants`.

use hostler_model::{
    Code,
    api::Quota,
    reservation::{NewReservation, Recalculated, RecalculatedNode, Reservation},
    tenant::LimitsPatch,
};

use crate::{
    Client, ClientError, Mode,
    call::{Call, segment},
};

fn below(tenant: &str, rest: &str) -> Result<String, ClientError> {
    Ok(format!("/api/v1/tenants/{}/{rest}", segment(tenant, Code::NotFound)?))
}

impl Client {
    /// The limits of the caller's tenant, and its book.
    pub async fn quota(&self) -> Result<Quota, ClientError> {
        self.call(Call::get("/api/v1/quota")).await
    }

    /// The limits of a tenant, and its book.
    pub async fn quota_of(&self, tenant: &str) -> Result<Quota, ClientError> {
        self.call(Call::get(below(tenant, "quota")?)).await
    }

    /// Changes a tenant's limits.
    pub async fn set_quota(&self, tenant: &str, limits: &LimitsPatch, mode: Mode) -> Result<Quota, ClientError> {
        self.call(Call::patch(below(tenant, "quota")?).json(limits)?.query("dry_run", mode.dry_run())).await
    }

    /// Counts a tenant's book anew from what exists.
    pub async fn recalculate_quota(&self, tenant: &str) -> Result<Recalculated, ClientError> {
        self.call(Call::post(below(tenant, "quota/recalculate")?)).await
    }

    /// Counts a node's book anew from what exists.
    pub async fn recalculate_node(&self, node: &str) -> Result<RecalculatedNode, ClientError> {
        let node = segment(node, Code::NodeNotFound)?;
        self.call(Call::post(format!("/api/v1/nodes/{node}/recalculate"))).await
    }

    /// Holds amounts for a tenant; sent again under the same key they are held once.
    pub async fn reserve_quota(
        &self,
        tenant: &str,
        new: &NewReservation,
        mode: Mode,
    ) -> Result<Reservation, ClientError> {
        let call = Call::post(below(tenant, "reservations")?).json(new)?;
        let call = call.header("idempotency-key", &self.fresh_key())?;
        self.call(call.query("dry_run", mode.dry_run())).await
    }

    /// What is held for a tenant by hand, newest first.
    pub async fn reservations(&self, tenant: &str) -> Result<Vec<Reservation>, ClientError> {
        self.every(Call::get(below(tenant, "reservations")?), None).await
    }

    /// Gives back what was held.
    pub async fn release_quota(&self, tenant: &str, reservation: &str) -> Result<Reservation, ClientError> {
        let reservation = segment(reservation, Code::NotFound)?;
        self.once(Call::delete(below(tenant, &format!("reservations/{reservation}"))?)).await
    }
}
