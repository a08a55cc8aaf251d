//! Offers: tasks that travel by a message broker.

use hostler_model::{
    Code, Fence, NodeId, TaskId,
    broker::{PlainResult, Transport},
    event::{Actor, RequestOrigin},
    internal::Receipt,
    kind::KindName,
    node::{Node, NodeFacts},
    task::{Effects, Intent, TaskState},
    vm::VmState,
};
use hostler_store::{Answer, Beat, DeadOffer, Death, JoinNode, Leased, Offer, PlainSettle, Queue, Started};
use serde_json::json;

use crate::world::{Agent, TENANT, World, cancelled, facts, failed};

/// A node of ours whose tasks travel by the broker.
async fn ours(world: &World, name: &str) -> Agent {
    let agent = world.node(name).await;
    by(world, agent.node, Transport::Amqp).await;
    agent
}

/// A node of somebody else's.
async fn theirs(world: &World, name: &str) -> Node {
    theirs_of(world, name, None).await
}

async fn theirs_of(world: &World, name: &str, user: Option<&str>) -> Node {
    let (node, enrolment, name) = (world.id(), world.id(), name.parse().unwrap());
    let facts = NodeFacts { broker_user: user.map(str::to_owned), ..facts() };
    let (none, origin) = (String::new(), RequestOrigin::default());
    let new = JoinNode { token_hash: none.clone(), key: none, node, name, enrolment, facts, origin };
    world.store.add_plain_node(new, Actor::system()).await.unwrap().unwrap()
}

async fn by(world: &World, node: NodeId, transport: Transport) {
    world.store.reroute_node(node, transport, Actor::system()).await.unwrap().unwrap();
}

async fn offers(world: &World) -> Vec<Offer> {
    world.store.offers(100).await.unwrap()
}

/// The one offer that is due.
async fn offered(world: &World) -> Offer {
    let mut due = offers(world).await;
    assert_eq!(due.len(), 1, "{due:?}");
    due.pop().unwrap()
}

async fn confirm(world: &World, offer: &Offer) {
    let Leased { task, fence, intent, .. } = offer.leased;
    world.store.confirm_offers(vec![(task, fence, intent)]).await.unwrap();
}

async fn start(world: &World, agent: Agent, offer: &Offer) -> Answer<Leased> {
    start_under(world, agent, offer.leased.task, offer.leased.fence).await
}

async fn start_under(world: &World, agent: Agent, task: TaskId, fence: Fence) -> Answer<Leased> {
    let Agent { node, enrolment } = agent;
    world.store.start(vec![Started { node, enrolment, task, fence }]).await.unwrap().pop().unwrap()
}

/// A task that was begun, and of which its agent was not heard again.
async fn lapsed(world: &World, agent: Agent) {
    start(world, agent, &offered(world).await).await.unwrap();
    world.serve(31).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
}

fn dead(offer: &Offer, death: Death) -> Vec<DeadOffer> {
    vec![DeadOffer { task: offer.leased.task, fence: offer.leased.fence, death, signed: true }]
}

fn told(node: NodeId, task: TaskId, ok: bool) -> PlainResult {
    let (result, error) = (json!({"message": "hi"}), json!("it broke"));
    PlainResult { task_id: task, agent_id: node, ok, result, error, undone: false, finished_at: None }
}

async fn settle(world: &World, result: PlainResult) -> Answer<Receipt> {
    settle_as(world, result, None).await
}

async fn settle_as(world: &World, result: PlainResult, user: Option<&str>) -> Answer<Receipt> {
    let user = user.map(str::to_owned);
    world.store.settle_plain(vec![PlainSettle { result, user }]).await.unwrap().pop().unwrap()
}

