//! What placement must do, whatever nodes there are.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::error::Code;

fn candidate(n: u8, state: NodeState, freshness: Freshness, free: i64) -> Candidate {
    Candidate {
        id: NodeId(Uuid::from_u128(u128::from(n))),
        name: format!("node-{n}").parse().unwrap(),
        state,
        freshness,
        revoked: false,
        paused: false,
        facts: NodeFacts { capabilities: vec!["vm.*".into()], ..NodeFacts::default() },
        labels: BTreeMap::new(),
        set_aside: None,
        book: Book { used: Resources { vcpus: 10 - free, ..Resources::ZERO }.into(), ..Book::default() },
        schedulable: Resources { vcpus: 10, memory_mib: 10, disk_gib: 10, vms: 10 },
    }
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (
        prop::sample::select(&NodeState::ALL[..]),
        prop::sample::select(&[Freshness::Fresh, Freshness::Stale, Freshness::Lost][..]),
        0i64..=10,
    );
    prop::collection::vec(one, 0..8).prop_map(|all| {
        all.into_iter().enumerate().map(|(n, (state, fresh, free))| candidate(n as u8, state, fresh, free)).collect()
    })
}

static ANY: BTreeMap<String, String> = BTreeMap::new();
static NO_PORTS: BTreeMap<NodeId, PortTaken> = BTreeMap::new();

fn wanted(vcpus: i64) -> Wanted<'static> {
    let amount = Resources { vcpus, ..Resources::ZERO };
    let (capability, labels, ports) = ("vm.create", &ANY, &NO_PORTS);
    Wanted { waiting: None, amount, capability, image: None, node: None, labels, apart: None, ports }
}

fn place(candidates: &[Candidate], wanted: &Wanted<'_>) -> Result<NodeId, Refusal> {
    let weights = Weights::default();
    fitting(candidates, wanted, &weights, 1).pop().ok_or_else(|| why_none(candidates, wanted, &weights))
}

/// Fresh, ready and empty.
fn empty(n: u8) -> Candidate {
    candidate(n, NodeState::Ready, Freshness::Fresh, 10)
}

proptest! {
    #[test]
    fn the_chosen_node_qualifies_and_a_refusal_explains_every_node(all in candidates(), vcpus in 1i64..12) {
        let fits = |c: &Candidate| c.state == NodeState::Ready && c.freshness == Freshness::Fresh && 10 - c.book.used.vcpus >= vcpus;
        match place(&all, &wanted(vcpus)) {
            Ok(id) => {
                let chosen = all.iter().find(|c| c.id == id).unwrap();
                prop_assert!(fits(chosen));
                let most = all.iter().filter(|c| fits(c)).map(|c| 10 - c.book.used.vcpus).max().unwrap();
                prop_assert_eq!(10 - chosen.book.used.vcpus, most);
            }
            Err(refusal) => {
                prop_assert!(!all.iter().any(fits));
                prop_assert_eq!(refusal.facts["nodes"].as_array().unwrap().len(), all.len());
            }
        }
    }
}

#[test]
fn a_named_node_that_does_not_qualify_is_not_replaced_by_another() {
    let all =
        [candidate(1, NodeState::Ready, Freshness::Fresh, 10), candidate(2, NodeState::Cordoned, Freshness::Fresh, 10)];
    let named = Wanted { node: Some(all[1].id), ..wanted(1) };
    assert_eq!(place(&all, &named).unwrap_err().code, Code::NoCapacity);
}

#[test]
fn an_image_that_is_there_decides_between_equals() {
    let mut all =
        [candidate(1, NodeState::Ready, Freshness::Fresh, 10), candidate(2, NodeState::Ready, Freshness::Fresh, 10)];
    assert_eq!(place(&all, &wanted(1)).unwrap(), all[0].id);
    all[1].facts.images.push("abc".into());
    let digest = ImageDigest("abc".into());
    assert_eq!(place(&all, &Wanted { image: Some(&digest), ..wanted(1) }).unwrap(), all[1].id);
}

