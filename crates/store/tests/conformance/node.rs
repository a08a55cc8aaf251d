//! Nodes: joining, and what operators do to them.

use hostler_model::{
    Code,
    event::{Actor, RequestOrigin},
    kind::KindName,
    node::{NodeEvent, NodeState},
    task::{Intent, TaskState},
    vm::VmState,
};

use hostler_store::{JoinNode, LogFilter, NodeCertificate};

use crate::world::{Agent, World, seen};

pub async fn a_token_is_good_once(world: &mut World) {
    let token = world.join_token(None, true).await;
    world.store.join(world.join(&token, "a", world.id())).await.unwrap().unwrap();
    let refusal = world.store.join(world.join(&token, "b", world.id())).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::JoinTokenInvalid);
    let refusal = world.store.join(world.join("unknown", "b", world.id())).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::JoinTokenInvalid);
    assert_eq!(world.store.nodes().await.unwrap().len(), 1);
}

pub async fn a_token_expires(world: &mut World) {
    let token = world.join_token(None, true).await;
    assert!(world.store.join_token(token.clone()).await.unwrap().is_some());
    assert_eq!(world.store.join_token("unknown".into()).await.unwrap(), None);
    world.advance(600);
    let refusal = world.store.join(world.join(&token, "a", world.id())).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::JoinTokenInvalid);
}

pub async fn a_token_for_another_name_is_refused(world: &mut World) {
    let token = world.join_token(Some("a"), true).await;
    let refusal = world.store.join(world.join(&token, "b", world.id())).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::JoinTokenInvalid);
    // That did not spend it.
    world.store.join(world.join(&token, "a", world.id())).await.unwrap().unwrap();
}

pub async fn a_node_that_joins_again_keeps_its_id(world: &mut World) {
    let (old, first) = world.joined("a", true).await;
    let vm = world.running(old, "web").await;
    world.advance(10);
    let token = world.join_token(Some("a"), false).await;
    let new = Agent { enrolment: world.id(), ..old };
    let second = world.store.join(world.join(&token, "a", new.enrolment)).await.unwrap().unwrap();
    assert_eq!((second.id, second.created_at), (first.id, first.created_at));
    assert_ne!(old.enrolment, new.enrolment);
    // What an operator decided stays, and so does what is there.
    assert_eq!((second.state, world.vm(vm).await.node), (NodeState::Ready, Some(first.id)));
    assert_eq!(second.book.used.vms, 1);
    let joins =
        world.kinds_after(0).await.into_iter().filter(|kind| kind == "node.joined" || kind == "node.join").count();
    assert_eq!(joins, 4);
    // Its first inventory cannot be judged against heartbeats of the earlier enrolment.
    world.beat(new, Vec::new()).await;
    assert_eq!(world.vm(vm).await.reason, None);
}

pub async fn a_node_waits_for_approval(world: &mut World) {
    let (_, node) = world.joined("a", false).await;
    assert_eq!(node.state, NodeState::Pending);
    world.refused(world.echo(), Code::NoCapacity).await;
    let node = world.store.change_node(node.id, NodeEvent::Approve, Actor::system()).await.unwrap().unwrap();
    assert_eq!(node.state, NodeState::Ready);
    assert_eq!(world.store.node_by_name("a".parse().unwrap()).await.unwrap().unwrap().state, NodeState::Ready);
    world.ok(world.echo()).await;
}

pub async fn a_cordoned_node_gets_tasks_but_no_machines(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    world.store.change_node(agent.node, NodeEvent::Cordon, Actor::system()).await.unwrap().unwrap();
    world.refused(world.create("other"), Code::NoCapacity).await;
    world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    world.lease_one(agent).await;
    let head = world.head().await;
    world.store.change_node(agent.node, NodeEvent::Uncordon, Actor::system()).await.unwrap().unwrap();
    assert_eq!(world.kinds_after(head).await, ["node.ready", "node.uncordon"]);
    world.ok(world.create("other")).await;
}

pub async fn an_event_that_does_not_apply_is_refused(world: &mut World) {
    let (agent, _) = world.joined("a", false).await;
    let refusal = world.store.change_node(agent.node, NodeEvent::Drain, Actor::system()).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::NodeStateConflict);
    let refusal = world.store.change_node(world.id(), NodeEvent::Drain, Actor::system()).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::NodeNotFound);
}

