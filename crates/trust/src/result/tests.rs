//! Whose word a result is.

use std::time::Duration;

use hostler_model::{
    Ids, TaskId,
    task::{Effects, End},
};
use serde_json::json;

use super::*;
use crate::{NodeKey, ca::NODE_VALIDITY};

fn now() -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000)
}

fn node(authority: &Authority) -> Credentials {
    crate::install_crypto();
    let ids = Ids::seeded(1);
    let key = NodeKey::generate().unwrap();
    let signed =
        authority.sign_node(&key.csr("n").unwrap(), ids.next(now()), ids.next(now()), now(), NODE_VALIDITY).unwrap();
    Credentials::new(&key, &signed, authority.ca_pem()).unwrap()
}

fn report() -> Report {
    let task: TaskId = Ids::seeded(2).next(now());
    let end = End::Cancelled { effects: Effects::Undone };
    serde_json::from_value(json!({
        "task": task, "fence": {"store_epoch": 1, "attempt": 2}, "end": end,
        "started_at": now(), "finished_at": now(),
    }))
    .unwrap()
}

fn tampered(token: &str, part: usize) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let middle = parts[part].len() / 2;
    let other = if parts[part].as_bytes()[middle] == b'A' { "B" } else { "A" };
    parts[part].replace_range(middle..=middle, other);
    parts.join(".")
}

#[test]
fn a_nodes_word_is_believed_as_its_own() {
    let authority = Authority::create(now()).unwrap();
    let credentials = node(&authority);
    let token = NodeSigner::new(&credentials).sign(&report(), "hostler").unwrap();
    assert_eq!(authority.believe(&token, "hostler", now()), Ok((credentials.identity(), report())));
}

#[test]
fn what_was_changed_on_its_way_is_not() {
    let authority = Authority::create(now()).unwrap();
    let token = NodeSigner::new(&node(&authority)).sign(&report(), "hostler").unwrap();
    assert_eq!(authority.believe(&tampered(&token, 2), "hostler", now()), Err(ResultRefusal::BadSignature));
    for part in [0, 1] {
        assert!(authority.believe(&tampered(&token, part), "hostler", now()).is_err());
    }
    for bad in ["", "a.b.c", "{}", &token[..token.len() / 2]] {
        assert_eq!(authority.believe(bad, "hostler", now()), Err(ResultRefusal::Malformed), "{bad}");
    }
}

#[test]
fn another_authoritys_node_an_ended_certificate_and_another_server_are_not() {
    let (ours, theirs) = (Authority::create(now()).unwrap(), Authority::create(now()).unwrap());
    let foreign = NodeSigner::new(&node(&theirs)).sign(&report(), "hostler").unwrap();
    assert_eq!(ours.believe(&foreign, "hostler", now()), Err(ResultRefusal::BadCertificate));
    let token = NodeSigner::new(&node(&ours)).sign(&report(), "hostler").unwrap();
    let later = now().plus(NODE_VALIDITY + Duration::from_secs(3600));
    assert_eq!(ours.believe(&token, "hostler", later), Err(ResultRefusal::BadCertificate));
    assert_eq!(ours.believe(&token, "other", now()), Err(ResultRefusal::WrongAudience));
}

#[test]
fn a_certificate_is_no_use_without_its_key() {
    let authority = Authority::create(now()).unwrap();
    let (node, thief) = (node(&authority), node(&authority));
    let mut forged = NodeSigner::new(&thief);
    forged.header = NodeSigner::new(&node).header;
    let token = forged.sign(&report(), "hostler").unwrap();
    assert_eq!(authority.believe(&token, "hostler", now()), Err(ResultRefusal::BadSignature));
}
