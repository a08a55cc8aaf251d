//! Quotas: what a tenant may have and has, and what the platform's administrators do about it by hand.

use hostler_model::{
    Code, ReservationId, TenantId,
    api::Quota,
    reservation::{NewReservation, Recalculated, Reservation},
};
use hostler_store::NewReservationRow;

use super::{App, Result, caller::Call, not_found, submit::Terms};

impl App {
    /// How much the caller's tenant may have and has.
    pub async fn quota(&self, call: &Call) -> Result<Quota> {
        Ok(self.store.quota(call.tenant()?).await?)
    }

    /// Holds amounts for a tenant until they are released or their time is up.
    pub async fn reserve(&self, call: &Call, text: &str, asked: NewReservation, terms: Terms) -> Result<Reservation> {
        let tenant = self.tenant(call, text).await?.id;
        let id = self.ids.next(self.clock.now());
        let row = NewReservationRow { id, tenant, asked, dry_run: terms.dry_run, actor: call.actor() };
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
}