pub async fn what_is_offered_stays_queued_until_its_agent_begins(world: &mut World) {
    let agent = ours(world, "a").await;
    let task = world.ok(world.echo()).await;
    assert_eq!(world.store.outbox().await.unwrap(), (1, 0));
    let offer = offered(world).await;
    let Leased { fence, intent, .. } = offer.leased;
    assert_eq!((offer.node, offer.leased.task, fence.attempt, intent), (agent.node, task.id, 1, Intent::Run));
    assert_eq!(offer.expires_at, task.queue_deadline);
    confirm(world, &offer).await;
    let shown = world.task(task.id).await;
    assert_eq!((shown.state, shown.fence.attempt), (TaskState::Queued, 0));

    let leased = start(world, agent, &offer).await.unwrap();
    assert_eq!((leased.task, leased.fence, leased.intent), (task.id, fence, Intent::Run));
    let shown = world.task(task.id).await;
    assert_eq!((shown.state, shown.fence), (TaskState::Running, fence));
    assert_eq!(world.store.outbox().await.unwrap(), (0, 0));
    world.succeed(agent, &leased).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Succeeded);
}

pub async fn what_the_broker_has_is_never_offered_again(world: &mut World) {
    ours(world, "a").await;
    world.ok(world.echo()).await;
    let offer = offered(world).await;
    assert!(offers(world).await.is_empty(), "somebody sends it at the moment");
    world.store.return_offers(vec![offer.leased.task]).await.unwrap();
    let again = offered(world).await;
    assert_eq!(again.leased.fence, offer.leased.fence, "its fence is fixed");
    world.advance(31);
    let third = offered(world).await;
    confirm(world, &third).await;
    world.advance(600);
    assert!(offers(world).await.is_empty());
    assert_eq!(world.store.outbox().await.unwrap(), (0, 1));
}

pub async fn a_node_whose_tasks_are_offered_is_handed_none(world: &mut World) {
    let agent = ours(world, "a").await;
    world.ok(world.echo()).await;
    assert!(world.lease(agent, 5).await.is_empty());
    by(world, agent.node, Transport::Poll).await;
    assert!(offers(world).await.is_empty());
    world.lease_one(agent).await;
}

pub async fn what_waits_at_a_node_is_offered_once_its_road_changes(world: &mut World) {
    let agent = world.node("a").await;
    let task = world.ok(world.echo()).await;
    assert!(offers(world).await.is_empty());
    let said = NodeFacts { transport: Some(Transport::Amqp), ..facts() };
    let mut beat = world.heartbeat(agent, &[], true, Vec::new());
    beat.heartbeat.facts = said;
    world.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(offered(world).await.leased.task, task.id);
    assert_eq!(world.store.node(agent.node).await.unwrap().unwrap().transport, Transport::Amqp);
    // Its agent is started anew without the broker.
    let said = NodeFacts { transport: Some(Transport::Poll), ..facts() };
    let heartbeat = world.heartbeat(agent, &[], true, Vec::new()).heartbeat;
    let heartbeat = hostler_model::internal::Heartbeat { facts: said, ..heartbeat };
    let beat = Beat { node: agent.node, enrolment: agent.enrolment, heartbeat };
    world.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(world.lease_one(agent).await.task, task.id);
}

pub async fn a_second_beginning_gets_the_same_lease_and_another_enrolment_none(world: &mut World) {
    let agent = ours(world, "a").await;
    world.ok(world.echo()).await;
    let offer = offered(world).await;
    let first = start(world, agent, &offer).await.unwrap();
    world.advance(10);
    let second = start(world, agent, &offer).await.unwrap();
    assert_eq!((first.fence, first.deadline), (second.fence, second.deadline));
    assert!(second.lease_expires_at > first.lease_expires_at);
    let other = Agent { enrolment: world.id(), ..agent };
    assert_eq!(start(world, other, &offer).await.unwrap_err().code, Code::IdentityMismatch);
    let next = start_under(world, agent, offer.leased.task, offer.leased.fence.next()).await;
    assert_eq!(next.unwrap_err().code, Code::StaleFence);
}

pub async fn a_cancelled_offer_ends_at_once_and_its_agent_is_told_so(world: &mut World) {
    let agent = ours(world, "a").await;
    let task = world.ok(world.echo()).await;
    let offer = offered(world).await;
    confirm(world, &offer).await;
    assert_eq!(world.cancel(task.id).await.unwrap().state, TaskState::Cancelled);
    assert_eq!(start(world, agent, &offer).await.unwrap_err().code, Code::StaleFence);
    assert_eq!(world.task(task.id).await.state, TaskState::Cancelled);
    assert_eq!(world.store.outbox().await.unwrap(), (0, 0));
}

