//! Placement: filters and weights under the store's locks, with what else is under way.

use std::collections::{BTreeMap, BTreeSet};

use hostler_model::{
    Code, NodeId, Resources,
    event::Actor,
    kind::KindName,
    node::{Node, NodePatch},
    placement::{Placement, Reason},
};
use hostler_store::{Answer, Store, Submission};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::world::{Agent, World};

/// A create with these words about its place.
fn placed(world: &World, name: &str, placement: Value) -> Submission {
    with(world.create(name), |machine| machine.spec.placement = serde_json::from_value(placement).unwrap())
}

fn with(mut create: Submission, change: impl FnOnce(&mut hostler_store::NewMachine)) -> Submission {
    change(create.vm.as_mut().unwrap());
    create
}

async fn edited(world: &World, agent: Agent, patch: Value, if_match: Option<Vec<u32>>) -> Answer<Node> {
    let patch: NodePatch = serde_json::from_value(patch).unwrap();
    world.store.edit_node(agent.node, patch, if_match, Actor::system()).await.unwrap()
}

pub async fn a_machine_goes_where_the_labels_are_that_it_asks_for(world: &mut World) {
    let (_, b) = (world.node("a").await, world.node("b").await);
    let zone = json!({"labels": {"zone": "north"}});
    let refusal = world.refused(placed(world, "web", zone.clone()), Code::NoCapacity).await;
    assert_eq!(refusal.facts["nodes"].as_array().unwrap().len(), 2, "{refusal:?}");
    assert_eq!(refusal.facts["nodes"][0]["reasons"], json!(["labels"]));
    edited(world, b, zone.clone(), None).await.unwrap();
    for name in ["web-1", "web-2", "web-3"] {
        assert_eq!(world.ok(placed(world, name, zone.clone())).await.node, Some(b.node));
    }
    // A heartbeat says what the agent says, and takes nothing of the operator's away.
    world.beat(b, Vec::new()).await;
    assert_eq!(world.ok(placed(world, "web-4", zone)).await.node, Some(b.node));
}

