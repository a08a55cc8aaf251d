//! Quotas by hand: amounts held for a tenant, given back or ended by their time; and a tenant's book counted anew.

use hostler_db::Result;
use hostler_model::{
    Code, NodeId, Refusal, ReservationId, TenantId,
    alloc::{Allocation, Hold, Owner},
    book::recompute,
    event::Actor,
    quota,
    reservation::{Recalculated, RecalculatedNode, Reservation},
};
use serde_json::json;

use super::{join::not_found, tenant::no_tenant};
use crate::{
    Answer, MadeReservation, NewReservationRow, Swept, allocation,
    idempotency::{self, FirstAnswer, Key},
    node, reservation,
    work::{Did, Work},
};

/// How many one pass ends.
const PIECE: usize = 256;

/// Holds amounts for a tenant, within its limits; under the same key once more, the first answer.
pub(crate) fn reserve(work: &mut Work<'_>, new: &NewReservationRow) -> Result<Answer<MadeReservation>> {
    let sent = new.idempotency.as_ref().filter(|_| !new.dry_run);
    let key = sent.map(|sent| Key::new(new.tenant, &new.actor, sent));
    let first = key.as_ref().map(|key| idempotency::by_key::<Reservation>(work.tx, key)).transpose()?.flatten();
    if let (Some(first), Some(sent)) = (first, sent) {
        return Ok(first.again(sent).map(|reservation| MadeReservation { reservation, replayed: true }));
    }
    let expires_at = match new.asked.check(work.now) {
        Ok(expires_at) => expires_at,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let Some(tenant) = work.tenant(new.tenant)? else { return Ok(Err(no_tenant(new.tenant))) };
    if let Err(refusal) = quota::check(&tenant.limits, &tenant.book, &new.asked.amount) {
        return Ok(Err(refusal));
    }
    let made = Reservation {
        id: new.id,
        tenant: new.tenant,
        amount: new.asked.amount,
        reason: new.asked.reason.trim().to_owned(),
        created_by: new.actor.principal,
        created_at: work.now,
        expires_at,
    };
    if !new.dry_run {
        let owner = Owner::Reservation(made.id);
        let held = Allocation { owner, tenant: made.tenant, node: None, amount: made.amount, hold: Hold::Held };
        reservation::insert(work.tx, &made)?;
        work.set_allocation(owner, Some(held))?;
        tell(work, &new.actor, &made, Did { kind: "quota.reserved", by: "quota.reserve" });
        if let (Some(key), Some(sent)) = (key, sent) {
            let first = FirstAnswer { key, body: sent.body.clone(), answer: made.clone() };
            idempotency::insert(work.tx, &[first], work.now)?;
        }
    }
    Ok(Ok(MadeReservation { reservation: made, replayed: false }))
}

/// Gives back what was held, once: whoever comes second finds nothing.
pub(crate) fn release(
    work: &mut Work<'_>,
    tenant: TenantId,
    id: ReservationId,
    actor: &Actor,
) -> Result<Answer<Reservation>> {
    let Some(held) = reservation::one(work.tx, id)?.filter(|held| held.tenant == tenant) else {
        let detail = "there is no such reservation of this tenant: it was released, or its time is up";
        return Ok(Err(Refusal::new(Code::NotFound, detail).with("reservation", id.to_string())));
    };
    give_back(work, &held)?;
    tell(work, actor, &held, Did { kind: "quota.released", by: "quota.release" });
    Ok(Ok(held))
}

/// One pass over those whose time is up.
pub(crate) fn expire_reservations(work: &mut Work<'_>) -> Result<Swept> {
    let over = reservation::over(work.tx, work.now, PIECE)?;
    for held in &over {
        give_back(work, held)?;
        let did = Did { kind: "quota.reservation_expired", by: "quota.expire" };
        tell(work, &Actor::system(), held, did);
    }
    Ok(Swept { changed: over.len(), more: over.len() == PIECE })
}

fn give_back(work: &mut Work<'_>, held: &Reservation) -> Result<()> {
    reservation::delete(work.tx, held.id)?;
    work.set_allocation(Owner::Reservation(held.id), None)
}

fn tell(work: &mut Work<'_>, actor: &Actor, of: &Reservation, did: Did) {
    let data = json!({"amount": of.amount, "reason": of.reason, "expires_at": of.expires_at, "tenant": of.tenant});
    work.act(actor, Some(of.tenant), "reservation", did, of.id.0, &data);
}

/// Counts a tenant's book anew from what exists, while nothing else changes it.
pub(crate) fn recalculate(work: &mut Work<'_>, id: TenantId, actor: &Actor) -> Result<Answer<Recalculated>> {
    let Some(tenant) = work.tenant(id)? else { return Ok(Err(no_tenant(id))) };
    let sums = recompute(&allocation::of_tenant(work.tx, id)?);
    let book = sums.tenants.get(&id).copied().unwrap_or_default();
    let (kept, differed) = (tenant.book, tenant.book != book);
    if differed {
        work.correct_book(id, book - kept);
    }
    let data = json!({"kept": kept, "book": book, "differed": differed});
    work.audit(actor, Some(id), "tenant", "quota.recalculate", id.0, data);
    Ok(Ok(Recalculated { tenant: id, kept, book, differed }))
}

/// The same for a node's.
pub(crate) fn recalculate_node(work: &mut Work<'_>, id: NodeId, actor: &Actor) -> Result<Answer<RecalculatedNode>> {
    let Some(node) = node::by_ids(work.tx, &[id], work.usual())?.pop().map(|row| row.node) else {
        return Ok(Err(not_found(id)));
    };
    let sums = recompute(&allocation::on_node(work.tx, id)?);
    let book = sums.nodes.get(&id).copied().unwrap_or_default();
    let (kept, differed) = (node.book, node.book != book);
    if differed {
        work.correct_node(id, book - kept);
    }
    let data = json!({"name": node.name, "kept": kept, "book": book, "differed": differed});
    work.audit(actor, None, "node", "node.recalculate", id.0, data);
    Ok(Ok(RecalculatedNode { node: id, kept, book, differed }))
}