pub async fn an_offer_that_nobody_takes_in_time_ends_and_cannot_be_begun(world: &mut World) {
    let agent = ours(world, "a").await;
    let task = world.ok(world.echo()).await;
    let offer = offered(world).await;
    confirm(world, &offer).await;
    world.advance(15 * 60 + 1);
    world.store.expire_queued().await.unwrap();
    let shown = world.task(task.id).await;
    assert_eq!((shown.state, shown.error.unwrap().code), (TaskState::Failed, Code::DeadlineExceeded));
    assert_eq!(start(world, agent, &offer).await.unwrap_err().code, Code::StaleFence);
}

pub async fn another_attempt_is_another_offer_and_the_old_one_is_over(world: &mut World) {
    let agent = ours(world, "a").await;
    let task = world.ok(world.echo()).await;
    let first = offered(world).await;
    confirm(world, &first).await;
    let leased = start(world, agent, &first).await.unwrap();
    world.end_with(agent, &leased, failed(true, Effects::Undone)).await;
    assert!(offers(world).await.is_empty(), "not before its pause is over");
    world.advance(60);
    let second = offered(world).await;
    assert_eq!((second.leased.task, second.leased.fence), (task.id, first.leased.fence.next()));
    assert_eq!(start(world, agent, &first).await.unwrap_err().code, Code::StaleFence);
    start(world, agent, &second).await.unwrap();
}

pub async fn what_lapsed_is_offered_under_the_next_fence(world: &mut World) {
    let agent = ours(world, "a").await;
    world.ok(world.echo()).await;
    let first = offered(world).await;
    start(world, agent, &first).await.unwrap();
    world.serve(31).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 1);
    world.serve(60).await;
    let second = offered(world).await;
    assert_eq!(second.leased.fence, first.leased.fence.next());
}

pub async fn what_is_to_be_undone_is_offered_as_that(world: &mut World) {
    let agent = ours(world, "a").await;
    let task = world.ok(world.echo()).await;
    lapsed(world, agent).await;
    world.serve(60).await;
    let run = offered(world).await;
    confirm(world, &run).await;
    world.cancel(task.id).await.unwrap();
    let abort = offered(world).await;
    assert_eq!((abort.leased.intent, abort.leased.fence), (Intent::Abort, run.leased.fence));
    confirm(world, &abort).await;
    // Whichever of the two it begins with, it is told to stop.
    let leased = start(world, agent, &run).await.unwrap();
    assert_eq!(leased.intent, Intent::Abort);
    world.end_with(agent, &leased, cancelled(Effects::Undone)).await;
    assert_eq!(world.task(task.id).await.state, TaskState::Cancelled);
}

pub async fn only_one_change_of_a_machine_is_offered_at_a_time(world: &mut World) {
    let agent = ours(world, "a").await;
    let vm = world.ok(world.create("web")).await.target.vm.unwrap();
    let create = offered(world).await;
    let stop = world.ok(world.on_vm(KindName::VmStop, vm)).await;
    assert!(offers(world).await.is_empty());
    let leased = start(world, agent, &create).await.unwrap();
    assert_eq!(leased.epoch, Some(1));
    world.succeed(agent, &leased).await;
    assert_eq!(offered(world).await.leased.task, stop.id);
}

pub async fn a_paused_node_is_offered_nothing_and_begins_nothing(world: &mut World) {
    let agent = ours(world, "a").await;
    world.ok(world.echo()).await;
    let offer = offered(world).await;
    confirm(world, &offer).await;
    world.store.queue_node(agent.node, Queue::Paused, Actor::system()).await.unwrap().unwrap();
    assert_eq!(start(world, agent, &offer).await.unwrap_err().code, Code::NodeStateConflict);
    let mut other = world.echo();
    other.target.node = Some(agent.node);
    drop(world.submit(other).await);
    assert!(offers(world).await.is_empty());
    world.store.queue_node(agent.node, Queue::Open, Actor::system()).await.unwrap().unwrap();
    start(world, agent, &offer).await.unwrap();
}

