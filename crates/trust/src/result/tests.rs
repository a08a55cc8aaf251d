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

/// So many results.
fn results(n: u64) -> Vec<Report> {
    let report = |seed| {
        let task: TaskId = Ids::seeded(2 + seed).next(now());
        let end = End::Cancelled { effects: Effects::Undone };
        serde_json::from_value(json!({
            "task": task, "fence": {"store_epoch": 1, "attempt": 2}, "end": end,
            "started_at": now(), "finished_at": now(),
        }))
        .unwrap()
    };
    (0..n).map(report).collect()
}

fn signed(credentials: &Credentials, n: u64) -> Reports {
    NodeSigner::new(credentials).sign(results(n), "hostler").unwrap()
}

fn believed(authority: &Authority, reports: &Reports) -> Result<NodeIdentity, ResultRefusal> {
    let verifier = ResultVerifier::new(authority).unwrap();
    // What is remembered is believed no differently.
    let first = verifier.believe(reports, "hostler", now()).map(|certificate| certificate.identity);
    assert_eq!(verifier.believe(reports, "hostler", now()).map(|certificate| certificate.identity), first);
    first
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
    for n in [1, TOGETHER as u64, TOGETHER as u64 + 1, 100] {
        let reports = signed(&credentials, n);
        assert_eq!(reports.signed.len(), (n as usize).div_ceil(TOGETHER));
        assert_eq!(believed(&authority, &reports), Ok(credentials.identity()));
    }
}

#[test]
fn what_was_changed_on_its_way_is_not() {
    let authority = Authority::create(now()).unwrap();
    let good = signed(&node(&authority), 9);
    let with = |token: String| Reports { signed: vec![token, good.signed[1].clone()], ..good.clone() };
    assert_eq!(believed(&authority, &with(tampered(&good.signed[0], 2))), Err(ResultRefusal::BadSignature));
    for part in [0, 1] {
        assert!(believed(&authority, &with(tampered(&good.signed[0], part))).is_err());
    }
    for bad in ["", "a.b.c", "{}", &good.signed[0][..40]] {
        assert_eq!(believed(&authority, &with(bad.to_owned())), Err(ResultRefusal::Malformed), "{bad}");
    }
    // Another end, another attempt, another task, and fewer or more than were signed.
    let mut other = good.clone();
    other.results[3].end = End::Cancelled { effects: Effects::Remain };
    assert_eq!(believed(&authority, &other), Err(ResultRefusal::NotSigned));
    let mut other = good.clone();
    other.results[3].fence.attempt += 1;
    assert_eq!(believed(&authority, &other), Err(ResultRefusal::NotSigned));
    let mut other = good.clone();
    other.results.swap(0, 1);
    assert_eq!(believed(&authority, &other), Err(ResultRefusal::NotSigned));
    other.results.truncate(8);
    assert_eq!(believed(&authority, &other), Err(ResultRefusal::Malformed));
    for (together, signed) in [(0, good.signed.clone()), (9, good.signed.clone()), (8, Vec::new())] {
        assert_eq!(believed(&authority, &Reports { together, signed, ..good.clone() }), Err(ResultRefusal::Malformed));
    }
}

#[test]
fn another_authoritys_node_an_ended_certificate_and_another_server_are_not() {
    let (ours, theirs) = (Authority::create(now()).unwrap(), Authority::create(now()).unwrap());
    assert_eq!(believed(&ours, &signed(&node(&theirs), 1)), Err(ResultRefusal::BadCertificate));
    let (verifier, reports) = (ResultVerifier::new(&ours).unwrap(), signed(&node(&ours), 1));
    assert_eq!(verifier.believe(&reports, "other", now()).err(), Some(ResultRefusal::WrongAudience));
    let later = now().plus(NODE_VALIDITY + Duration::from_secs(3600));
    assert_eq!(verifier.believe(&reports, "hostler", later).err(), Some(ResultRefusal::BadCertificate));
    let fresh = ResultVerifier::new(&ours).unwrap();
    assert_eq!(fresh.believe(&reports, "hostler", later).err(), Some(ResultRefusal::BadCertificate));
}

#[test]
fn a_certificate_is_no_use_without_its_key() {
    let authority = Authority::create(now()).unwrap();
    let (node, thief) = (node(&authority), node(&authority));
    let mut forger = NodeSigner::new(&thief);
    let whole = NodeSigner::new(&node);
    (forger.header, forger.certificate) = (whole.header, whole.certificate);
    let forged = forger.sign(results(1), "hostler").unwrap();
    assert_eq!(believed(&authority, &forged), Err(ResultRefusal::BadSignature));
    // Nor is a signature good under another certificate of ours.
    let certificate = signed(&node, 1).certificate;
    let other = Reports { certificate, ..signed(&thief, 1) };
    assert_eq!(believed(&authority, &other), Err(ResultRefusal::Malformed));
}

#[test]
fn what_was_kept_is_verified_with_the_authoritys_certificate_alone_and_long_after() {
    let authority = Authority::create(now()).unwrap();
    let key = NodeKey::generate().unwrap();
    let ids = Ids::seeded(1);
    let csr = key.csr("n").unwrap();
    let pem = authority.sign_node(&csr, ids.next(now()), ids.next(now()), now(), NODE_VALIDITY).unwrap();
    let credentials = Credentials::new(&key, &pem, authority.ca_pem()).unwrap();
    let reports = signed(&credentials, 3);
    let said = |report: &Report| proof::said(report.task, report.fence, &report.end);
    let proof = |said| TaskProof { said, signed: reports.signed[0].clone(), certificate_pem: pem.clone() };
    for report in &reports.results {
        assert_eq!(verify(&proof(said(report)), authority.ca_pem()), Ok(credentials.identity()));
    }
    let mut other = said(&reports.results[0]);
    other["effects"] = json!("remain");
    assert_eq!(verify(&proof(other), authority.ca_pem()), Err(ResultRefusal::NotSigned));
    let stranger = Authority::create(now()).unwrap();
    let good = proof(said(&reports.results[0]));
    assert_eq!(verify(&good, stranger.ca_pem()), Err(ResultRefusal::BadCertificate));
}