#[test]
fn wildcards_cover_what_they_begin() {
    assert!(capable(&["network.*".into()], "network.create"));
    assert!(!capable(&["network.*".into()], "vm.create"));
    assert!(capable(&["vm.create".into()], "vm.create"));
}

#[test]
fn labels_that_are_asked_for_are_had_with_their_values() {
    let mut all = [empty(1), empty(2), empty(3)];
    all[1].labels.insert("zone".into(), "a".into());
    all[2].labels.insert("zone".into(), "b".into());
    let labels = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    let zone_b = Wanted { labels: &labels, ..wanted(1) };
    assert_eq!(place(&all, &zone_b).unwrap(), all[2].id);
    let refusal = place(&all[..2], &zone_b).unwrap_err();
    let why: Vec<&str> = (0..2).map(|n| refusal.facts["nodes"][n]["why"].as_str().unwrap()).collect();
    assert_eq!(why, ["it has no label zone=b", "its label zone is a, not b"]);
    assert_eq!(refusal.facts["nodes"][0]["reasons"], serde_json::json!(["labels"]));
    assert!(refusal.detail.contains("hostler node label"), "{}", refusal.detail);
}

#[test]
fn a_group_shares_no_node() {
    let all = [empty(1), empty(2)];
    let (group, machine): (Name, Name) = ("web".parse().unwrap(), "web-1".parse().unwrap());
    let apart = |taken: &[&Candidate]| {
        let taken = taken.iter().map(|candidate| (candidate.id, machine.clone())).collect();
        Wanted { apart: Some(Apart { group: &group, taken }), ..wanted(1) }
    };
    assert_eq!(place(&all, &apart(&[])).unwrap(), all[0].id);
    assert_eq!(place(&all, &apart(&[&all[0]])).unwrap(), all[1].id);
    let refusal = place(&all, &apart(&[&all[0], &all[1]])).unwrap_err();
    assert_eq!(refusal.facts["nodes"][0]["why"], "web-1 of the group web is there");
}

#[test]
fn every_reason_is_told_and_what_may_be_done_about_it() {
    let all = [candidate(1, NodeState::Cordoned, Freshness::Stale, 0)];
    let refusal = place(&all, &wanted(1)).unwrap_err();
    assert_eq!(refusal.facts["nodes"][0]["reasons"], serde_json::json!(["state", "freshness", "room"]));
    assert!(refusal.detail.ends_with(
        "approve or uncordon a node; see why agents are silent; ask for less, delete something, or add a node"
    ));
}

#[test]
fn what_is_chosen_is_explained_with_scores_the_best_first() {
    let all = [
        candidate(1, NodeState::Ready, Freshness::Fresh, 5),
        empty(2),
        candidate(3, NodeState::Drained, Freshness::Fresh, 9),
    ];
    let choice = explain(&all, &wanted(1), &Weights::default());
    assert_eq!(choice.node.as_ref(), Some(&all[1].name));
    let told: Vec<(&str, Option<f64>)> = choice.nodes.iter().map(|node| (node.node.as_str(), node.score)).collect();
    assert_eq!(told, [("node-2", Some(0.95)), ("node-1", Some(0.7)), ("node-3", None)]);
}

#[test]
fn a_large_fleet_is_explained_in_part_and_says_so() {
    let all: Vec<Candidate> = (0..150).map(|n| candidate(n, NodeState::Ready, Freshness::Fresh, 0)).collect();
    let refusal = place(&all, &wanted(1)).unwrap_err();
    assert_eq!(refusal.facts["nodes"].as_array().unwrap().len(), 100);
    assert_eq!(refusal.facts["nodes_left_out"], 50);
    assert!(refusal.detail.contains("and 142 more"), "{}", refusal.detail);
}

#[test]
fn an_operators_weights_decide() {
    let mut all = [empty(1), empty(2)];
    all[0].book.used = Resources { vcpus: 5, ..Resources::ZERO }.into();
    all[1].book.used = Resources { memory_mib: 5, ..Resources::ZERO }.into();
    assert_eq!(place(&all, &wanted(1)).unwrap(), all[1].id);
    let memory = Weights { vcpus: 0.0, memory: 1.0, disk: 0.0, image: 0.0 };
    assert_eq!(fitting(&all, &wanted(1), &memory, 1), [all[0].id]);
}