pub async fn after_a_restore_what_was_offered_before_is_over_and_offered_anew(world: &mut World) {
    let agent = ours(world, "a").await;
    let task = world.ok(world.echo()).await;
    let before = offered(world).await;
    confirm(world, &before).await;
    world.store.restored().await.unwrap();
    world.reopen();
    assert_eq!(start(world, agent, &before).await.unwrap_err().code, Code::StaleFence);
    assert!(offers(world).await.is_empty(), "its node has not said what it has");
    world.beat(agent, Vec::new()).await;
    let after = offered(world).await;
    assert_eq!(after.leased.task, task.id);
    assert!(after.leased.fence > before.leased.fence);
    assert_eq!(start(world, agent, &before).await.unwrap_err().code, Code::StaleFence);
    assert_eq!(start(world, agent, &after).await.unwrap().fence, after.leased.fence);
}

pub async fn an_offer_that_is_rejected_ends_its_task_with_the_reason(world: &mut World) {
    ours(world, "a").await;
    let task = world.ok(world.create("web")).await;
    let offer = offered(world).await;
    confirm(world, &offer).await;
    let stale = DeadOffer { fence: offer.leased.fence.next(), ..dead(&offer, Death::Rejected)[0] };
    assert_eq!(world.store.bury_offers(vec![stale]).await.unwrap(), 0);
    let forged = DeadOffer { signed: false, ..dead(&offer, Death::Rejected)[0] };
    assert_eq!(world.store.bury_offers(vec![forged]).await.unwrap(), 0, "no server signed it");
    assert_eq!(world.store.bury_offers(dead(&offer, Death::Expired)).await.unwrap(), 0, "its deadline ends it");
    assert_eq!(world.store.bury_offers(dead(&offer, Death::Rejected)).await.unwrap(), 1);
    let shown = world.task(task.id).await;
    let error = shown.error.unwrap();
    assert_eq!((shown.state, error.code), (TaskState::Failed, Code::TaskRefused));
    assert!(error.detail.contains("rejected"), "{error:?}");
    assert_eq!(world.book().await.held.room(), hostler_model::Resources::ZERO);
    assert_eq!(world.store.bury_offers(dead(&offer, Death::Rejected)).await.unwrap(), 0);
}

pub async fn an_offer_to_undo_that_is_rejected_is_made_again(world: &mut World) {
    let agent = ours(world, "a").await;
    let task = world.ok(world.echo()).await;
    lapsed(world, agent).await;
    world.cancel(task.id).await.unwrap();
    world.serve(60).await;
    let abort = offered(world).await;
    confirm(world, &abort).await;
    assert_eq!(world.store.bury_offers(dead(&abort, Death::Expired)).await.unwrap(), 1);
    assert!(offers(world).await.is_empty());
    world.advance(31);
    assert_eq!(offered(world).await.leased.fence, abort.leased.fence);
}

pub async fn a_plain_task_has_one_attempt_which_begins_as_it_is_sent(world: &mut World) {
    let node = theirs(world, "p").await;
    let task = world.ok(world.create("web")).await;
    assert_eq!(task.node, Some(node.id));
    let offer = offered(world).await;
    assert_eq!((offer.form, offer.tenant, offer.leased.task), (Transport::Plain, TENANT, task.id));
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
    world.store.return_offers(vec![task.id]).await.unwrap();
    let again = offered(world).await;
    assert_eq!(again.leased.fence, offer.leased.fence, "the same attempt, for the broker may not have it");
    confirm(world, &again).await;
    assert_eq!(world.store.outbox().await.unwrap(), (0, 0));
    // Nobody renews its lease, and it does not lapse.
    world.serve(300).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    world.serve(300).await;
    assert_eq!(world.store.lapse_leases().await.unwrap().changed, 0);
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
    assert_eq!(settle(world, told(node.id, task.id, true)).await, Ok(Receipt::Settled));
    assert_eq!(settle(world, told(node.id, task.id, true)).await, Ok(Receipt::Settled), "a repeat");
    let vm = world.vm(task.target.vm.unwrap()).await;
    assert_eq!((world.task(task.id).await.state, vm.state), (TaskState::Succeeded, VmState::Running));
}

