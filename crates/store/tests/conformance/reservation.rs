//! Quotas by hand: amounts held for a tenant, given back once, and a book that is counted anew.

use std::time::Duration;

use hostler_model::{
    Code, ReservationId,
    amounts::Amounts,
    event::Actor,
    reservation::{NewReservation, Reservation},
    tenant::{Limits, UNLIMITED},
};
use hostler_store::{EditTenant, Idempotency, NewReservationRow};
use serde_json::json;

use crate::world::{TENANT, World};

fn asked(world: &World, vms: i64) -> NewReservationRow {
    let amount = Amounts { vms, ..Amounts::ZERO };
    let asked = NewReservation { amount, reason: "a fair".into(), expires_in_seconds: Some(60) };
    let (id, actor) = (world.id(), Actor::system());
    NewReservationRow { id, tenant: TENANT, asked, idempotency: None, dry_run: false, actor }
}

async fn held(world: &World, vms: i64) -> Reservation {
    world.store.reserve(asked(world, vms)).await.unwrap().unwrap().reservation
}

async fn release(world: &World, id: ReservationId) -> hostler_store::Answer<Reservation> {
    world.store.release(TENANT, id, Actor::system()).await.unwrap()
}

pub async fn what_is_held_by_hand_counts_and_is_given_back(world: &mut World) {
    world.node("a").await;
    let limits = Limits { vms: 3, ..UNLIMITED };
    world.store.edit_tenant(EditTenant::of_system(TENANT, limits.into())).await.unwrap().unwrap();
    let two = held(world, 2).await;
    assert_eq!(world.book().await.held, two.amount);
    world.ok(world.create("web")).await;
    let refused = world.refused(world.create("more"), Code::QuotaExceeded).await;
    assert_eq!(refused.facts["over"], json!([{"resource": "vms", "limit": 3, "used": 0, "held": 3, "asked": 1}]));
    for dry_run in [true, false] {
        let more = NewReservationRow { dry_run, ..asked(world, 1) };
        assert_eq!(world.store.reserve(more).await.unwrap().unwrap_err().code, Code::QuotaExceeded);
    }
    assert_eq!(world.store.reservations(TENANT, None, 10).await.unwrap(), std::slice::from_ref(&two));
    assert_eq!(release(world, two.id).await.unwrap(), two);
    world.ok(world.create("more")).await;
}

pub async fn a_reservation_is_made_once_under_a_key(world: &mut World) {
    let keyed = |body: &str, dry_run| {
        let sent = Idempotency { key: "k".into(), route: "POST /reservations".into(), body: body.into(), part: None };
        NewReservationRow { idempotency: Some(sent), dry_run, ..asked(world, 2) }
    };
    let reserve = async |new| world.store.reserve(new).await.unwrap();
    reserve(keyed("a", true)).await.unwrap();
    let (first, again) = (reserve(keyed("a", false)).await.unwrap(), reserve(keyed("a", false)).await.unwrap());
    assert_eq!((first.replayed, again.replayed, &again.reservation), (false, true, &first.reservation));
    assert_eq!(world.book().await.held.vms, 2, "held once");
    let other = reserve(keyed("b", false)).await.unwrap_err();
    assert_eq!((other.code, &other.facts["reservation"]), (Code::IdempotencyMismatch, &json!(first.reservation.id)));
    release(world, first.reservation.id).await.unwrap();
    assert!(reserve(keyed("a", false)).await.unwrap().replayed, "a late repeat holds nothing anew");
    assert!(world.book().await.held.is_zero());
}

pub async fn a_reservation_released_twice_is_given_back_once(world: &mut World) {
    let (one, other) = (held(world, 2).await, held(world, 3).await);
    release(world, one.id).await.unwrap();
    assert_eq!(release(world, one.id).await.unwrap_err().code, Code::NotFound);
    world.advance(61);
    assert_eq!(world.store.expire_reservations().await.unwrap().changed, 1);
    assert_eq!(release(world, other.id).await.unwrap_err().code, Code::NotFound);
    assert!(world.book().await.total().is_zero());
    assert_eq!(world.store.expire_reservations().await.unwrap().changed, 0);
}

pub async fn a_reservation_ends_by_itself_and_the_log_says_so(world: &mut World) {
    let one = held(world, 1).await;
    let head = world.head().await;
    world.advance(59);
    assert_eq!(world.store.expire_reservations().await.unwrap().changed, 0);
    world.advance(1);
    world.store.expire_reservations().await.unwrap();
    assert_eq!(world.store.reservations(TENANT, None, 10).await.unwrap(), []);
    assert_eq!(world.kinds_after(head).await, ["quota.reservation_expired"]);
    assert!(one.expires_at <= world.now() && world.book().await.held.is_zero());
}

/// A hold of a task has no end of its own: nothing lets go of what a success then has to be charged for.
pub async fn a_success_that_comes_after_every_deadline_is_charged(world: &mut World) {
    let agent = world.node("a").await;
    world.ok(world.create("web")).await;
    let leased = world.lease_one(agent).await;
    world.serve(Duration::from_secs(3 * 24 * 3600).as_secs()).await;
    world.store.lapse_leases().await.unwrap();
    world.store.expire_queued().await.unwrap();
    world.store.expire_running().await.unwrap();
    world.store.expire_reservations().await.unwrap();
    assert_eq!(world.book().await.held.vms, 1, "nobody knows that there is nothing");
    world.succeed(agent, &leased).await;
    let book = world.book().await;
    assert_eq!((book.held.vms, book.used.vms, book.used.running_vms), (0, 1, 1));
}

pub async fn a_book_that_was_changed_by_hand_is_counted_anew(world: &mut World) {
    let agent = world.node("a").await;
    world.running(agent, "web").await;
    held(world, 2).await;
    let recalculate = async || world.store.recalculate(TENANT, Actor::system()).await.unwrap().unwrap();
    let same = recalculate().await;
    assert!(!same.differed && same.kept == same.book);
    let right = world.book().await;
    world.tamper("UPDATE tenant_books SET used_vcpus = used_vcpus + 7, held_vms = 0");
    let corrected = recalculate().await;
    assert!(corrected.differed);
    assert_eq!((corrected.book, world.book().await), (right, right));
    assert_eq!((corrected.kept.used.vcpus, corrected.kept.held.vms), (right.used.vcpus + 7, 0));
    assert!(world.store.doctor().await.unwrap().is_well());
}

pub async fn a_nodes_book_that_was_changed_by_hand_is_counted_anew(world: &mut World) {
    let (agent, other) = (world.node("a").await, world.node("b").await);
    world.running(agent, "web").await;
    world.ok(world.create("db")).await;
    let recalculate = async |node| world.store.recalculate_node(node, Actor::system()).await.unwrap().unwrap();
    assert!(!recalculate(agent.node).await.differed && !recalculate(other.node).await.differed);
    let books = async || world.store.nodes().await.unwrap().iter().map(|node| node.book).collect::<Vec<_>>();
    let right = books().await;
    world.tamper("UPDATE node_books SET used_disk_gib = used_disk_gib + 7, held_vcpus = 0");
    for node in [agent.node, other.node] {
        assert!(recalculate(node).await.differed);
    }
    assert_eq!(books().await, right);
    assert!(world.store.doctor().await.unwrap().is_well());
    assert_eq!(world.kinds_after(world.head().await - 1).await, ["node.recalculate"]);
    let none = world.store.recalculate_node(world.id(), Actor::system()).await.unwrap().unwrap_err();
    assert_eq!(none.code, Code::NodeNotFound);
}