pub async fn only_a_token_with_its_name_takes_a_nodes_place(world: &mut World) {
    let (agent, node) = world.joined("a", true).await;
    for approve in [true, false] {
        let token = world.join_token(None, approve).await;
        let refused = async |name: &str| {
            let refusal = world.store.join(world.join(&token, name, world.id())).await.unwrap().unwrap_err();
            assert_eq!(refusal.code, Code::JoinTokenInvalid);
            assert!(refusal.detail.contains(&format!("hostler node token {name}")), "{}", refusal.detail);
        };
        refused("a").await;
        // The node is who it was, also while it is cordoned, or revoked.
        world.ok(world.echo()).await;
        let leased = world.lease_one(agent).await;
        world.succeed(agent, &leased).await;
        world.store.change_node(node.id, NodeEvent::Cordon, Actor::system()).await.unwrap().unwrap();
        refused("a").await;
        world.store.change_node(node.id, NodeEvent::Uncordon, Actor::system()).await.unwrap().unwrap();
        // The token was not spent, and is good for one new node.
        let new = if approve { "b" } else { "c" };
        let joined = world.store.join(world.join(&token, new, world.id())).await.unwrap().unwrap();
        world.store.revoke_node(joined.id, Actor::system()).await.unwrap().unwrap();
        let another = world.join_token(None, approve).await;
        world.store.join(world.join(&another, new, world.id())).await.unwrap().unwrap_err();
    }
}

pub async fn who_spent_a_token_gets_the_same_answer_once_more(world: &mut World) {
    let token = world.join_token(Some("a"), true).await;
    let lost = world.join(&token, "a", world.id());
    let node = world.store.join(lost.clone()).await.unwrap().unwrap();
    let head = world.head().await;
    // The same host says other ids each time: those of the first time count.
    let again = JoinNode { node: world.id(), enrolment: world.id(), ..lost.clone() };
    assert_eq!(world.store.join(again.clone()).await.unwrap().unwrap(), node);
    assert_eq!(world.head().await, head, "nothing happened once more");
    let other = JoinNode { key: "another".to_owned(), ..lost };
    assert!(world.store.join(other).await.unwrap().unwrap_err().detail.contains("used before"));
    // What was decided meanwhile counts, and so does the time.
    let rejoined = world.joined("a", true).await.1;
    assert_eq!(rejoined.id, node.id);
    assert!(world.store.join(again.clone()).await.unwrap().unwrap_err().detail.contains("used before"));
    world.advance(600);
    assert!(world.store.join(again).await.unwrap().unwrap_err().detail.contains("expired"));
}

pub async fn a_renewal_is_in_the_audit_and_a_node_that_is_gone_renews_nothing(world: &mut World) {
    let agent = world.node("a").await;
    let head = world.head().await;
    let origin = RequestOrigin { request: Some(world.id()), source: Some("192.0.2.7".parse().unwrap()) };
    let certificate = || NodeCertificate { thumbprint: "t".into(), pem: "p".into(), ends_at: world.now() };
    world.store.renew_node(agent.node, agent.enrolment, true, origin, certificate()).await.unwrap().unwrap();
    let entries = world.store.log(LogFilter::default(), head, 9).await.unwrap();
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((entry.kind.as_str(), entry.subject), ("node.renew", agent.node.0));
    let (actor, what) = (&entry.data["actor"], &entry.data["what"]);
    assert_eq!((&actor["source"], &actor["method"]), (&"192.0.2.7".into(), &"certificate".into()));
    assert_eq!(what["late"], true);
    let refused = world.store.renew_node(agent.node, world.id(), false, origin, certificate()).await.unwrap();
    let refusal = refused.unwrap_err();
    assert_eq!(refusal.code, Code::IdentityMismatch);
}

pub async fn a_join_token_is_forgotten_a_day_after_its_time(world: &mut World) {
    let token = world.join_token(None, true).await;
    let why = async || world.store.join(world.join(&token, "a", world.id())).await.unwrap().unwrap_err().detail;
    world.advance(24 * 60 * 60);
    world.store.drop_idempotency_keys().await.unwrap();
    let expired = why().await;
    assert!(expired.contains("expired"), "{expired}");
    world.advance(601);
    assert_eq!(world.store.drop_idempotency_keys().await.unwrap().changed, 1);
    assert_ne!(why().await, expired, "it is not known any more");
    assert_eq!(world.store.drop_idempotency_keys().await.unwrap().changed, 0);
}