pub async fn a_plain_failure_keeps_its_room_unless_nothing_is_left(world: &mut World) {
    let node = theirs(world, "p").await;
    for (undone, state) in [(false, VmState::Error), (true, VmState::Deleted)] {
        let task = world.ok(world.create(if undone { "a" } else { "b" })).await;
        confirm(world, &offered(world).await).await;
        let before = world.book().await;
        let result = PlainResult { undone, ..told(node.id, task.id, false) };
        assert_eq!(settle(world, result).await, Ok(Receipt::Settled));
        let shown = world.task(task.id).await;
        assert_eq!((shown.state, shown.error.unwrap().detail.as_str()), (TaskState::Failed, "it broke"));
        assert_eq!(world.vm(task.target.vm.unwrap()).await.state, state);
        assert_eq!(world.book().await == before, !undone);
    }
}

pub async fn a_plain_result_in_anothers_name_changes_nothing(world: &mut World) {
    let (plain, other) = (theirs(world, "p").await, theirs(world, "q").await);
    let ours = ours(world, "a").await;
    let mut submission = world.echo();
    submission.target.node = Some(plain.id);
    let task = world.ok(submission).await;
    confirm(world, &offered(world).await).await;
    let mut submission = world.echo();
    submission.target.node = Some(ours.node);
    let signed = world.ok(submission).await;
    for (node, task) in [(other.id, task.id), (ours.node, signed.id), (world.id(), task.id)] {
        assert_eq!(settle(world, told(node, task, true)).await.unwrap_err().code, Code::IdentityMismatch);
    }
    assert_eq!(settle(world, told(plain.id, world.id(), true)).await, Ok(Receipt::Unknown));
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
    assert_eq!(world.task(signed.id).await.state, TaskState::Queued);
}

pub async fn only_a_plain_nodes_own_user_speaks_for_it(world: &mut World) {
    let node = theirs_of(world, "p", Some("p")).await;
    let task = world.ok(world.echo()).await;
    confirm(world, &offered(world).await).await;
    for user in [None, Some("q")] {
        let refused = settle_as(world, told(node.id, task.id, true), user).await.unwrap_err();
        assert_eq!(refused.code, Code::IdentityMismatch);
    }
    assert_eq!(world.task(task.id).await.state, TaskState::Running);
    assert_eq!(settle_as(world, told(node.id, task.id, true), Some("p")).await, Ok(Receipt::Settled));
}

pub async fn what_a_plain_consumer_rejects_was_not_done_and_what_it_died_of_is_unknown(world: &mut World) {
    let node = theirs(world, "p").await;
    let cases = [
        (Death::Rejected, Code::TaskRefused),
        (Death::Expired, Code::OutcomeUnknown),
        (Death::DeliveryLimit, Code::OutcomeUnknown),
    ];
    for (death, code) in cases {
        let mut submission = world.echo();
        submission.target.node = Some(node.id);
        let task = world.ok(submission).await;
        let offer = offered(world).await;
        confirm(world, &offer).await;
        assert_eq!(world.store.bury_offers(dead(&offer, death)).await.unwrap(), 1);
        let shown = world.task(task.id).await;
        assert_eq!((shown.state, shown.error.unwrap().code), (TaskState::Failed, code));
    }
}

pub async fn a_plain_task_that_is_cancelled_ends_by_evidence_only(world: &mut World) {
    let node = theirs(world, "p").await;
    let task = world.ok(world.echo()).await;
    confirm(world, &offered(world).await).await;
    assert_eq!(world.cancel(task.id).await.unwrap().state, TaskState::Aborting);
    assert!(offers(world).await.is_empty(), "there is no way to tell its consumer");
    assert_eq!(settle(world, told(node.id, task.id, true)).await, Ok(Receipt::Settled));
    assert_eq!(world.task(task.id).await.state, TaskState::Succeeded);
}

pub async fn a_plain_nodes_name_is_its_own(world: &mut World) {
    theirs(world, "p").await;
    let (node, enrolment) = (world.id(), world.id());
    let (name, none, origin) = ("p".parse().unwrap(), String::new(), RequestOrigin::default());
    let new = JoinNode { token_hash: none.clone(), key: none, node, name, enrolment, facts: facts(), origin };
    let refusal = world.store.add_plain_node(new, Actor::system()).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::NameTaken);
}
