//! Draining nodes, and removing them.

use hostler_model::{
    Code,
    event::Actor,
    kind::KindName,
    node::{Node, NodeEvent, NodeState, Removal},
    task::TaskState,
    vm::{VmReason, VmState},
};
use hostler_store::{Answer, Force};

use crate::world::{Agent, World};

async fn change(world: &World, agent: Agent, event: NodeEvent) -> Node {
    world.store.change_node(agent.node, event, Actor::system()).await.unwrap().unwrap()
}

async fn state(world: &World, agent: Agent) -> NodeState {
    world.store.node(agent.node).await.unwrap().unwrap().state
}

async fn remove(world: &World, agent: Agent, force: Force) -> Answer<Removal> {
    world.store.remove_node(agent.node, force, false, Actor::system()).await.unwrap()
}

pub async fn a_node_is_drained_when_the_last_that_is_there_is_gone(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.running(agent, "web").await;
    world.advance(5);
    let node = change(world, agent, NodeEvent::Drain).await;
    assert_eq!((node.state, node.state_since), (NodeState::Draining, Some(world.now())));
    world.refused(world.create("other"), Code::NoCapacity).await;
    assert_eq!(world.store.drain_nodes().await.unwrap().changed, 0);
    let (vms, tasks) = world.store.left_on(agent.node).await.unwrap();
    assert_eq!((vms[0].id, vms.len(), tasks.len()), (vm, 1, 0));
    // What is to be done with what it has still reaches it.
    let gone = world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    assert_eq!(world.store.left_on(agent.node).await.unwrap().1[0].id, gone.id);
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let head = world.head().await;
    assert_eq!(world.store.drain_nodes().await.unwrap().changed, 1);
    assert_eq!(world.kinds_after(head).await, ["node.drained"]);
    assert_eq!(state(world, agent).await, NodeState::Drained);
    assert_eq!(world.store.drain_nodes().await.unwrap().changed, 0);
    assert_eq!(change(world, agent, NodeEvent::Drain).await.state, NodeState::Drained, "asked again, nothing changes");
    assert_eq!(change(world, agent, NodeEvent::Uncordon).await.state, NodeState::Ready);
    world.ok(world.create("other")).await;
}

pub async fn what_nobody_has_begun_goes_elsewhere_from_a_node_that_is_drained(world: &mut World) {
    let a = world.node("a").await;
    let begun = world.ok(world.create("begun")).await;
    world.lease_one(a).await;
    let fresh = world.ok(world.create("fresh")).await;
    let mut named = world.create("named");
    named.target.node = Some(a.node);
    let named = world.ok(named).await;
    let b = world.node("b").await;
    let head = world.head().await;
    change(world, a, NodeEvent::Drain).await;
    assert!(world.kinds_after(head).await.contains(&"task.placed".to_owned()));
    let on = async |task: &hostler_model::task::Task| {
        let vm = world.vm(task.target.vm.unwrap()).await;
        assert_eq!(world.task(task.id).await.node, vm.node);
        (vm.node.unwrap(), vm.epoch)
    };
    assert_eq!(on(&begun).await, (a.node, 1), "it may be there already");
    assert_eq!(on(&named).await, (a.node, 1), "somebody wants it there");
    assert_eq!(on(&fresh).await, (b.node, 2), "another placement, another epoch");
    let books = world.store.nodes().await.unwrap();
    assert_eq!(books.iter().map(|node| node.book.held.vms).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(world.lease_one(b).await.task, fresh.id);
    assert_eq!(world.lease_one(a).await.task, named.id);
}

pub async fn what_found_no_other_node_at_first_goes_once_there_is_one(world: &mut World) {
    let a = world.node("a").await;
    let fresh = world.ok(world.create("fresh")).await;
    change(world, a, NodeEvent::Drain).await;
    assert_eq!(world.task(fresh.id).await.node, Some(a.node));
    let b = world.node("b").await;
    assert_eq!(world.store.drain_nodes().await.unwrap().changed, 1);
    assert_eq!(world.task(fresh.id).await.node, Some(b.node));
    world.store.drain_nodes().await.unwrap();
    assert_eq!(state(world, a).await, NodeState::Drained);
}

pub async fn a_node_is_removed_once_it_is_drained_and_may_join_anew(world: &mut World) {
    let agent = world.node("a").await;
    let refusal = remove(world, agent, Force::Yes).await.unwrap_err();
    assert_eq!(refusal.code, Code::NodeStateConflict);
    assert!(refusal.detail.contains("hostler node drain a"), "{}", refusal.detail);
    let vm = world.running(agent, "web").await;
    change(world, agent, NodeEvent::Drain).await;
    let refusal = remove(world, agent, Force::No).await.unwrap_err();
    assert!(refusal.detail.contains("web") && !refusal.detail.contains("node drain"), "{}", refusal.detail);
    world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    let refusal = remove(world, agent, Force::No).await.unwrap_err();
    assert!(refusal.detail.contains("nothing is left"), "{}", refusal.detail);
    world.store.drain_nodes().await.unwrap();
    let (unused, mut wakes) = (world.join_token(Some("a"), true).await, world.store.wakes());
    let head = world.head().await;
    let dry = world.store.remove_node(agent.node, Force::No, true, Actor::system()).await.unwrap().unwrap();
    assert_eq!(world.head().await, head);
    assert_eq!(remove(world, agent, Force::No).await.unwrap(), dry);
    assert_eq!(world.kinds_after(head).await, ["node.removed", "node.remove"]);
    // It is cut off as one that was revoked is, by every server; nor is a token good that was made for it before.
    assert!(std::iter::from_fn(|| wakes.try_recv().ok()).any(|wake| wake.trust));
    assert_eq!(world.store.revoked_nodes().await.unwrap(), [agent.node]);
    let refusal = world.store.join(world.join(&unused, "a", world.id())).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, hostler_model::Code::JoinTokenInvalid);
    assert!(world.store.nodes().await.unwrap().is_empty());
    let beat = world.heartbeat(agent, &[], true, Vec::new());
    let refusal = world.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::NodeNotFound);
    assert_eq!(remove(world, agent, Force::No).await.unwrap_err().code, Code::NodeNotFound);
    let again = world.node("a").await;
    assert_ne!(again.node, agent.node);
}