pub async fn after_a_restore_a_node_gets_tasks_once_it_has_said_what_it_has(world: &mut World) {
    let agent = world.node("a").await;
    let begun = world.ok(world.echo()).await;
    let before = world.lease_one(agent).await;
    assert_eq!(before.task, begun.id);
    let waiting = world.ok(world.echo()).await;
    world.store.restored().await.unwrap();
    world.reopen();
    assert!(world.lease(agent, 9).await.is_empty());
    let light = world.heartbeat(agent, &[], false, Vec::new());
    world.store.heartbeat(vec![light]).await.unwrap().pop().unwrap().unwrap();
    assert!(world.lease(agent, 9).await.is_empty(), "it has not said all");
    world.beat(agent, Vec::new()).await;
    // What was done under the fence that the store knows counts; nothing is done twice.
    world.succeed(agent, &before).await;
    assert_eq!(world.task(begun.id).await.state, TaskState::Succeeded);
    let after = world.lease_one(agent).await;
    assert_eq!(after.task, waiting.id);
    assert!(after.fence > before.fence && after.fence.store_epoch > before.fence.store_epoch);
    world.succeed(agent, &after).await;
    let first = world.store.restored().await.unwrap();
    assert!(world.store.restored().await.unwrap() > first, "every restore is above those before it");
}

pub async fn after_a_restore_nothing_is_undone_because_time_went_by(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.ok(world.create("web")).await.target.vm.unwrap();
    let before = world.lease_one(agent).await;
    let waits = world.ok(world.create("db")).await;
    // The backup was taken now, and comes back when every deadline is over.
    world.advance(30 * 24 * 60 * 60);
    world.store.restored().await.unwrap();
    world.reopen();
    world.advance(60);
    world.store.expire_queued().await.unwrap();
    world.store.expire_running().await.unwrap();
    world.store.lapse_leases().await.unwrap();
    assert_eq!(world.task(before.task).await.state, TaskState::Queued, "not aborting: it may have been done");
    assert_eq!(world.task(waits.id).await.state, TaskState::Queued);
    world.beat(agent, vec![seen(vm, VmState::Running)]).await;
    let again = world.lease(agent, 9).await;
    assert!(again.iter().any(|leased| leased.task == before.task && leased.intent == Intent::Run), "{again:?}");
}

pub async fn nothing_is_taken_from_a_revoked_node_until_it_joins_anew(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    world.ok(world.on_vm(KindName::VmExec, vm)).await;
    let leased = world.lease_one(agent).await;
    let unused = world.join_token(Some("a"), true).await;
    let node = world.store.revoke_node(agent.node, Actor::system()).await.unwrap().unwrap();
    assert_eq!((node.state, node.revoked_at, node.enrolment), (NodeState::Pending, Some(world.now()), None));
    assert_eq!(world.store.revoked_nodes().await.unwrap(), [agent.node]);
    // A poll, a heartbeat, a result: nothing counts.
    assert_eq!(world.claim(agent, 1, None).await.unwrap_err().code, Code::IdentityMismatch);
    let beat = world.heartbeat(agent, &[&leased], true, Vec::new());
    let refused = world.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap_err();
    assert_eq!(refused.code, Code::IdentityMismatch);
    assert_eq!(world.task(leased.task).await.state, TaskState::Running);
    world.refused(world.create("other"), Code::NoCapacity).await;
    // Nor does a token that was made for it before.
    let refused = world.store.join(world.join(&unused, "a", world.id())).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::JoinTokenInvalid);
    let token = world.join_token(Some("a"), true).await;
    let anew = Agent { enrolment: world.id(), ..agent };
    let node = world.store.join(world.join(&token, "a", anew.enrolment)).await.unwrap().unwrap();
    assert_eq!((node.id, node.state, node.revoked_at), (agent.node, NodeState::Ready, None));
    assert_eq!(world.store.revoked_nodes().await.unwrap(), []);
    assert_eq!(world.claim(agent, 1, None).await.unwrap_err().code, Code::IdentityMismatch, "the old certificate");
}
