//! Quotas: what a tenant may have and has, and what the platform's administrators do about it by hand.

use hostler_model::{
    Code, ReservationId, TenantId,
    api::Quota,
    reservation::{NewReservation, Recalculated, RecalculatedNode, Reservation},
    tenant::Tenant,
};
use hostler_store::{MadeReservation, NewReservationRow};

use super::{App, Result, caller::Call, not_found, submit::Terms};

impl App {
    /// How much the caller's tenant may have and has.
    pub async fn quota(&self, call: &Call) -> Result<Quota> {
        Ok(self.store.quota(call.tenant()?).await?)
    }

    /// How much this tenant may have and has.
    pub async fn quota_of(&self, tenant: &Tenant) -> Result<Quota> {
        let Tenant { id, limits, book, .. } = *tenant;
        Ok(Quota { limits, book, ..self.store.quota(id).await? })
    }

    /// Holds amounts for a tenant until they are released or their time is up.
    pub async fn reserve(
        &self,
        call: &Call,
        text: &str,
        asked: NewReservation,
        terms: Terms,
    ) -> Result<MadeReservation> {
        let tenant = self.tenant(call, text).await?.id;
        let row = NewReservationRow {
            id: self.ids.next(self.clock.now()),
            tenant,
            asked,
            idempotency: terms.idempotency,
            dry_run: terms.dry_run,
            actor: call.actor(),
        };
        Ok(self.store.reserve(row).await??)
    }

    /// What is held for a tenant by hand, newest first.
    pub async fn reservations(
        &self,
        tenant: TenantId,
        before: Option<ReservationId>,
        limit: usize,
    ) -> Result<Vec<Reservation>> {
        Ok(self.store.reservations(tenant, before, limit).await?)
    }

    /// Gives back what was held.
    pub async fn release(&self, call: &Call, text: &str, reservation: &str) -> Result<Reservation> {
        let tenant = self.tenant(call, text).await?.id;
        let id = reservation.parse().map_err(|_| not_found(Code::NotFound, "reservation", reservation))?;
        Ok(self.store.release(tenant, id, call.actor()).await??)
    }

    /// Counts a tenant's book anew from what exists.
    pub async fn recalculate(&self, call: &Call, text: &str) -> Result<Recalculated> {
        let tenant = self.tenant(call, text).await?.id;
        Ok(self.store.recalculate(tenant, call.actor()).await??)
    }

    /// Counts a node's book anew from what exists.
    pub async fn recalculate_node(&self, call: &Call, text: &str) -> Result<RecalculatedNode> {
        let node = self.node(text).await?.id;
        Ok(self.store.recalculate_node(node, call.actor()).await??)
    }
}