pub async fn a_node_with_something_left_is_not_removed(world: &mut World) {
    let agent = world.node("a").await;
    world.running(agent, "web").await;
    world.ok(world.echo()).await;
    world.serve(121).await;
    world.store.judge_nodes().await.unwrap();
    let refusal = remove(world, agent, Force::No).await.unwrap_err();
    assert_eq!((refusal.code, refusal.facts["left"]["vms"].clone()), (Code::NodeStateConflict, 1.into()));
    assert!(refusal.detail.contains("web") && refusal.detail.contains("--force"), "{}", refusal.detail);
    assert_eq!(world.store.nodes().await.unwrap().len(), 1);
}

pub async fn a_host_that_is_gone_for_good_goes_with_all_that_was_there(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let on = |name: &str, agent: Agent| {
        let mut create = world.create(name);
        create.target.node = Some(agent.node);
        create
    };
    let making = world.ok(on("making", a)).await;
    world.lease_one(a).await;
    let waits = world.ok(on("waits", a)).await;
    let echo = world
        .ok({
            let mut echo = world.echo();
            echo.target.node = Some(a.node);
            echo
        })
        .await;
    let elsewhere = world.ok(on("elsewhere", b)).await.target.vm.unwrap();
    world.serve(61).await;
    world.store.judge_nodes().await.unwrap();
    let refusal = remove(world, a, Force::Yes).await.unwrap_err();
    assert!(refusal.detail.contains("was heard a moment ago"), "{}", refusal.detail);
    world.serve(60).await;
    world.beat(b, Vec::new()).await;
    world.store.judge_nodes().await.unwrap();
    let removal = remove(world, a, Force::Yes).await.unwrap();
    assert_eq!((removal.vms, removal.tasks), (2, 3));
    for task in [&making, &waits, &echo] {
        let ended = world.task(task.id).await;
        assert_eq!((ended.state, ended.error.unwrap().code), (TaskState::Cancelled, Code::Cancelled));
    }
    let gone = world.vm(making.target.vm.unwrap()).await;
    assert_eq!((gone.state, gone.reason, gone.task), (VmState::Deleted, Some(VmReason::NodeLost), None));
    assert!(gone.detail.unwrap().contains("removed for good"));
    assert_eq!(world.vm(waits.target.vm.unwrap()).await.state, VmState::Deleted);
    assert_eq!(world.vm(elsewhere).await.node, Some(b.node));
    assert_eq!(world.book().await.total().vms, 1, "only what is elsewhere is charged");
    let audit = world.kinds_after(0).await;
    assert!(audit.contains(&"node.remove".to_owned()) && audit.contains(&"task.cancel".to_owned()));
    assert_eq!(world.store.nodes().await.unwrap().len(), 1);
}
