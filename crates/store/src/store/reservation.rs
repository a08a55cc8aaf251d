//! The store's face for quotas by hand.

use hostler_model::{
    NodeId, ReservationId, TenantId,
    event::Actor,
    reservation::{Recalculated, RecalculatedNode, Reservation},
};

use super::Store;
use crate::{Answer, MadeReservation, NewReservationRow, Result, Swept, reservation, step};

impl Store {
    /// Holds amounts for a tenant until they are released or their time is up; under the same key once more, the first
    /// answer.
    pub async fn reserve(&self, new: NewReservationRow) -> Result<Answer<MadeReservation>> {
        self.step("store.quota", move |work| step::reservation::reserve(work, &new)).await
    }

    /// Gives back what was held.
    pub async fn release(&self, tenant: TenantId, id: ReservationId, actor: Actor) -> Result<Answer<Reservation>> {
        self.step("store.quota", move |work| step::reservation::release(work, tenant, id, &actor)).await
    }

    /// What is held for a tenant, newest first; `before` is the last id of the page before.
    pub async fn reservations(
        &self,
        tenant: TenantId,
        before: Option<ReservationId>,
        limit: usize,
    ) -> Result<Vec<Reservation>> {
        self.read(move |tx| reservation::of_tenant(tx, tenant, before, limit)).await
    }

    /// Counts a tenant's book anew, and says whether it differed.
    pub async fn recalculate(&self, tenant: TenantId, actor: Actor) -> Result<Answer<Recalculated>> {
        self.step("store.quota", move |work| step::reservation::recalculate(work, tenant, &actor)).await
    }

    /// Counts a node's book anew, and says whether it differed.
    pub async fn recalculate_node(&self, node: NodeId, actor: Actor) -> Result<Answer<RecalculatedNode>> {
        self.step("store.quota", move |work| step::reservation::recalculate_node(work, node, &actor)).await
    }

    /// Reservations whose time is up.
    pub async fn expire_reservations(&self) -> Result<Swept> {
        self.pass("store.expire", step::reservation::expire_reservations).await
    }
}