#[test]
fn a_weight_that_compares_nothing_is_refused() {
    assert!(Weights::default().check().is_ok());
    for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let refusal = Weights { disk: bad, ..Weights::default() }.check().unwrap_err();
        assert_eq!(refusal.facts["field"], "placement_weight_disk");
    }
}

#[test]
fn what_grows_needs_room_and_nothing_else() {
    let there = candidate(1, NodeState::Draining, Freshness::Stale, 3);
    assert!(grow(&there, &Resources { vcpus: 3, ..Resources::ZERO }).is_ok());
    let refusal = grow(&there, &Resources { vcpus: 4, ..Resources::ZERO }).unwrap_err();
    assert_eq!(refusal.facts["nodes"][0]["why"], "vcpus: 4 asked, 3 free");
}

#[test]
fn a_node_that_is_kept_for_one_that_waits_takes_no_other_machine() {
    let mut all =
        [candidate(1, NodeState::Ready, Freshness::Fresh, 2), candidate(2, NodeState::Ready, Freshness::Fresh, 1)];
    let task = TaskId(Uuid::from_u128(7));
    let large = Wanted { waiting: Some(task), ..wanted(6) };
    let kept = keep(&all, &large, &Weights::default()).unwrap().id;
    assert_eq!(kept, all[0].id, "it has the most left");
    assert_eq!(
        keep(&all, &Wanted { waiting: Some(task), ..wanted(11) }, &Weights::default()),
        None,
        "it would never fit"
    );
    all[0].set_aside = Some(task);
    let machine = |vcpus| Wanted { amount: Resources { vcpus, vms: 1, ..Resources::ZERO }, ..wanted(vcpus) };
    assert_eq!(place(&all, &machine(1)).unwrap(), all[1].id);
    assert_eq!(place(&all, &wanted(2)).unwrap(), all[0].id, "what makes no machine is gone soon");
    let refusal = place(&all, &machine(2)).unwrap_err();
    assert_eq!(refusal.facts["nodes"][0]["reasons"], serde_json::json!(["set_aside"]));
    all[1].book = Book::default();
    assert_eq!(keep(&all, &large, &Weights::default()).unwrap().id, all[0].id, "it stays the one");
    all[0].book = Book::default();
    assert_eq!(place(&all[..1], &large).unwrap(), all[0].id);
    assert_eq!([1, 9, 25].map(most_kept), [1, 1, 2]);
}

#[test]
fn a_node_on_which_a_port_is_taken_is_passed_over_and_says_so() {
    let free = |n, free| candidate(n, NodeState::Ready, Freshness::Fresh, free);
    let all = [free(1, 10), free(2, 8), free(3, 6)];
    let taken = |node: &Candidate| {
        let port = PortTaken { forward: "8080:80".parse().unwrap(), by: "the VM web".to_owned() };
        (node.id, port)
    };
    let fits = |ports: &BTreeMap<NodeId, PortTaken>, many| {
        fitting(&all, &Wanted { ports, ..wanted(1) }, &Weights::default(), many)
    };
    let ids: Vec<NodeId> = all.iter().map(|node| node.id).collect();
    assert_eq!(
        (fits(&NO_PORTS, 1), fits(&NO_PORTS, 2), fits(&NO_PORTS, 9)),
        (ids[..1].to_vec(), ids[..2].to_vec(), ids.clone())
    );
    let ports = BTreeMap::from([taken(&all[0])]);
    assert_eq!((fits(&ports, 1), fits(&ports, 9)), (ids[1..2].to_vec(), ids[1..].to_vec()));
    let every = all.iter().map(taken).collect();
    assert_eq!(fits(&every, 9), []);
    let refusal = place(&all, &Wanted { ports: &every, ..wanted(1) }).unwrap_err();
    assert!(refusal.detail.contains("its port 127.0.0.1:8080/tcp is taken by the VM web"), "{refusal}");
    assert_eq!(refusal.facts["nodes"][0]["reasons"][0], "port");
}