pub async fn a_named_node_is_taken_as_it_is_or_explained_alone(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let on = |name: &str, agent: Agent| {
        let mut create = world.create(name);
        create.target.node = Some(agent.node);
        create
    };
    for name in ["one", "two"] {
        assert_eq!(world.ok(on(name, a)).await.node, Some(a.node), "however full it is beside the other");
    }
    let large = with(on("large", b), |machine| machine.spec.vcpus = 9);
    let refusal = world.refused(large, Code::NoCapacity).await;
    assert_eq!(refusal.facts["nodes"][0]["node"], "b");
    assert_eq!(refusal.facts["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(refusal.facts["nodes"][0]["why"], "vcpus: 9 asked, 8 free");
}

pub async fn a_group_shares_no_node_whether_it_is_there_under_way_or_in_the_same_batch(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let apart = |name: &str| placed(world, name, json!({"anti_affinity": "web"}));
    let first = world.ok(apart("web-1")).await;
    let batch = world.store.submit(vec![apart("web-2"), apart("web-3"), world.create("other")]).await.unwrap();
    let [Ok(second), Err(refusal), Ok(_)] = &batch[..] else { panic!("{batch:#?}") };
    assert_eq!(BTreeSet::from([first.node, second.task.node]), BTreeSet::from([Some(a.node), Some(b.node)]));
    assert_eq!(refusal.code, Code::NoCapacity);
    assert_eq!(refusal.facts["nodes"][0]["reasons"], json!(["anti_affinity"]));
    assert!(refusal.detail.contains("of the group web is there"), "{}", refusal.detail);
    // Another tenant's group of the same name is another.
    let other = world.tenant("other").await;
    world.image_for(other);
    world.ok(Submission { tenant: other, ..apart("web-4") }).await;
    // What is gone is in no group any more, also within a batch.
    let gone = world.on_vm(KindName::VmDelete, first.target.vm.unwrap());
    let batch = world.store.submit(vec![gone, apart("web-5")]).await.unwrap();
    assert_eq!(batch[1].as_ref().unwrap().task.node, first.node);
}

pub async fn a_dry_run_says_which_node_and_what_speaks_for_and_against_each(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.ok(world.create("there")).await;
    edited(world, b, json!({"labels": {"zone": "north"}}), None).await.unwrap();
    let head = world.head().await;
    let dry = Submission { dry_run: true, ..placed(world, "web", json!({"labels": {"zone": "north"}})) };
    let accepted = world.submit(dry).await.unwrap();
    assert_eq!(accepted.task.node, Some(b.node));
    let choice = accepted.placement.unwrap();
    assert_eq!(choice.node.unwrap().as_str(), "b");
    assert_eq!((choice.nodes[0].node.as_str(), choice.nodes[0].why.as_deref()), ("b", None));
    assert!(choice.nodes[0].score.unwrap() > 0.5);
    assert_eq!(choice.nodes[1].why.as_deref(), Some("it has no label zone=north"));
    assert_eq!(world.head().await, head, "nothing was written");
    assert_ne!(a.node, b.node);
}

pub async fn how_much_may_be_promised_is_a_nodes_own_where_an_operator_says_so(world: &mut World) {
    let agent = world.node("a").await;
    let node = edited(world, agent, json!({"overcommit": {"vcpus_percent": 100}}), None).await.unwrap();
    assert_eq!((node.generation, node.schedulable.vcpus, node.schedulable.memory_mib), (2, 2, 4096));
    let three = with(world.create("large"), |machine| machine.spec.vcpus = 3);
    let refusal = world.refused(three.clone(), Code::NoCapacity).await;
    assert_eq!(refusal.facts["nodes"][0]["why"], "vcpus: 3 asked, 2 free");
    let node = edited(world, agent, json!({"overcommit": null}), Some(vec![2])).await.unwrap();
    assert_eq!(node.schedulable.vcpus, 8);
    let machine = world.running(agent, "web").await;
    // What grows goes by the same rule.
    edited(world, agent, json!({"overcommit": {"vcpus_percent": 100}}), None).await.unwrap();
    let grow = |vcpus: i64| Submission { params: json!({"vcpus": vcpus}), ..world.on_vm(KindName::VmEdit, machine) };
    let refusal = world.store.edit_vm(grow(3)).await.unwrap().unwrap_err();
    assert_eq!((refusal.code, refusal.facts["nodes"][0]["reasons"].clone()), (Code::NoCapacity, json!(["room"])));
    world.store.edit_vm(grow(2)).await.unwrap().unwrap();
}

pub async fn an_edit_of_a_node_is_written_once_and_only_over_what_was_read(world: &mut World) {
    let agent = world.node("a").await;
    let head = world.head().await;
    let patch = json!({"labels": {"zone": "north"}});
    let refusal = edited(world, agent, patch.clone(), Some(vec![7])).await.unwrap_err();
    assert_eq!((refusal.code, refusal.facts["generation"].clone()), (Code::PreconditionFailed, json!(1)));
    assert_eq!(world.head().await, head);
    edited(world, agent, patch.clone(), Some(vec![1])).await.unwrap();
    assert_eq!(world.kinds_after(head).await, ["node.edited", "node.edit"]);
    let head = world.head().await;
    assert_eq!(edited(world, agent, patch, None).await.unwrap().generation, 2);
    assert_eq!(world.head().await, head, "nothing differed");
    let none = Agent { node: world.id(), ..agent };
    assert_eq!(edited(world, none, json!({}), None).await.unwrap_err().code, Code::NodeNotFound);
    // It outlives a rejoin.
    let token = world.join_token(Some("a"), true).await;
    let node = world.store.join(world.join(&token, "a", world.id())).await.unwrap().unwrap();
    assert_eq!((node.generation, node.labels["zone"].as_str()), (2, "north"));
}

/// How many ask at once.
const CROWD: usize = 1000;
/// How many callers they come from.
const CALLERS: usize = 20;

/// Machines of several sizes, asked for by many callers at once; how many were made.
pub async fn crowd(world: &World, stores: &[Store], from: &str) -> usize {
    let creates: Vec<Submission> = (0..CROWD)
        .map(|n| {
            let group = (n % 7 == 0).then(|| format!("group-{}", n % 4).parse().unwrap());
            with(world.create(&format!("{from}-{n}")), |machine| {
                machine.spec.vcpus = 1 + i64::try_from(n % 3).unwrap();
                machine.spec.placement = Placement { labels: BTreeMap::new(), anti_affinity: group };
            })
        })
        .collect();
    let mut callers = JoinSet::new();
    for (piece, store) in creates.chunks(CROWD / CALLERS).zip(stores.iter().cycle()) {
        let (piece, store) = (piece.to_vec(), store.clone());
        callers.spawn(async move {
            let mut asking = JoinSet::new();
            for create in piece {
                let store = store.clone();
                asking.spawn(async move { store.submit(vec![create]).await.unwrap().pop().unwrap() });
            }
            asking.join_all().await
        });
    }
    let answers: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    assert_eq!(answers.len(), CROWD);
    let refused = |answer: &Answer<_>| matches!(answer, Err(refusal) if refusal.code == Code::NoCapacity);
    assert!(answers.iter().all(|answer| answer.is_ok() || refused(answer)));
    answers.iter().filter(|answer| answer.is_ok()).count()
}

/// No node is promised more than it has, the books are what was made, and no group shares a node.
pub async fn is_within_room(world: &World, made: usize) {
    let nodes = world.store.nodes().await.unwrap();
    let mut promised: BTreeMap<NodeId, Resources> = BTreeMap::new();
    let mut groups: BTreeMap<String, Vec<NodeId>> = BTreeMap::new();
    let vms = world.store.vms(hostler_store::VmFilter::default(), None, 10_000).await.unwrap();
    for vm in &vms {
        let sum = promised.entry(vm.node.unwrap()).or_default();
        *sum += vm.spec.charge();
        if let Some(group) = &vm.spec.placement.anti_affinity {
            groups.entry(group.to_string()).or_default().push(vm.node.unwrap());
        }
    }
    assert_eq!(vms.len(), made);
    for node in &nodes {
        let sum = promised.get(&node.id).copied().unwrap_or_default();
        assert_eq!(node.book.total().room(), sum, "{}", node.name);
        for ((what, promised), (_, most)) in sum.each().into_iter().zip(node.schedulable.each()) {
            assert!(promised <= most, "{}: {promised} of {most} {what}", node.name);
        }
        assert!(sum.vcpus > node.schedulable.vcpus - 3, "{} has room for what was refused", node.name);
    }
    for (group, nodes) in groups {
        let apart: BTreeSet<_> = nodes.iter().collect();
        assert_eq!(apart.len(), nodes.len(), "{group}");
    }
}

pub async fn a_thousand_creates_at_once_oversubscribe_no_node(world: &mut World) {
    for name in ["a", "b", "c", "d"] {
        world.node(name).await;
    }
    let made = crowd(world, std::slice::from_ref(&world.store), "vm").await;
    assert!((4 * 3..=4 * 8).contains(&made), "{made}");
    is_within_room(world, made).await;
}

/// A create with a port of its host.
fn publishing(world: &World, name: &str, port: u16) -> Submission {
    let mut create = world.create(name);
    create.vm.as_mut().unwrap().spec.port_forwards = vec![format!("{port}:80").parse().unwrap()];
    create
}

pub async fn a_machine_goes_to_the_next_node_that_has_its_port_free(world: &mut World) {
    let nodes = [world.node("a").await.node, world.node("b").await.node, world.node("c").await.node];
    // The second and the third in one batch, while nobody has begun the first.
    let first = world.ok(publishing(world, "first", 8080)).await.node.unwrap();
    let batch = vec![publishing(world, "second", 8080), publishing(world, "third", 8080)];
    let answers = world.store.submit(batch).await.unwrap();
    let mut there: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().task.node.unwrap()).collect();
    there.push(first);
    there.sort_unstable();
    let mut all = nodes;
    all.sort_unstable();
    assert_eq!(there, all, "each has a node of its own");
    // Where no node has it free, it is said whose it is; a port that is yet to be chosen is in nobody's way.
    let refusal = world.refused(publishing(world, "fourth", 8080), Code::PortTaken).await;
    assert!(refusal.detail.contains("the VM "), "{refusal}");
    let mut named = publishing(world, "fourth", 8080);
    named.target.node = Some(first);
    let refusal = world.refused(named, Code::PortTaken).await;
    assert!(refusal.detail.contains("the VM first"), "{refusal}");
    world.ok(publishing(world, "another", 8081)).await;
    world.ok(publishing(world, "chosen", 0)).await;
    // Beside a node that will not do for another reason, each says why.
    let mut large = publishing(world, "large", 8080);
    large.vm.as_mut().unwrap().spec.vcpus = 64;
    world.refused(large, Code::NoCapacity).await;
    let mut dry = publishing(world, "dry", 8080);
    dry.vm.as_mut().unwrap().wait_for_capacity = true;
    dry.dry_run = true;
    let choice = world.store.submit(vec![dry]).await.unwrap().pop().unwrap().unwrap().placement.unwrap();
    assert_eq!((choice.node, choice.nodes.len()), (None, 3));
    for considered in &choice.nodes {
        assert_eq!(considered.reasons, [Reason::Port], "{considered:?}");
        assert!(considered.why.as_deref().unwrap().contains("127.0.0.1:8080/tcp is taken by"), "{considered:?}");
    }
}
